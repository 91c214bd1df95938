"""From a mixture to batches of a policy."""
