"""Open loop and closed loop, with baselines and intervals."""
