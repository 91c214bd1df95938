"""The statistics that LeRobot keeps of every feature: min, max, mean, std, count and five quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stats = dict[str, Any]
"""Statistic -> nested lists, ready for JSON and Parquet."""

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def vector_stats(values: NDArray[Any]) -> Stats:
    """Of [N, D], exactly; each statistic a list of D, `count` a list of one."""
    numbers = values.astype(np.float64)
    stats: Stats = {
        "min": numbers.min(0).tolist(),
        "max": numbers.max(0).tolist(),
        "mean": numbers.mean(0).tolist(),
        "std": numbers.std(0).tolist(),
        "count": [len(numbers)],
    }
    for name, row in zip(QUANTILES, np.quantile(numbers, [*QUANTILES.values()], axis=0), strict=True):
        stats[name] = row.tolist()
    return stats


def degenerate_dims(stats: Stats) -> list[int]:
    """Dimensions that hardly vary: whoever divides by their std, by max - min or by q99 - q01 divides by next to nothing. Next to
    nothing is a millionth of the widest dimension's."""
    spread = np.array([np.subtract(stats["max"], stats["min"]), stats["std"], np.subtract(stats["q99"], stats["q01"])])
    widest = spread.max(1, keepdims=True)
    return np.flatnonzero((spread <= 1e-6 * widest).any(0)).tolist()


def image_stats(images: NDArray[np.uint8]) -> Stats:
    """Of uint8 [N, H, W, 3], for each channel in [0, 1], shaped [3, 1, 1]; `count` is the number of images."""
    stats = vector_stats(images.reshape(-1, 3))
    shaped: Stats = {name: _shaped(np.array(value) / 255) for name, value in stats.items() if name != "count"}
    return {**shaped, "count": [len(images)]}


def merge_image_stats(parts: Sequence[Stats]) -> Stats:
    """Of all images together: exact but for the quantiles, which are the mean of the parts' weighted by count."""
    count = np.array([part["count"][0] for part in parts], np.float64)
    weight = (count / count.sum())[:, None]

    def column(name: str) -> NDArray[np.float64]:
        return np.array([part[name] for part in parts]).reshape(len(parts), 3)

    mean = (weight * column("mean")).sum(0)
    variance = (weight * (column("std") ** 2 + (column("mean") - mean) ** 2)).sum(0)
    merged: Stats = {
        "min": _shaped(column("min").min(0)),
        "max": _shaped(column("max").max(0)),
        "mean": _shaped(mean),
        "std": _shaped(np.sqrt(variance)),
        "count": [math.floor(count.sum())],
    }
    return merged | {name: _shaped((weight * column(name)).sum(0)) for name in QUANTILES}


def _shaped(channels: NDArray[np.float64]) -> list[list[list[float]]]:
    return [[[float(value)]] for value in channels]


_EVERY, _AT_ONCE = 10, 16
"""Of the frames that statistics are made of; and how many are held."""


class ImageStats:
    """Statistics of the frames of a video, in their order."""

    def __init__(self) -> None:
        self._count = 0
        self._held: list[NDArray[np.uint8]] = []
        self._parts: list[Stats] = []

    def add(self, image: NDArray[np.uint8]) -> None:
        if self._count % _EVERY == 0:
            self._held.append(image)
        self._count += 1
        if len(self._held) == _AT_ONCE:
            self._close()

    def found(self) -> Stats:
        """Of what was added; at least one frame."""
        self._close()
        return merge_image_stats(self._parts)

    def _close(self) -> None:
        if self._held:
            self._parts.append(image_stats(np.stack(self._held)))
            self._held = []
