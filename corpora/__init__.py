"""Video corpora: sources in, clean clips and shards out; readers, camera motion, simulation."""
