"""Curves over one time line, as the paths of small SVG pictures that stretch with the page: lines keep their width, and what
stands above and below them at the same place is the same moment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluation.drawn import DrawnEpisode

WIDE, HIGH = 2000, 400
"""Of a panel's coordinates."""
STEPS = 8
"""At most so many points of a chunk are drawn where there are many chunks."""
FEW_CHUNKS = 24
"""Of these all points are drawn."""
BOUNDS = ("recorded", "policy", "hold_still", "repeat_last")
"""What a panel's scale is fitted to; others may leave it."""
UNITS = {"_rad": "rad", "_deg": "deg", "_mm": "mm", "_cm": "cm", "_m": "m", "_n": "N", "_nm": "N m"}
"""Ends of names of dimensions that say the unit; a dataset says it nowhere else."""


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    low: float
    high: float
    """Of its scale."""
    paths: dict[str, str]
    """Name of a curve -> its path."""
    unit: str = ""


def episode_panels(drawn: DrawnEpisode, names: Sequence[str], order: Sequence[int]) -> list[Panel]:
    """One for each of the dimensions `order`: what was done, and each method's chunks."""
    panels = []
    steps = np.arange(drawn.mask.shape[1])
    if len(drawn.starts_s) > FEW_CHUNKS and len(steps) > STEPS:
        steps = np.unique(np.linspace(0, len(steps) - 1, STEPS).round().astype(int))
    times = drawn.starts_s[:, None] + steps * drawn.step_s
    for dim in order:
        known = drawn.mask[:, steps]
        chunks = {name: np.where(known, values[:, steps, dim], np.nan) for name, values in drawn.chunks.items()}
        shown = {"recorded": drawn.recorded[:, dim], **chunks}
        low, high = _scale([values for name, values in shown.items() if name in BOUNDS])
        paths = {
            # what does not change within a chunk is a line from its first step to its last
            name: "".join(_path(*_ends(t, row), drawn.seconds, low, high) for t, row in zip(times, values, strict=True))
            for name, values in chunks.items()
        }
        paths["recorded"] = _path(drawn.t_s, drawn.recorded[:, dim], drawn.seconds, low, high)
        panels.append(Panel(names[dim], low, high, paths, unit_of(names[dim])))
    return panels


def step_panel(curves: Mapping[str, Sequence[float | None]]) -> Panel:
    """Errors by how far ahead, from zero to the largest of those that a scale is fitted to."""
    values = {
        name: np.asarray([np.nan if v is None else v for v in curve], np.float64) for name, curve in curves.items()
    }
    high = max(
        (float(np.nanmax(curve)) for name, curve in values.items() if name in BOUNDS and np.isfinite(curve).any()),
        default=1.0,
    )
    high = high or 1.0
    steps = np.arange(len(next(iter(values.values()))), dtype=np.float64)
    paths = {name: _path(steps, curve, max(1.0, steps[-1]), 0.0, 1.08 * high) for name, curve in values.items()}
    return Panel("by how far ahead", 0.0, 1.08 * high, paths)


def unit_of(name: str) -> str:
    """As the name says it; "" where it does not."""
    found = [unit for end, unit in sorted(UNITS.items(), key=lambda item: -len(item[0])) if name.lower().endswith(end)]
    return found[0] if found else ""


def most_moving_first(moving: Sequence[bool], std: Sequence[float]) -> list[int]:
    """All dimensions; those that never move come last."""
    return sorted(range(len(std)), key=lambda dim: (not moving[dim], -std[dim], dim))


def _scale(curves: Sequence[NDArray[np.floating[Any]]]) -> tuple[float, float]:
    values = np.concatenate([curve[np.isfinite(curve)].ravel() for curve in curves])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.05 * max(abs(high), 1e-3)
    return low - margin, high + margin


def _ends(t_s: NDArray[np.float64], values: NDArray[np.floating[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    known = np.flatnonzero(np.isfinite(values))
    if len(known) > 2 and np.all(values[known] == values[known[0]]):
        return t_s[known[[0, -1]]], values[known[[0, -1]]]
    return t_s, values


def _path(x: NDArray[Any], y: NDArray[Any], wide: float, low: float, high: float) -> str:
    """One line through all finite points; far beyond the scale they are cut."""
    good = np.isfinite(y)
    across = np.rint(WIDE * x[good] / (wide or 1.0)).astype(int)
    up = np.rint(HIGH * np.clip((high - y[good].astype(np.float64)) / (high - low), -9, 10)).astype(int)
    points = list(zip(across.tolist(), up.tolist(), strict=True))
    if not points:
        return ""
    if len(points) == 1:
        points *= 2
    return "M" + " ".join(f"{a} {b}" for a, b in points)


def ticks(seconds: float, most: int = 8) -> list[float]:
    """Round times from 0 to at most `seconds`."""
    if seconds <= 0:
        return [0.0]
    rough = seconds / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough)
    return [round(k * step, 6) for k in range(int(seconds / step + 1e-9) + 1)]
