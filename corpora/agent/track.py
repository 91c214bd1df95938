"""Where the agent of a video is, frame by frame: its mask, and the point that means the same on every body."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SHAPES: dict[str, tuple[int, ...]] = {
    "point_px": (2,),
    "confidence": (),
    "depth_m": (),
    "position_m": (3,),
    "turn_xyzw": (4,),
    "opening": (),
}
"""Of what a track says of one moment, beside the mask."""

Progress = Callable[[int, int, str], None]
"""Called with (clips, episodes or files done, how many in all, what to say)."""


class Untracked(Exception):
    """The agent of a clip is not known. `reason`: a word with underscores, `detail`: what was the matter."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Track:
    """Of T frames of S x S pixels, or of a whole video's H x W."""

    mask: NDArray[np.bool_]
    """[T, S, S]: the agent's pixels; none where it is not in the image, or was not found."""
    point_px: NDArray[np.float32]
    """[T, 2], x (right) and y (down), centres of pixels at whole numbers: between the tips of thumb and index finger, or of
    a gripper. NaN where it is not known; it may lie outside of the image."""
    confidence: NDArray[np.float32]
    """[T], from 0 (nothing is known) to 1 (nothing was estimated)."""
    depth_m: NDArray[np.float32]
    """[T]: the point's distance from the camera along its axis, metres; NaN where it is not known."""
    position_m: NDArray[np.float32]
    """[T, 3]: the point in the space that the robot's actions are in, metres; NaN where it is not known."""
    turn_xyzw: NDArray[np.float32]
    """[T, 4], quaternion: how the hand is turned in that space, as if it were the robot's tool; NaN where it is not known."""
    opening: NDArray[np.float32]
    """[T]: how far thumb and index finger are apart, more where more, in any unit that is the same in all of a corpus; NaN
    where it is not known."""

    def __post_init__(self) -> None:
        count = len(self.mask)
        for name, shape in SHAPES.items():
            if (found := getattr(self, name).shape) != (count, *shape):
                raise ValueError(f"{name} {list(found)}: must be {[count, *shape]}, as the mask has {count} frames")

    @property
    def seen(self) -> NDArray[np.bool_]:
        """[T]: both its pixels and its point are known."""
        return np.asarray(self.mask.any((1, 2)) & np.isfinite(self.point_px).all(1))

    def frames(self, rows: slice | NDArray[np.int64]) -> Track:
        """Of some of the frames."""
        return Track(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    def resized(self, size: int) -> Track:
        """Of the same frames at `size` x `size` pixels."""
        if (before := self.mask.shape[1]) == size:
            return self
        masks = [resize_mask(mask, size, size) for mask in self.mask]
        points = (self.point_px + 0.5) * (size / before) - 0.5
        return dataclasses.replace(self, mask=np.stack(masks), point_px=points.astype(np.float32))


def known_track(
    mask: NDArray[np.bool_],
    point_px: NDArray[np.floating],
    confidence: NDArray[np.floating] | None = None,
    **known: NDArray[np.floating],
) -> Track:
    """A track of which no more is known than what is given (`known`: others of SHAPES, by name); without a confidence, all of
    that for sure."""
    count = len(mask)
    point = np.asarray(point_px, np.float32)
    if confidence is None:
        confidence = np.asarray(mask.any((1, 2)) | np.isfinite(point).all(1), np.float32)
    rest = {name: shape for name, shape in SHAPES.items() if name not in ("point_px", "confidence")}
    given = {name: known.get(name, np.full((count, *shape), np.nan)) for name, shape in rest.items()}
    return Track(
        np.asarray(mask, bool),
        point,
        np.asarray(confidence, np.float32),
        **{name: np.asarray(values, np.float32) for name, values in given.items()},
    )


def resize_mask(mask: NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
    """bool [H, W] -> [height, width]: the pixels that are covered by half or more."""
    if mask.shape == (height, width):
        return mask
    shrinks = height < mask.shape[0]
    soft = cv2.resize(
        mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.asarray(soft >= 0.5)
