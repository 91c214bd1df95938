"""What a file of latents does not say of itself; light enough for a command's help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ForeignSettings:
    """What is known of latents from elsewhere beside their file."""

    format: str = ""
    """parquet, npz, jsonl, lapa-jsonl or lerobot; by default the one that the file looks like."""
    gap_s: float = 0.0
    """Seconds from a pair's first frame to its second, where the rows have no gap_s; LAPA's is its window_size / fps."""
    fps: float = 0.0
    """Frames a second of the numbered images that LAPA's rows name."""
    codebook_size: int = 0
    """Codes to choose from at each position; 0: 8 for LAPA's, else as many as the largest code asks for."""
    dataset: str = ""
    """Of a LeRobot dataset whose episodes are in a corpus of several datasets: which one, as the corpus names it."""
    camera: str = ""
    """Of a LeRobot dataset whose episodes are in the corpus as several cameras saw them: which one."""
    column: str = "action"
    """Of a LeRobot dataset: the feature that holds the latent."""

    def __post_init__(self) -> None:
        for name in ("gap_s", "fps", "codebook_size"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"foreign.{name} {value}: must be above 0, or 0 for what the file says")
