"""Latent actions: the model, its quantisers, its training, and the report card that says whether to trust it."""
