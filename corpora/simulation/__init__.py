"""Meta-World: video whose actions are known (extra `sim`)."""
