"""The mask of a person's hands in a frame, from their landmarks: a class for each way, known by its name.

A way of one's own is a class too:

    @register
    class Mine(HandMask):
        name = "mine"
        ...                                          # giza track --mask mine
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from corpora.agent.forearm import hand_shape, with_forearm
from corpora.agent.settings import TrackSettings
from corpora.store.unread import expect_read


class HandMask(ABC):
    """A way to make masks."""

    name: ClassVar[str]
    reads: ClassVar[frozenset[str] | None] = None
    """Names of the settings that it reads, those of the hands' tracks among them; None: all."""

    @abstractmethod
    def __init__(self, settings: TrackSettings) -> None:
        """Raises ValueError where the settings, or this machine, lack what it needs."""

    @property
    def identity(self) -> str:
        """Changes with whatever changes the masks, beside its name."""
        return ""

    @abstractmethod
    def __call__(self, rgb: NDArray[np.uint8], hands: Sequence[NDArray[np.floating]]) -> NDArray[np.bool_]:
        """bool [H, W]: of all hands of an image uint8 [H, W, 3], whose landmarks are [21, 2] each (x, y), those of MediaPipe."""


_Mask = TypeVar("_Mask", bound=type[HandMask])
MASKS: dict[str, type[HandMask]] = {}
OF_HANDS = frozenset({"source", "hand", "min_confidence", "bridge_s"})
"""Settings that are read however masks are made."""


def register(mask: _Mask) -> _Mask:
    """Makes a way known by its name; registered again it takes the place of its older self."""
    MASKS[mask.name] = mask
    return mask


def open_mask(settings: TrackSettings) -> HandMask:
    """Raises ValueError for a name that none has, for settings that this one does not read, and as its constructor."""
    if settings.mask not in MASKS:
        raise ValueError(f"--mask '{settings.mask}': must be one of {', '.join(sorted(MASKS))}")
    expect_read(settings, "mask", MASKS)
    return MASKS[settings.mask](settings)


@register
class HandAlone(HandMask):
    """As the landmarks have it."""

    name, reads = "hand", OF_HANDS

    def __init__(self, settings: TrackSettings) -> None:
        """Needs nothing."""

    def __call__(self, rgb: NDArray[np.uint8], hands: Sequence[NDArray[np.floating]]) -> NDArray[np.bool_]:
        return np.logical_or.reduce([hand_shape(hand, rgb.shape[:2]) for hand in hands])


@register
class ByColour(HandMask):
    """See corpora.agent.forearm."""

    name, reads = "grabcut", OF_HANDS

    def __init__(self, settings: TrackSettings) -> None:
        """Needs nothing."""

    @property
    def identity(self) -> str:
        return "2"  # raised when the same frame would have another mask

    def __call__(self, rgb: NDArray[np.uint8], hands: Sequence[NDArray[np.floating]]) -> NDArray[np.bool_]:
        return np.logical_or.reduce([with_forearm(rgb, hand) for hand in hands])
