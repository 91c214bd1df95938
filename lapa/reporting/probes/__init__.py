"""What a linear read-out finds in latents, beside trivial baselines."""
