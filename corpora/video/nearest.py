"""Rows by time in seconds: which row of a table lies nearest to a moment."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_TIE_S = 1e-6
_OFF_SHARE = 0.25
"""A row counts as a gap later up to this share of the gap: else it shows another motion."""


def nearest_rows(
    t_s: NDArray[np.float64], wanted_s: NDArray[np.float64], tolerance_s: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows (int64, as `wanted_s`) whose times (float64 [N], ascending, N >= 1) are nearest to those wanted, and which of
    them are near: within `tolerance_s`.

    Of two rows equally near, the later one, whatever the rounding. A row is given even where it is not near.
    """
    right = np.searchsorted(t_s, wanted_s)
    right = np.minimum(right, len(t_s) - 1)
    left = np.maximum(right - 1, 0)
    rows = np.where(t_s[right] - wanted_s <= wanted_s - t_s[left] + _TIE_S, right, left)
    return rows, np.abs(t_s[rows] - wanted_s) <= tolerance_s + _TIE_S


def rows_within(
    t_s: NDArray[np.float64], wanted_s: NDArray[np.float64], interval_s: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """As `nearest_rows`, for rows `interval_s` seconds apart: near means no hole in between (at most one interval away),
    and neither before the first row nor after the last (by more than half of an interval)."""
    rows, near = nearest_rows(t_s, wanted_s, interval_s)
    edge = 0.5 * interval_s + _TIE_S
    return rows, near & (wanted_s >= t_s[0] - edge) & (wanted_s <= t_s[-1] + edge)


def rows_later(t_s: NDArray[np.float64], gap_s: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each row the one that lies nearest to `gap_s` after it, and whether it is about as far."""
    later, near = rows_within(t_s, t_s + gap_s, float(np.median(np.diff(t_s))) if len(t_s) > 1 else 0.0)
    near &= np.abs(t_s[later] - t_s - gap_s) <= _OFF_SHARE * gap_s
    return later, near & (later > np.arange(len(t_s)))


def pair_indices(t_s: NDArray[np.float64], gap_s: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (first, second), int64 [P] each, of the frames of one clip that lie `gap_s` seconds apart.

    The second frame is the one nearest to t + gap_s. A pair is left out where that is off by more than a tenth of the
    gap and by more than half a frame interval, where the clip has ended before (its last frame never stands in for a later
    one), or where both are the same frame. Raises ValueError for a gap that is not positive.
    """
    if gap_s <= 0:
        raise ValueError(f"gap_s {gap_s}: a gap is a positive number of seconds")
    t_s = np.asarray(t_s, np.float64)
    if len(t_s) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    wanted, half_interval = t_s + gap_s, 0.5 * float(np.median(np.diff(t_s)))
    second, near = nearest_rows(t_s, wanted, max(0.1 * gap_s, half_interval))
    first = np.arange(len(t_s))
    good = near & (second > first) & (wanted <= t_s[-1] + half_interval + 1e-6)
    return first[good], second[good]


def every_stride(t_s: NDArray[np.float64], first: NDArray[np.int64], stride_s: float) -> NDArray[np.bool_]:
    """Which of the pairs that begin at `t_s[first]` (ascending) to keep, at least `stride_s` apart."""
    keep = np.zeros(len(first), bool)
    last = -np.inf
    for k, t in enumerate(t_s[first].tolist()):
        if t - last >= stride_s - 1e-6:
            keep[k], last = True, t
    return keep


def rows_back(ages_s: Sequence[float], interval_s: float) -> tuple[int, ...]:
    """How many rows before the present the frame of each age is, where rows are `interval_s` apart and the present is one of
    them: as `rows_within` finds them."""
    return tuple(math.ceil((age_s - _TIE_S) / interval_s - 0.5) for age_s in ages_s)


def after_beginning(ages_s: Sequence[float], since_s: float, interval_s: float) -> NDArray[np.bool_]:
    """bool [T]: which frames of a history are there `since_s` seconds after an episode began, and not from before it; by the
    rule of `rows_within`, half of an interval being a matter of the clock."""
    return since_s - np.asarray(ages_s, np.float64) >= -0.5 * interval_s - _TIE_S
