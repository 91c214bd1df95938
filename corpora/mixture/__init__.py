"""The data pyramid: what is in it, its samples, their order."""
