"""Pairs of frames a gap apart, in seconds: which frames, how the camera moved between them, the two as one camera sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpora.clips.corpus import Clip
from corpora.clips.manifest import ClipRow
from corpora.video.camera import TrackedFrame, measure_tracked, meet_halfway, warp_image
from corpora.video.nearest import nearest_rows
from lapa.pairs.config import PairConfig

STABILISED = 3
"""Raised when `stabilise` would give other images: 1 warped the first frame the whole way, 2 both half way, 3 only where that
makes them more alike."""
STILL_SHIFT = 0.008
"""Corners that move less than this (of half the picture: half a pixel at 128) in nearly all measured pairs: a still camera."""
_MOVED = 24.0
"""Difference of a pixel, of 255, above which it shows what moved of itself, not the camera."""


def frames_at(
    clip: Clip, t_s: NDArray[np.floating], gap_s: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames (first, second), int64 [P] each, of the pairs that begin at `t_s` [P] and are `gap_s` [P] long.

    Raises ValueError where a time is no frame's: what has these times and the clip do not belong together.
    """
    step = float(np.median(np.diff(clip.t_s))) if len(clip.t_s) > 1 else 0.0
    rows, near = nearest_rows(clip.t_s, np.concatenate([t_s, t_s + gap_s]), 0.25 * step + 1e-3)
    if not near.all():
        raise ValueError(
            f"clip {clip.row.clip_id} has no frame at some of its latents' times: the corpus was made again since; "
            "extract the latents again with giza extract"
        )
    return rows[: len(t_s)], rows[len(t_s) :]


def camera_of_pairs(
    camera: Mapping[str, NDArray[Any]],
    frames: Mapping[int, NDArray[np.uint8]],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(h [P, 3, 3], inlier ratio [P]) of the pairs (first, second), int64 [P] each: as ingest stored them where it measured
    the same pair, the identity where the camera stands still throughout, measured here otherwise.

    `camera` is what the clip stores; `frames` maps a frame's index to uint8 [H, W, 3]. Identity and 0 where unknown.
    """
    stored = {pair: k for k, pair in enumerate(zip(camera["first"].tolist(), camera["second"].tolist(), strict=True))}
    still = is_still(camera)
    h = np.tile(np.eye(3, dtype=np.float32), (len(first), 1, 1))
    ratio = np.zeros(len(first), np.float32)
    tracked: dict[int, TrackedFrame] = {}

    def track(index: int) -> TrackedFrame:
        if index not in tracked:
            tracked[index] = TrackedFrame(frames[index])
        return tracked[index]

    for p, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        k = stored.get((i, j))
        if k is not None:
            h[p], ratio[p] = camera["h"][k], camera["inlier_ratio"][k]
        elif still:
            ratio[p] = float(np.median(camera["inlier_ratio"]))
        else:
            motion = measure_tracked(track(i), track(j))
            h[p], ratio[p] = motion.h, motion.inlier_ratio
    return h, ratio


def is_still(camera: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the camera of a clip stood still in at least 95% of the measured pairs, and was measured at all."""
    h = np.asarray(camera["h"], np.float64)
    known = np.asarray(camera["inlier_ratio"]) > 0
    if len(h) == 0 or not known.any():
        return False
    corners = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]], np.float64)
    moved = corners @ h[known].transpose(0, 2, 1)
    shift = np.abs(moved[..., :2] / moved[..., 2:] - corners[:, :2]).max((1, 2))
    return bool(np.mean(shift < STILL_SHIFT) >= 0.95)


def resize_frames(
    frames: NDArray[np.uint8],
    size: int,
    how: Literal["area", "bilinear", "lanczos", "linear"] = "area",
    *,
    width: int = 0,
) -> NDArray[np.uint8]:
    """[T, H, W, 3] -> [T, size, width or size, 3], see `PairConfig.resize`."""
    shape = width or size, size
    if frames.shape[1:3] == shape[::-1]:
        return frames
    if how in ("bilinear", "lanczos"):
        resized = [Image.fromarray(frame).resize(shape, Image.Resampling[how.upper()]) for frame in frames]
        return np.stack([np.asarray(image) for image in resized])
    method = cv2.INTER_AREA if how == "area" else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, shape, interpolation=method) for frame in frames])


def shown(frames: NDArray[np.uint8], config: PairConfig, row: ClipRow) -> NDArray[np.uint8]:
    """Stored frames [T, S, S, 3] of a clip, which hold the whole image stretched to a square, as a model is shown them."""
    height, width = config.shape
    if config.crop and row.width and row.height:
        aspect = (row.width / row.height) / (width / height)
        rows, columns = (round(len(frames[0]) * min(1.0, share)) for share in (aspect, 1 / aspect))
        top, left = (len(frames[0]) - rows) // 2, (len(frames[0]) - columns) // 2
        frames = np.ascontiguousarray(frames[:, top : top + rows, left : left + columns])
    return resize_frames(frames, height, config.resize, width=width)


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
    before, first_known = warp_image(first, first_to_middle)
    after, second_known = warp_image(second, second_to_middle)
    known = first_known & second_known
    if not known.any() or _difference(before, after, known) >= _difference(first, second, known):
        return first, second, np.ones(first.shape[:2], bool)
    return before, after, known


def _difference(first: NDArray[np.uint8], second: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Mean absolute difference, of 255, of the pixels `where`; what moved of itself counts as `_MOVED` at most."""
    difference = np.abs(first.astype(np.int16) - second).mean(-1)
    return float(np.minimum(difference, _MOVED)[where].mean())
