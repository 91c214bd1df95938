"""Is a window worth training on: lit, sharp and moving? Measured while its frames stream by."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.video.image import by_area, shrunk
from corpora.video.settings import QualitySettings

MEASURE_SIDE = 192
"""Short side of the images measured, so that thresholds mean the same for every source."""
CELL = 6
"""Side of the cells over which changes are averaged: sensor noise goes, a moving finger stays."""
SAME = 0.5
"""Luma by which cells of one and the same image may differ after another encoding; a sensor's noise is more."""
SHARPNESS_INTERVAL_S = 0.25


@dataclass(frozen=True)
class Quality:
    """What was measured in a window."""

    luma_mean: float
    blur: float
    motion: float
    """Mean absolute difference of luma over half a second, 0-255."""
    moving_share: float
    """Share of half-second pairs in which some part of the image changed."""
    frozen_share: float
    """Share of half-second pairs whose images are the same to within rounding."""

    def reason(self, settings: QualitySettings) -> tuple[str, str]:
        """(reason, detail) why the window is dropped; ("", "") where it is fit."""
        if self.luma_mean < settings.min_luma:
            return "too_dark", f"mean luma {self.luma_mean:.1f} < {settings.min_luma:g}"
        if self.frozen_share > 1 - settings.min_moving_share:
            return "frozen", f"{self.frozen_share:.0%} of half-second pairs are the same picture"
        if self.blur < settings.min_blur:
            return "blurred", f"variance of the Laplacian {self.blur:.1f} < {settings.min_blur:g}"
        if self.moving_share < settings.min_moving_share:
            return "static", f"something moves in {self.moving_share:.1%} of half-second pairs"
        return "", ""


class QualityMeter:
    """Takes the frames of one window in order; holds those of the last half second."""

    GAP_S = 0.5

    def __init__(self, settings: QualitySettings) -> None:
        self._settings = settings
        self._recent: deque[tuple[float, NDArray[np.float32], NDArray[np.uint8]]] = deque()
        self._luma: list[float] = []
        self._sharpness: list[float] = []
        self._differences: list[float] = []
        self._changes: list[float] = []
        self._total_changes: list[float] = []
        self._next_sharpness_s = -np.inf

    def add(self, t_s: float, luma: NDArray[np.uint8]) -> None:
        """`luma`: uint8 [h, w]."""
        luma = shrunk(luma, MEASURE_SIDE)
        if t_s >= self._next_sharpness_s:
            self._sharpness.append(float(cv2.Laplacian(luma, cv2.CV_32F).var()))
            self._next_sharpness_s = t_s + SHARPNESS_INTERVAL_S
        height, width = luma.shape
        half = by_area(luma, (width // 2 or 1, height // 2 or 1))
        self._luma.append(float(half.mean()))
        cells_size = (max(1, width // CELL), max(1, height // CELL))
        cells = np.asarray(cv2.resize(half.astype(np.float32), cells_size, interpolation=cv2.INTER_AREA), np.float32)
        self._recent.append((t_s, cells, half))
        # The earlier frame nearest to half a second ago.
        while len(self._recent) > 2 and t_s - self._recent[1][0] >= self.GAP_S - 1e-6:
            self._recent.popleft()
        then, old_cells, old_half = self._recent[0]
        if t_s - then >= self.GAP_S - 1e-6:
            self._differences.append(float(cv2.absdiff(half, old_half).mean()))
            change = (cells - old_cells).ravel()
            self._total_changes.append(_quantile(np.abs(change), 0.99))
            change = np.abs(change - _quantile(change, 0.5))  # exposure that drifts is no motion
            self._changes.append(_quantile(change, 0.99))

    def finish(self) -> Quality:
        """The measurements; a window shorter than half a second has no motion and counts as static."""
        changes = np.array(self._changes)
        share = float((changes >= self._settings.min_change).mean()) if len(changes) else 0.0
        return Quality(
            luma_mean=float(np.mean(self._luma)) if self._luma else 0.0,
            blur=float(np.quantile(self._sharpness, 0.75)) if self._sharpness else 0.0,
            motion=float(np.mean(self._differences)) if self._differences else 0.0,
            moving_share=share,
            frozen_share=float((np.array(self._total_changes) < SAME).mean()) if len(changes) else 0.0,
        )


def _quantile(values: NDArray[np.float32], share: float) -> float:
    """As np.quantile, of float32 [N]; that takes ten times as long for so few."""
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    parted = np.partition(values, (low, high))
    return float(parted[low] + (place - low) * (parted[high] - parted[low]))
