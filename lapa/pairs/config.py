"""What a pair of frames is, whatever model reads it; light enough for a command's help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FLOW_STRIDE = 4
"""Optical flow is kept at 1/4 of the image's resolution."""


@dataclass(frozen=True)
class PairConfig:
    """Two frames a gap apart: how large, how far apart, and what is known of each pair."""

    image_size: int = 64
    """Side of the square images the model sees; height where `image_width` is given."""
    image_width: int = 0
    """Their width where they are not square; 0: as wide as high."""
    crop: bool = False
    """They show the middle of the source's image that has their aspect, instead of all of it stretched."""
    resize: Literal["area", "bilinear", "lanczos", "linear"] = "area"
    """How images are brought to that size. area: OpenCV's; bilinear: as Pillow and torchvision resize images (LAPA);
    lanczos: Pillow's (UniVLA); linear: bilinear without smoothing what shrinks (DreamDojo)."""
    gap_s: tuple[float, ...] = (0.3, 0.5, 0.75, 1.0)
    """Gaps that training samples from, seconds."""
    extract_gap_s: float = 0.5
    """Gap that extraction uses by default, seconds."""
    camera_compensation: bool = True
    """Encoder and decoder see both frames warped half way towards each other by the measured camera motion, what that
    uncovers masked (`lapa.pairs.pair.stabilise`). Pixel targets only."""
    flow: Literal["none", "target", "input"] = "target"
    """Optical flow of the pair: none; target: predicted in training beside the second frame; input: also given to the encoder
    (`change` and `motion` look at it)."""

    def __post_init__(self) -> None:
        if min(self.shape) < FLOW_STRIDE or any(side % FLOW_STRIDE for side in self.shape):
            size = " x ".join(map(str, dict.fromkeys(self.shape)))
            raise ValueError(
                f"image_size {size} is no multiple of {FLOW_STRIDE}, the stride of the flow: choose one that is"
            )
        if not self.gap_s or min(self.gap_s) <= 0 or self.extract_gap_s <= 0:
            raise ValueError(f"gap_s {self.gap_s}, extract_gap_s {self.extract_gap_s}: gaps are positive seconds")

    def expect(self, squared_by: str) -> None:
        """Raises ValueError for a corpus whose frames were made square so that what they are to show is gone."""
        if self.crop and squared_by == "crop":
            raise ValueError(
                "this corpus holds the middle squares of its videos, and the model is shown the middle in another aspect: ingest "
                "them again with --fit stretch"
            )

    @property
    def preprocessing(self) -> str:
        """What a model is shown, in words."""
        height, width = self.shape
        what = "the middle of the source's image" if self.crop else "the whole image"
        camera = ", the camera's motion compensated" if self.camera_compensation else ""
        return f"RGB in [0, 1], {what} resized to {height} x {width} ({self.resize}){camera}"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.image_size, self.image_width or self.image_size


@dataclass(frozen=True)
class LabelSpec:
    """Which known feature the few-label head may see, and of which clips."""

    feature: str = ""
    """Name in the corpus' ground truth, for instance observation.state; empty for no labels."""
    dims: tuple[int, ...] = ()
    """Dimensions of the feature; empty for all."""
    share: float = 0.025
    """Share of the source videos (episodes) whose labels are seen (LAOM: 2.5%)."""
    embodiment: str = ""
    """Of which alone labels are seen, as the manifest names it (the robot's, beside people's video); empty: of all."""
