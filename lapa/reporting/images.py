"""What the report's page shows beside its figures; frames are uint8 [S, S, 3] RGB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lapa.reporting.atlas import Atlas

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
