"""The corpus on disk: manifest, shards, clips."""
