"""What policies are made of: backbones, the diffusion transformer, heads."""
