"""The camera's motion for pairs of a clip: as ingest measured it, measured here only where it was not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.video.camera import TrackedFrame, measure_tracked

STILL_SHIFT = 0.008
"""Corners that move less than this (of half the picture: half a pixel at 128) in nearly all measured pairs: a still camera."""


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
