"""The latent action model: encoder, quantisers, decoder."""
