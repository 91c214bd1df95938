"""Images around a moment of an episode or clip: of the past, by time, and which row shows the future."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from corpora.store.frames import FrameTable
from corpora.video.nearest import rows_within


@dataclass(frozen=True)
class Window:
    """Which moments make up one sample at time t, in seconds relative to t."""

    horizon: int
    """Steps of a chunk."""
    step_s: float | None = None
    """Between two of them; None: the rate of the episodes."""
    history_s: tuple[float, ...] = (0.0,)
    """Of the images, oldest first, 0 the last."""
    future_s: float | None = None
    """To the future; None: no future."""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"horizon {self.horizon}: a chunk has at least 1 step")
        if self.step_s is not None and not self.step_s > 0:
            raise ValueError(f"step_s {self.step_s}: must be above 0 seconds")
        history = self.history_s
        if not history or history[-1] != 0 or any(late <= early for early, late in pairwise(history)):
            raise ValueError(
                f"history_s {tuple(history)}: seconds relative to the present, oldest first, 0 the last; for example "
                "(-0.5, 0.0)"
            )
        if self.future_s is not None and not self.future_s > 0:
            raise ValueError(f"future_s {self.future_s}: must be above 0 seconds, or None for no future")


class ImageViews:
    """Images of runs of rows (episodes or clips) around a moment."""

    def __init__(
        self, table: FrameTable, t_s: NDArray[np.float64], window: Window, interval_s: float | None = None
    ) -> None:
        self.table, self.t_s, self.future_s = table, t_s, window.future_s
        self._history = np.asarray(window.history_s, np.float64) if len(window.history_s) > 1 else None
        self._interval_s = interval_s

    def interval(self, start: int, stop: int) -> float:
        """Seconds between the rows [start, stop): the median, or what was given."""
        if self._interval_s is not None:
            return self._interval_s
        return float(np.median(np.diff(self.t_s[start:stop]))) if stop - start > 1 else 0.0

    def futures(self, rows: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
        """The row of the future of each of these rows of one run; -1 where there is none, or no image of it."""
        if self.future_s is None:
            return np.full(len(rows), -1)
        found, near = rows_within(self.t_s[start:stop], self.t_s[rows] + self.future_s, self.interval(start, stop))
        found = found + start
        near &= (found > rows) & self.table.valid[found].all(1)
        return np.where(near, found, -1)

    def shown(self, row: int) -> NDArray[np.uint8] | None:
        """Images [V, S, S, 3] of a row; None for -1."""
        return None if row < 0 else self.table.images[row].copy()

    def around(self, row: int, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Images [V, T, S, S, 3] and mask [V, T]."""
        table = self.table
        if self._history is None:
            return table.images[row][:, None].copy(), table.valid[row][:, None].copy()
        wanted = self.t_s[row] + self._history
        found, near = rows_within(self.t_s[start:stop], wanted, self.interval(start, stop))
        found += start
        mask = table.valid[found] & near[:, None]
        images = table.images[found]
        images[~mask] = 0
        return np.ascontiguousarray(images.swapaxes(0, 1)), np.ascontiguousarray(mask.T)
