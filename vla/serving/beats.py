"""Clocks, beats at a rate, and what is measured of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np

_RECENT = 65_536
"""Ages of which the 95th percentile is taken: nine minutes at 120 Hz."""


class Clock(Protocol):
    """Time in seconds; another one is given by tests."""

    def now(self) -> float: ...

    def sleep_until(self, time_s: float, stop: threading.Event) -> None:
        """Returns at `time_s`, or earlier where `stop` is set."""


class MonotonicClock:
    """The machine's."""

    def now(self) -> float:
        return time.monotonic()

    def sleep_until(self, time_s: float, stop: threading.Event) -> None:
        stop.wait(max(0.0, time_s - time.monotonic()))


@dataclass(frozen=True)
class Spread:
    """Of many durations, in seconds; 0 where there were none."""

    mean_s: float = 0.0
    p95_s: float = 0.0
    """Of the last 65,536."""
    max_s: float = 0.0


class Durations:
    """Collects durations in seconds; its memory is bounded."""

    def __init__(self) -> None:
        self._count, self._sum, self._max = 0, 0.0, 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def add(self, seconds: float) -> None:
        self._count, self._sum, self._max = self._count + 1, self._sum + seconds, max(self._max, seconds)
        self._recent.append(seconds)

    def spread(self) -> Spread:
        if not self._count:
            return Spread()
        return Spread(self._sum / self._count, float(np.percentile(list(self._recent), 95)), self._max)


class Metronome:
    """Beats at `hz` from `start_s` on. A beat that is over before it could be kept is missed, not made up for."""

    def __init__(self, hz: float, start_s: float) -> None:
        self.period_s = 1 / hz
        self.start_s = start_s
        self.kept = 0
        """Beats that were kept."""
        self.missed = 0
        """Beats that were over, their whole period long, before they could be kept."""
        self.late = Durations()
        """By how much those that were kept came too late."""
        self._beat = 0

    @property
    def next_s(self) -> float:
        """When the next beat is due."""
        return self.start_s + self._beat * self.period_s

    def keep(self, now_s: float) -> None:
        """The next beat is kept now: counts those that are over, and how late this one is."""
        current = max(self._beat, int((now_s - self.start_s) / self.period_s + 1e-9))
        self.missed += current - self._beat
        self._beat = current
        self.late.add(max(0.0, now_s - self.next_s))
        self._beat += 1
        self.kept += 1
