"""A policy behind a server that speaks as Isaac-GR00T's does, and at two rates; `vla.serve` starts it."""
