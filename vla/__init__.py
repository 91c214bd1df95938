"""The policy: a vision-language backbone (System 2) and a flow-matching diffusion transformer (System 1)."""
