"""Pairs of frames a gap apart, in seconds; what the model is fed for each of them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Clip
from corpora.video.camera import meet_halfway, warp_picture
from lapa.model.config import LamConfig
from lapa.pairs.flow import pair_flow
from lapa.pairs.pair_camera import camera_of_pairs

STABILISED = 3
"""Raised when `stabilise` would give other pictures: 1 warped the first frame the whole way, 2 both half way, 3 only where that
makes them more alike."""
_MOVED = 24.0
"""Difference of a pixel, of 255, above which it shows what moved of itself, not the camera."""


def pair_indices(
    t_s: NDArray[np.float64], gap_s: float, *, tolerance: float = 0.1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (first, second), int64 [P] each, of the frames of one clip that lie `gap_s` seconds apart.

    The second frame is the one nearest to t + gap_s. A pair is left out where that is off by more than `tolerance` of the
    gap and by more than half a frame interval, where the clip has ended before (its last frame never stands in for a later
    one), or where both are the same frame. Raises ValueError for a gap that is not positive.
    """
    if gap_s <= 0:
        raise ValueError(f"gap_s {gap_s}: a gap is a positive number of seconds")
    t_s = np.asarray(t_s, np.float64)
    if len(t_s) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    wanted = t_s + gap_s
    right = np.searchsorted(t_s, wanted).clip(1, len(t_s) - 1)
    # the epsilon makes a tie (two frames equally near) fall on the later one whatever the rounding
    second = np.where(t_s[right] - wanted <= wanted - t_s[right - 1] + 1e-6, right, right - 1)
    half_interval = 0.5 * float(np.median(np.diff(t_s)))
    allowed = max(tolerance * gap_s, half_interval) + 1e-6
    first = np.arange(len(t_s))
    ended = wanted > t_s[-1] + half_interval + 1e-6
    good = (np.abs(t_s[second] - wanted) <= allowed) & (second > first) & ~ended
    return first[good], second[good]


@dataclass(frozen=True)
class ClipPairs:
    """The pairs of one clip at one gap."""

    first: NDArray[np.int64]
    """[P], indices of frames within the clip."""
    second: NDArray[np.int64]
    """[P]."""
    h: NDArray[np.float32]
    """[P, 3, 3] camera motion, first to second, normalised coordinates; the identity where it is unknown."""
    inlier_ratio: NDArray[np.float32]
    """[P]; 0 where the camera's motion is unknown."""


def clip_pairs(clip: Clip, gap_s: float) -> ClipPairs:
    """Pairs of `clip` at `gap_s` with the camera's motion (see `camera_of_pairs`)."""
    first, second = pair_indices(clip.t_s, gap_s)
    h, ratio = camera_of_pairs(clip.camera, dict(enumerate(clip.frames)), first, second)
    return ClipPairs(first, second, h, ratio)


def resize_frames(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """[T, H, W, 3] -> [T, size, size, 3], by area."""
    if frames.shape[1:3] == (size, size):
        return frames
    return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in frames])


def stabilise(
    first: NDArray[np.uint8], second: NDArray[np.uint8], h: NDArray[np.floating], *, compensate: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """Both frames [S, S, 3] as one camera half way between theirs would see them, and where both are known [S, S];
    unchanged without compensation, and where the measured motion makes the two no more alike than no motion does: it is
    then that of something that moved before a camera that stood still.

    Half way each, not one the whole way: the view is then nearer to where a head that sways looks on average, so what is
    seen depends less on where it looked at one moment, and both frames are equally blurred by the warp.
    """
    if not compensate or np.array_equal(h, np.eye(3)):
        return first, second, np.ones(first.shape[:2], bool)
    first_to_middle, second_to_middle = meet_halfway(h)
    before, first_known = warp_picture(first, first_to_middle)
    after, second_known = warp_picture(second, second_to_middle)
    known = first_known & second_known
    if not known.any() or _difference(before, after, known) >= _difference(first, second, known):
        return first, second, np.ones(first.shape[:2], bool)
    return before, after, known


def _difference(first: NDArray[np.uint8], second: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Mean absolute difference, of 255, of the pixels `where`; what moved of itself counts as `_MOVED` at most."""
    difference = np.abs(first.astype(np.int16) - second).mean(-1)
    return float(np.minimum(difference, _MOVED)[where].mean())


@dataclass(frozen=True)
class PairInput:
    """What the model is fed for one pair, as `LamConfig` wants it."""

    first: NDArray[np.uint8]
    """[S, S, 3], stabilised where the camera is compensated."""
    second: NDArray[np.uint8]
    """[S, S, 3], likewise."""
    valid: NDArray[np.bool_]
    """[S, S]: where both stabilised frames are known."""
    flow: NDArray[np.float32] | None
    """[2, S/4, S/4] per cent of the picture, or None where the model has no use for it."""


def pair_input(
    config: LamConfig,
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    h: NDArray[np.floating],
    *,
    training: bool = False,
) -> PairInput:
    """Input of the pair of frames [S, S, 3] whose camera moved by `h`; in training flow is a target as well."""
    before, after, valid = stabilise(first, second, h, compensate=config.pair.camera_compensation)
    wants_flow = config.pair.flow == "input" or (training and config.pair.flow == "target")
    return PairInput(before, after, valid, pair_flow(before, after) if wants_flow else None)


def truth_change(
    truth: dict[str, NDArray[Any]], feature: str, from_s: NDArray[np.float64], to_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Change of a known feature between two times, [P, D], linearly interpolated in the truth's own times.

    Raises ValueError where the feature is unknown.
    """
    if feature not in truth:
        raise ValueError(f"no ground truth '{feature}': known are {sorted(set(truth) - {'t_s'})}")
    times, values = truth["t_s"], np.asarray(truth[feature], np.float64)
    columns = [np.interp(to_s, times, v) - np.interp(from_s, times, v) for v in values.T]
    return np.stack(columns, 1)


def chosen_share(key: str, share: float, seed: int) -> bool:
    """Whether `key` is among the `share` of keys that a seed chooses: the same on every machine, whatever the other keys."""
    return zlib.crc32(f"{seed}:{key}".encode()) / 2**32 < share
