"""What is said of how images become H.264; imports no codec."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoEncoding:
    """How images become H.264."""

    crf: int = 18
    """x264's constant rate factor: 0 is lossless, 18 hard to tell from the original, 30 small."""
    keyframe_frames: int = 8
    """Frames from one keyframe to the next; a random frame costs at most this many to decode."""
    preset: str = "fast"
    """x264's trade of time for size."""

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf {self.crf}: x264 takes 0 (lossless) to 51 (worst); choose e.g. 18")
        if self.keyframe_frames < 1:
            raise ValueError(f"keyframe_frames {self.keyframe_frames}: must be at least 1 (every frame a keyframe)")
