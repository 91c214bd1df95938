"""Where the bands of a drawn pyramid lie: a trapezoid cut into tiers, and each tier into its datasets.

     robot       the areas of the bands are in the ratio of their hours (or, where a band would be too thin to see, of
    neural       the square root or the logarithm of the hours; the scale has a name, to be shown)
   synthetic     within a band the areas of the datasets are in the ratio of their hours, always
human |  human
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

TOP_SHARE = 0.3
"""Width of the top, as a share of the base: a point would leave no room for the tier above."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """The rectangle that holds the trapezoid; x to the right, y down."""

    x: float
    y: float
    width: float
    height: float

    def edges(self, depth: float) -> tuple[float, float]:
        """x of the left and the right edge at `depth` in [0, 1] below the top."""
        half = 0.5 * self.width * (TOP_SHARE + (1 - TOP_SHARE) * depth)
        middle = self.x + 0.5 * self.width
        return middle - half, middle + half


@dataclass(frozen=True)
class Band:
    """One tier, between two depths."""

    top: float
    """Depth in [0, 1]."""
    bottom: float
    ends: tuple[float, ...]
    """Where datasets end, in [0, 1] from the left edge to the right; one more than datasets, the first 0."""

    def height(self, box: Box) -> float:
        return (self.bottom - self.top) * box.height

    def segment(self, number: int, box: Box) -> tuple[Point, Point, Point, Point]:
        """Corners of a dataset, clockwise from the upper left."""
        upper, lower = box.edges(self.top), box.edges(self.bottom)
        first, last = self.ends[number], self.ends[number + 1]
        y_top, y_bottom = box.y + self.top * box.height, box.y + self.bottom * box.height
        return (
            (_between(upper, first), y_top),
            (_between(upper, last), y_top),
            (_between(lower, last), y_bottom),
            (_between(lower, first), y_bottom),
        )

    def middle(self, number: int, box: Box) -> tuple[float, float, float]:
        """(left, right, y) of a dataset at half of the band's height."""
        depth = 0.5 * (self.top + self.bottom)
        edges = box.edges(depth)
        return _between(edges, self.ends[number]), _between(edges, self.ends[number + 1]), box.y + depth * box.height


@dataclass(frozen=True)
class Scale:
    """How hours become areas."""

    name: str
    """As it is shown."""
    measure: Callable[[Sequence[float]], list[float]]
    """Hours of the tiers -> their areas, up to a factor."""


SCALES = (
    Scale("the area of a tier is proportional to its hours", lambda hours: list(hours)),
    Scale(
        "the area of a tier is proportional to the square root of its hours",
        lambda hours: [math.sqrt(value) for value in hours],
    ),
    Scale(
        "the area of a tier is proportional to log(1 + hours / hours of the smallest tier)",
        lambda hours: [
            math.log1p(value / min(part for part in hours if part > 0)) if value > 0 else 0.0 for value in hours
        ],
    ),
    Scale("all tiers have the same area, whatever their hours", lambda hours: [1.0] * len(hours)),
)
"""From the plainest on; the first in which every tier can be seen is taken."""


def cut_bands(datasets: Sequence[Sequence[float]], box: Box, *, least: float) -> tuple[list[Band], Scale]:
    """Bands of tiers, the top one first, from the hours of each tier's datasets; and the scale that was taken.

    `least`: height of the thinnest band that can be seen, in the units of `box`. Raises ValueError for no tier, a tier
    without datasets, and hours below 0.
    """
    if not datasets or any(not tier for tier in datasets):
        raise ValueError("a pyramid is drawn of one tier or more, each with at least one dataset")
    if any(not (math.isfinite(value) and value >= 0) for tier in datasets for value in tier):
        raise ValueError(f"hours {[list(tier) for tier in datasets]}: must be 0 or more")
    hours = [sum(tier) for tier in datasets]
    bands: list[Band] = []
    for scale in SCALES:
        if not any(hours) and scale is not SCALES[-1]:
            continue
        areas = scale.measure(hours)
        depths = [_depth(sum(areas[:number]) / sum(areas)) for number in range(len(areas) + 1)]
        bands = [Band(top, bottom, _ends(tier)) for (top, bottom), tier in zip(pairwise(depths), datasets, strict=True)]
        if min(band.height(box) for band in bands) >= least:
            break
    return bands, scale


def _depth(share: float) -> float:
    """Down to which depth in [0, 1] the trapezoid holds this share of its area."""
    if share >= 1:
        return 1.0
    slope = 1 - TOP_SHARE  # width at depth d: TOP_SHARE + slope d; area above it: TOP_SHARE d + slope d^2 / 2
    area = share * (TOP_SHARE + 0.5 * slope)
    return (math.sqrt(TOP_SHARE**2 + 2 * slope * area) - TOP_SHARE) / slope


def _ends(hours: Sequence[float]) -> tuple[float, ...]:
    parts = list(hours) if sum(hours) > 0 else [1.0] * len(hours)
    return tuple(sum(parts[:number]) / sum(parts) for number in range(len(parts) + 1))


def _between(edges: tuple[float, float], share: float) -> float:
    return edges[0] + share * (edges[1] - edges[0])
