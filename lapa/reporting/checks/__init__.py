"""What the decoder says of the latents."""
