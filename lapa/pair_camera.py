"""The camera's motion for chosen pairs of a clip: as ingest measured it, measured here only where it was not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.camera import TrackedFrame, measure_tracked
from lapa.pairs import is_still


def camera_of_pairs(
    camera: Mapping[str, NDArray[Any]],
    frames: Mapping[int, NDArray[np.uint8]],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(h [P, 3, 3], inlier ratio [P]) of the pairs (first, second), int64 [P] each; the same as `lapa.pairs.clip_pairs`
    gives, for some of a clip's pairs.

    `camera` is what the clip stores; `frames` maps a frame's index to uint8 [H, W, 3]. Identity and 0 where unknown.
    """
    stored = {pair: k for k, pair in enumerate(zip(camera["first"].tolist(), camera["second"].tolist(), strict=True))}
    still = is_still(dict(camera))
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
