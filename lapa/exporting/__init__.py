"""Latents as datasets that other people's trainers read."""
