"""Where video comes from; one file a kind."""
