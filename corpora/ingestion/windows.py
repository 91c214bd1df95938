"""Windows of set length that never cross a shot, with their stored frames and what was measured of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.ingestion.settings import IngestSettings
from corpora.video.camera import TrackedFrame, measure_tracked
from corpora.video.image import fit_square, shrunk
from corpora.video.nearest import every_stride, pair_indices
from corpora.video.quality import Quality, QualityMeter

CAMERA_SIDE = 128
"""Short side of the images in which the camera's motion is measured: as exact as 192 (EXPERIMENTS.md, E33)."""
CAMERA_STRIDE_S = 0.1
"""From the beginning of one measured pair to that of the next, at least."""
_CUT_TOLERANCE_S = 1e-4


@dataclass(frozen=True)
class Window:
    """A finished candidate."""

    shot: int
    start_s: float
    end_s: float
    frames: NDArray[np.uint8]
    """[T, size, size, 3] RGB."""
    t_s: NDArray[np.float64]
    """[T], counted as the source's times."""
    quality: Quality
    lumas: list[NDArray[np.uint8]]
    """[H, W] each, of the frames before they were made square."""


@dataclass
class _Open:
    """The window being filled."""

    shot: int
    meter: QualityMeter
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    t_s: list[float] = field(default_factory=list)
    lumas: list[NDArray[np.uint8]] = field(default_factory=list)


def cut_windows(
    labelled: Iterable[tuple[int, float, NDArray[np.uint8]]], settings: IngestSettings, source_end_s: float = math.inf
) -> Iterator[Window]:
    """From (shot, time, RGB frame) in order. Holds the stored frames and the lumas of one window.

    A window ends where the next one begins, the last of a shot one frame after its last frame, none after the source.
    """
    window: _Open | None = None
    for shot, t_s, rgb in labelled:
        if window is not None and (shot != window.shot or t_s - window.t_s[0] >= settings.clip_s - _CUT_TOLERANCE_S):
            yield _finish(window, t_s)
            window = None
        if window is None:
            window = _Open(shot, QualityMeter(settings.quality))
        luma = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
        window.meter.add(t_s, luma)
        window.frames.append(fit_square(rgb, settings.size, settings.fit))
        window.t_s.append(t_s)
        window.lumas.append(luma)
    if window is not None:
        yield _finish(window, source_end_s)


def _finish(window: _Open, following_s: float) -> Window:
    t_s = np.array(window.t_s, np.float64)
    interval = float(np.median(np.diff(t_s))) if len(t_s) > 1 else math.inf
    end = min(following_s, float(t_s[-1]) + interval)
    if not math.isfinite(end):
        end = float(t_s[-1])
    return Window(
        shot=window.shot,
        start_s=float(t_s[0]),
        end_s=end,
        frames=np.stack(window.frames),
        t_s=t_s,
        quality=window.meter.finish(),
        lumas=window.lumas,
    )


def camera_of(window: Window, gap_s: float) -> dict[str, NDArray[Any]]:
    """How the camera moved between the frames of a window `gap_s` apart, see `Clip.camera`: the pairs that extraction asks for
    where it is given nothing else. By far the most of what a window costs."""
    first, second = pair_indices(window.t_s, gap_s)
    chosen = every_stride(window.t_s, first, CAMERA_STRIDE_S)
    first, second = first[chosen], second[chosen]
    frame = functools.cache(lambda index: TrackedFrame(shrunk(window.lumas[index], CAMERA_SIDE)))
    motions = [measure_tracked(frame(i), frame(j)) for i, j in zip(first.tolist(), second.tolist(), strict=True)]
    return {
        "first": first.astype(np.int32),
        "second": second.astype(np.int32),
        "h": np.array([motion.h for motion in motions], np.float32).reshape(-1, 3, 3),
        "inlier_ratio": np.array([motion.inlier_ratio for motion in motions], np.float32),
        "tracks": np.array([motion.tracks for motion in motions], np.int32),
    }
