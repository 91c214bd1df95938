"""What is said of shots, quality and duplicates; imports nothing that looks at images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DuplicateSettings:
    """How alike two clips must be for the later one to be dropped."""

    similarity: float = 0.97
    """Cosine that both halves of the embedding must reach; above 1 nothing is dropped but exact copies."""


@dataclass(frozen=True)
class QualitySettings:
    """Below which a window is dropped."""

    min_side: int = 64
    """Short side of the source in pixels; smaller is too_small."""
    min_luma: float = 16.0
    """Mean luma (0-255); darker is too_dark."""
    min_blur: float = 12.0
    """Variance of the Laplacian of the window's sharper frames at a short side of 192 pixels; below it is blurred."""
    min_change: float = 4.0
    """Luma (0-255) by which the most changed hundredth of the image must change in half a second to be moving."""
    min_moving_share: float = 0.05
    """Share of the window in which something must change, so that a short movement in a long still is kept."""


@dataclass(frozen=True)
class ShotSettings:
    """When two neighbouring frames belong to different shots."""

    ratio: float = 3.0
    """The change must be this many times the mean change of the two frames on either side: a turning head is no cut."""
    change: float = 15.0
    """And at least this large (mean difference of hue, saturation and value, 0-255)."""
    episodes: bool = False
    """Whether episodes of robot datasets, which are one recording each, are searched as well."""
