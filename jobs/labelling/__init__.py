"""What tells the actions of clips that have none: an inverse dynamics model, or tracks."""
