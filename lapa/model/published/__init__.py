"""Latent action models that others published: their checkpoints, read as models of giza. One file a model."""
