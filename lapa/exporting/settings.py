"""What decides the rows of an exported dataset; light enough for a command's help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LatentRows:
    """How latents and clips become rows."""

    fps: int = 0
    """Rows a second, a whole number; 0: the rate at which most of the latents lie, rounded down."""
    vector: Literal["latent", "quantized"] = "latent"
    """What the action is: the latent before quantisation, as GR00T takes it, or the vectors of its codes."""
    state: str = ""
    """Feature of the corpus' ground truth that becomes observation.state; empty: two numbers that are always 0, because most
    trainers ask for a state and people's video has none."""
    min_s: float = 0.5
    """Shorter stretches with latents are left out, seconds."""

    def __post_init__(self) -> None:
        if self.fps < 0:
            raise ValueError(f"fps {self.fps}: must be at least 1, or 0 for the rate of the latents")
        if self.min_s < 0:
            raise ValueError(f"min_s {self.min_s}: must be at least 0 seconds")
