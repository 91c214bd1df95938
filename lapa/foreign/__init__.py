"""Latents that other trainers wrote: a file a format, and how their rows find the pairs of a corpus."""
