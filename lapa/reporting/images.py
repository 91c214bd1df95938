"""What the report's page shows beside its figures; frames are uint8 [H, W, 3] RGB, in the videos' own aspect."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lapa.reporting.atlas import Atlas
from lapa.reporting.latent_map import LatentMap

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class TransferStrip:
    """A latent taken from one pair and decoded on another video's frame."""

    source: str
    """Where the latent is from."""
    target: str
    """Where it is decoded."""
    across: bool
    """Between embodiments."""
    taken_from: tuple[Frame, Frame]
    """First and second frame of the pair that the latent is from."""
    onto: Frame
    quantized: Frame
    """The second frame predicted from the code."""
    continuous: Frame
    """The same from the latent before quantisation."""


@dataclass(frozen=True)
class Video:
    """A whole clip, small, without sound."""

    mp4: bytes
    """H.264."""
    start_s: float
    """Time of its first frame in the source."""
    width: int
    height: int


@dataclass(frozen=True)
class Images:
    """All of them."""

    atlas: Atlas
    frames: dict[int, list[Frame]]
    """Row of the sample -> first and second frame."""
    labels: dict[int, str]
    """Row of the sample -> where it is from."""
    reconstructions: list[list[Frame]]
    """First, second, predicted from the code, from the continuous latent, from a random code."""
    cuts: list[list[Frame]]
    """First, second, predicted, across cuts."""
    transfers: list[TransferStrip]
    map: LatentMap
    point_labels: list[str]
    """Of each point of the map: where it is from."""
    starts_s: list[float]
    """Of each point: the time of its first frame in the source."""
    gaps_s: list[float]
    videos: dict[str, Video]
    """By clip; not of all of the map's clips where that is too much for a page."""

    def lighter(self, by: int) -> Images:
        """With videos left out until the page is so many bytes lighter, those of the last drawn clips first."""
        kept, saved = dict(self.videos), 0
        for clip in reversed(self.map.clips):
            if saved >= by:
                break
            if (video := kept.pop(clip, None)) is not None:
                saved += 4 * (len(video.mp4) // 3)
        return replace(self, videos=kept)
