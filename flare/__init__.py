"""Future latent representation alignment (FLARE): target embeddings, the objective, and what watches it."""
