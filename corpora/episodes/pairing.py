"""Which frames of a video show an episode, and the moment in it that each of the episode's rows belongs to.

Where there are as many frames as rows, frame i belongs to row i: recorders write a frame for each row, then store the video
at a round rate and stamp the rows by a clock of their own. Otherwise frames and rows meet by time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corpora.video.probe import VideoFacts

_DISAGREE = 1.5
"""Intervals by which rows and frames may end apart without a word."""
_RATE = 25.0
"""Frames a second where neither the video nor the dataset says."""


@dataclass(frozen=True)
class Pairing:
    """Of one episode and one of its videos; times are those of the file."""

    zero_s: float
    """The episode's beginning."""
    row_s: NDArray[np.float64]
    """[N]."""
    shown: slice
    """Frames of the stretch that the dataset gives to the episode."""
    frames: slice
    """Of these, the ones that belong to its rows."""
    note: str
    """How far rows and frames disagree; empty where they do not."""


def pair(
    facts: VideoFacts, span_s: tuple[float, float | None], t_s: NDArray[np.float64] | None, fps: float
) -> Pairing | None:
    """None where the stretch holds no frame.

    `span_s`: of the file, from its first frame; None: to its end. It begins and ends with the nearest frame: datasets store
    it rounded. `t_s`: times of the rows from the episode's beginning, see `EpisodeRows`; None where they are not known: all
    frames are then the episode's. `fps`: rows a second, 0 where that is not known.
    """
    apart = facts.interval_s or 1 / (fps or _RATE)
    begin_s, end_s = (facts.times[0] + (np.inf if edge is None else edge) for edge in span_s)
    first, stop = (int(place) for place in np.searchsorted(facts.times, np.array([begin_s, end_s]) - apart / 2))
    frames = facts.times[first:stop]
    if not len(frames):
        return None
    zero_s = float(frames[0]) if frames[0] < begin_s + apart / 2 else float(begin_s)
    shown = slice(first, stop)
    if t_s is None:
        return Pairing(zero_s, np.zeros(0), shown, shown, "")
    step = float(np.median(np.diff(t_s))) if len(t_s) > 1 else 1 / (fps or _RATE)
    tolerance_s = _DISAGREE * max(apart, step)
    frames_s = float(frames[-1]) - zero_s + apart
    if t_s[-1] + step > frames_s + tolerance_s:  # they cannot begin late
        t_s = t_s - t_s[0]
    rows_s = float(t_s[-1]) + step
    note = f"{len(t_s)} rows last {rows_s:.2f} s, {len(frames)} frames {frames_s:.2f} s"
    note = note if abs(rows_s - frames_s) > tolerance_s else ""
    if len(frames) == len(t_s) and facts.times_exact:
        return Pairing(zero_s, frames, shown, shown, f"{note}: frame by frame they are taken for one" if note else "")
    row_s = zero_s + t_s
    inside = np.searchsorted(frames, np.array([row_s[0], zero_s + rows_s]) - apart / 2)
    return Pairing(zero_s, row_s, shown, slice(first + int(inside[0]), first + int(inside[1])), note)
