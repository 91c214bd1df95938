"""The rows of one episode in a LeRobot data file: in order, and on a clock that begins with the first of them.

Whoever learns from episodes (`read_lerobot`) and whoever measures clips by them (`TruthRef`) reads them here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from corpora.episodes.columns import column_array

CLOCK = "timestamp"
NUMBER = "frame_index"
_OTHER_UNIT = 10.0
"""Rows so many times further apart, or closer, than fps has them are in another unit."""
_UNITS = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9, "minutes": 1 / 60}
"""How many of them are a second."""


@dataclass(frozen=True)
class EpisodeRows:
    """N rows, in order."""

    t_s: NDArray[np.float64]
    """[N], strictly ascending, from the first row: clocks begin anywhere, and some recorders stamp a row after its step. Where
    number and clock agree that rows were cut off before it, from where those began."""
    columns: Mapping[str, NDArray[np.float32]]
    """[N, D] each; NaN where a row holds nothing."""
    lost: Mapping[str, str]
    """Column that was asked for and cannot be read -> why."""

    def __len__(self) -> int:
        return len(self.t_s)

    def __getitem__(self, column: str) -> NDArray[np.float32]:
        """Raises ValueError for one that cannot be read."""
        if column in self.lost:
            raise ValueError(f"'{column}': {self.lost[column]}")
        return self.columns[column]


def rows_of(table: pa.Table, columns: Iterable[str], fps: float) -> EpisodeRows:
    """Of a table that holds the rows of one episode alone. Raises ValueError where there is none, or where their times
    cannot be used; a column that is damaged is lost alone."""
    if table.num_rows == 0:
        raise ValueError("no row of this episode")
    if CLOCK not in table.column_names:
        raise ValueError(f"no column '{CLOCK}'")
    times, numbers = _scalar(table, CLOCK), _numbers(table)
    order = np.argsort(times if numbers is None else numbers, kind="stable")
    times = times[order]
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError("times that are not finite and ascending")
    _check_unit(times, fps)
    found: dict[str, NDArray[np.float32]] = {}
    lost: dict[str, str] = {}
    for name in columns:
        try:
            if name not in table.column_names:
                raise ValueError("the file has no such column")
            found[name] = column_array(table.column(name), np.float32)[order]
        except (ValueError, pa.ArrowException) as error:
            lost[name] = str(error)
    first = 0.0 if numbers is None else float(numbers.min())
    cut = first > 0 and abs(times[0] * fps - first) < 0.5
    return EpisodeRows(times if cut else times - times[0], found, lost)


def _scalar(table: pa.Table, column: str) -> NDArray[np.float64]:
    """[N]."""
    return np.asarray(column_array(table.column(column), np.float64)[:, 0])


def _numbers(table: pa.Table) -> NDArray[np.float64] | None:
    """[N], of the rows in their episode; None where not each has one of its own."""
    if NUMBER not in table.column_names:
        return None
    try:
        numbers = _scalar(table, NUMBER)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() and len(np.unique(numbers)) == len(numbers) else None


def _check_unit(times: NDArray[np.float64], fps: float) -> None:
    """Raises ValueError where they are no seconds, by the spacing that fps promises."""
    if len(times) < 2:
        return
    apart = float(np.median(np.diff(times)))
    numbered = fps >= 2 and bool((np.diff(times) == 1).all())
    if 1 / _OTHER_UNIT <= apart * fps <= _OTHER_UNIT and not numbered:
        return
    near = (name for name, in_second in _UNITS.items() if 0.5 < apart * fps / in_second < 2)
    guess = "row numbers" if numbered else next(near, "no unit that is known")
    raise ValueError(f"row times look like {guess} ({apart:g} apart, at {fps:g} rows a second); they must be seconds")
