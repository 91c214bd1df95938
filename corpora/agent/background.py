"""What lies behind the agent: what was seen there before, where the camera's motion since then is known, else a guess.

Frame by frame and from the past alone, so that a robot that acts sees what it was trained on, and no frame shows what comes
after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.video.camera import TrackedFrame, measure_tracked, warp_image

_LAYERS = 32
"""Views of a camera that moves that are remembered; of more, every second of the older ones is forgotten."""
_RECENT = 8
_RADIUS_PX = 3
"""Of Telea's inpainting."""
_SAME = 24
"""Pixels that differ by less (0-255, in each channel) look the same."""
_AROUND = 0.08
"""Of the image's side: how wide a ring about the agent must look as it is remembered, in more than half of its pixels."""
_SPILL = 0.01
"""Of the image's side: so near to the agent nothing is learnt, for a codec spreads its colours."""
_SAME_SHARE = 0.3
"""What a frame without a mask shows behind the agent is not believed where more of it than this looks as the agent does."""


@dataclass
class _Layer:
    """What one camera position has shown so far."""

    image: NDArray[np.uint8]
    known: NDArray[np.bool_]
    unsure: NDArray[np.bool_]
    """Of the known, what was seen when no agent was found: it had gone, or was lost."""
    h: NDArray[np.float64]
    """From there to the present frame, normalised as in corpora.video.camera."""

    def from_here(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
        """Image, known and unsure from where the camera is now; known where all that a pixel is made of is."""
        if np.array_equal(self.h, np.eye(3)):
            return self.image, self.known, self.unsure
        image, inside = warp_image(self.image, self.h)
        flags = np.stack([self.known, self.unsure, self.unsure], 2).astype(np.uint8) * 255
        warped, _ = warp_image(flags, self.h)
        return image, inside & (warped[..., 0] == 255), warped[..., 1] > 0


@dataclass(frozen=True)
class Filled:
    """An image without its agent."""

    image: NDArray[np.uint8]
    before: NDArray[np.bool_]
    """Where it is what was seen before; what else was hidden is inpainted."""


class Background:
    """Fed with the frames of one video in their order."""

    def __init__(self, remember: bool = True) -> None:
        """`remember`: else all is inpainted."""
        self._remember = remember
        self._layers: list[_Layer] = []  # the newest first
        self._last: TrackedFrame | None = None

    def fill(self, image: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> Filled:
        """`image` (uint8 [S, S, 3]) with what lies behind the pixels `hidden` (bool [S, S]); the others stay as they are."""
        if self._remember:
            self._move(image, hidden)
        filled, left, ring = image.copy(), hidden.copy(), _wider(hidden, _AROUND) & ~hidden
        for layer in self._layers:
            if not left.any():
                break
            there, known, unsure = layer.from_here()
            if not _fits(there, image, known & ring):
                continue
            known = known & left
            if (doubted := known & unsure).any():
                same = (np.abs(there[doubted].astype(np.int16) - image[doubted]) < _SAME).all(1)
                if same.mean() > _SAME_SHARE:
                    known &= ~doubted
            filled[known] = there[known]
            left &= ~known
        before = hidden & ~left
        if left.all():
            filled[:] = 127  # nothing to go by
        elif left.any():
            filled = np.asarray(cv2.inpaint(filled, left.astype(np.uint8), _RADIUS_PX, cv2.INPAINT_TELEA), np.uint8)
        if self._remember:
            self._learn(image, _wider(hidden, _SPILL))
        return Filled(filled, before)

    def _move(self, image: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> None:
        """Takes the layers to where the camera is now; forgets them where that is not known, unless all looks as it did: before
        a plain wall there is nothing to follow, and nothing that could be out of place."""
        frame = TrackedFrame(image, hidden)
        if self._last is not None:
            motion = measure_tracked(self._last, frame)
            if not motion.ok:
                self._layers = self._layers if _as_it_was(self._last, frame) else []
            elif not np.array_equal(motion.h, np.eye(3)):
                for layer in self._layers:
                    h = motion.h @ layer.h
                    layer.h = h / h[2, 2]
        self._last = frame

    def _learn(self, image: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> None:
        seen, found = ~hidden, bool(hidden.any())
        newest = self._layers[0] if self._layers else None
        if newest is None or not np.array_equal(newest.h, np.eye(3)):
            self._layers.insert(0, _Layer(image.copy(), seen, seen & (not found), np.eye(3)))
            if len(self._layers) > _LAYERS:
                del self._layers[_RECENT::2]
            return
        learnt = seen if found else ~newest.known | newest.unsure  # what is sure is not given for what is not
        newest.image[learnt] = image[learnt]
        newest.unsure = newest.unsure & hidden if found else learnt
        newest.known = newest.known | seen


def _as_it_was(last: TrackedFrame, now: TrackedFrame) -> bool:
    assert last.hidden is not None and now.hidden is not None
    seen = ~(last.hidden | now.hidden)
    off = np.abs(last.gray.astype(np.int16) - now.gray)[seen]
    return bool(off.size) and float(np.quantile(off, 0.95)) < _SAME / 2


def _wider(hidden: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    side = 2 * max(1, round(share * min(hidden.shape))) + 1
    return np.asarray(cv2.dilate(hidden.astype(np.uint8), np.ones((side, side), np.uint8)), bool)


def _fits(there: NDArray[np.uint8], image: NDArray[np.uint8], ring: NDArray[np.bool_]) -> bool:
    """Whether what is remembered about the agent is what is seen there: the camera's motion was the true one."""
    if not ring.any():
        return True
    off = np.abs(there[ring].astype(np.int16) - image[ring]).mean(1)
    return float(np.median(off)) < _SAME
