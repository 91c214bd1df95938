"""What a robot dataset knows of a source: where in the video its episode lies, and its ground truth on the source's clock."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from corpora.episodes.pairing import pair
from corpora.episodes.rows import EpisodeRows
from corpora.episodes.truth import TruthRef
from corpora.sources.source import Source
from corpora.store.files import machine_trouble
from corpora.video.decode import DecodingReport, frame_numbers
from corpora.video.nearest import rows_within
from corpora.video.probe import VideoFacts, describe


@dataclass(frozen=True)
class Stretch:
    """Frames that the dataset gives to the episode, but that belong to none of its rows."""

    start_s: float
    """On the source's clock, as `end_s`."""
    end_s: float
    detail: str


@dataclass(frozen=True)
class Known:
    """Of one source."""

    source: Source
    """From the first frame of its rows to the last."""
    truth: dict[str, NDArray[Any]] | None = None
    """See `Clip.truth`; None where there is none."""
    note: str = ""
    """Why there is none, or not all, or what is odd about it."""
    left_out: tuple[Stretch, ...] = ()
    row_s: NDArray[np.float64] | None = None
    """[N]: time of the file at which each row of the episode is; None of a source that is no episode."""

    def frame_index(self, t_s: NDArray[np.float64], facts: VideoFacts, report: DecodingReport) -> NDArray[np.int64]:
        """[T]: which row of the episode, or else which frame of the video (`frame_numbers`), the frames at `t_s` [T] are, on the
        source's clock; -1 where that is not known. `report`: of the reading that gave them."""
        file_s = t_s + self.source.origin_s
        if self.row_s is None:
            return frame_numbers(facts, report, file_s)
        if not len(self.row_s):
            return np.full(len(t_s), -1, np.int64)
        apart = float(np.median(np.diff(self.row_s))) if len(self.row_s) > 1 else facts.interval_s
        rows, near = rows_within(self.row_s, file_s, apart)
        return np.where(near, rows, -1)


def known_of(source: Source, facts: VideoFacts) -> Known:
    """Of a source that is no episode, the source as it is. The video is of use without ground truth. Raises OSError where
    the machine cannot read the ground truth now."""
    if source.truth is None:
        return Known(source)
    rows, notes = _read(source.truth)
    paired = pair(facts, source.span_s, _row_times(source.truth, rows), source.truth.fps)
    if paired is None:
        return Known(source, note="; ".join(notes), row_s=np.zeros(0))
    times, frames, shown, zero_s = facts.times, paired.frames, paired.shown, paired.zero_s
    end_s = float(times[frames.stop]) if frames.stop < len(times) else None
    exact = dataclasses.replace(source, span_s=(float(times[frames.start]), end_s), origin_s=zero_s)
    truth: dict[str, NDArray[Any]] | None = None if rows is None else {"t_s": paired.row_s - zero_s, **rows.columns}
    left_out = []
    for start, stop in ((shown.start, frames.start), (frames.stop, shown.stop)):
        if start < stop:
            after_s = float(times[stop]) if stop < len(times) else facts.duration_s
            detail = "; ".join(part for part in (f"{stop - start} frames of no row", paired.note) if part)
            left_out.append(Stretch(float(times[start]) - zero_s, after_s - zero_s, detail))
    note = "; ".join(part for part in (*notes, paired.note) if part)
    return Known(exact, truth, note, tuple(left_out), paired.row_s)


def _read(truth: TruthRef) -> tuple[EpisodeRows | None, list[str]]:
    try:
        rows = truth.read()
    except (ValueError, OSError, pa.ArrowException) as error:
        if machine_trouble(error):
            raise
        return None, [f"no ground truth: {describe(error).removeprefix('ValueError: ')}"]
    notes = [f"no ground truth of '{name}': {reason}" for name, reason in rows.lost.items()]
    if truth.length and len(rows) != truth.length:
        notes.append(f"{len(rows)} of {truth.length} rows")
    return rows, notes


def _row_times(truth: TruthRef, rows: EpisodeRows | None) -> NDArray[np.float64] | None:
    """Those that the episode should have, where they cannot be read; None where that is not known either."""
    if rows is not None:
        return rows.t_s
    return np.arange(truth.length) / truth.fps if truth.length and truth.fps else None
