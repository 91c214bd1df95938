"""Windows of set length that never cross a shot, with their stored frames and what was measured as they went by."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.ingestion.settings import IngestSettings
from corpora.video.camera import TrackedFrame, measure_tracked
from corpora.video.image import fit_square
from corpora.video.quality import Quality, QualityMeter

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
    camera: dict[str, NDArray[Any]]
    """See `Clip.camera`."""


@dataclass
class _Open:
    """The window being filled."""

    shot: int
    meter: QualityMeter
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    t_s: list[float] = field(default_factory=list)
    pairs: list[tuple[int, int, NDArray[np.float64], float, int]] = field(default_factory=list)
    tracked: deque[tuple[int, float, TrackedFrame]] = field(default_factory=deque)
    """Frames that still wait for their partner, and the last one."""
    next_first: int = 0


def cut_windows(
    labelled: Iterable[tuple[int, float, NDArray[np.uint8]]], settings: IngestSettings, source_end_s: float = math.inf
) -> Iterator[Window]:
    """From (shot, time, RGB frame) in order. Holds the stored frames of one window, and half a second of frames.

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
        _pair(window, TrackedFrame(luma), settings.camera_gap_s)
    if window is not None:
        yield _finish(window, source_end_s)


def _pair(window: _Open, frame: TrackedFrame, gap_s: float) -> None:
    """Measures the camera between the newest two frames and those whose partner at `gap_s` one of them is."""
    number, now = len(window.t_s) - 1, window.t_s[-1]
    window.tracked.append((number, now, frame))
    while window.next_first < number:
        index = window.next_first - window.tracked[0][0]
        first, then, earlier = window.tracked[index]
        if now < then + gap_s - 1e-6:
            break
        candidates = [entry for entry in (window.tracked[-2], window.tracked[-1]) if entry[0] > first]
        # of two equally near (15 frames a second, half a second) the later one, whatever the rounding, as pairs are made
        second, shown, later = min(candidates, key=lambda entry: (round(1e5 * abs(entry[1] - then - gap_s)), -entry[0]))
        if abs(shown - then - gap_s) <= gap_s / 2 + 1e-6:
            motion = measure_tracked(earlier, later)
            window.pairs.append((first, second, motion.h, motion.inlier_ratio, motion.tracks))
        window.next_first += 1
    while len(window.tracked) > 2 and window.tracked[0][0] < min(window.next_first, number - 1):
        window.tracked.popleft()


def _finish(window: _Open, following_s: float) -> Window:
    t_s = np.array(window.t_s, np.float64)
    interval = float(np.median(np.diff(t_s))) if len(t_s) > 1 else math.inf
    end = min(following_s, float(t_s[-1]) + interval)
    if not math.isfinite(end):
        end = float(t_s[-1])
    pairs = window.pairs
    return Window(
        shot=window.shot,
        start_s=float(t_s[0]),
        end_s=end,
        frames=np.stack(window.frames),
        t_s=t_s,
        quality=window.meter.finish(),
        camera={
            "first": np.array([pair[0] for pair in pairs], np.int32),
            "second": np.array([pair[1] for pair in pairs], np.int32),
            "h": np.array([pair[2] for pair in pairs], np.float32).reshape(-1, 3, 3),
            "inlier_ratio": np.array([pair[3] for pair in pairs], np.float32),
            "tracks": np.array([pair[4] for pair in pairs], np.int32),
        },
    )
