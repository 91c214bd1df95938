"""Which pair of frames of a corpus a row is of: its video by name, its clip and frames by time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.sources.source import VIDEO_SUFFIXES
from corpora.video.nearest import nearest_rows
from lapa.foreign.row import Bad, Row

NO_VIDEO = "is of a video that is not in the corpus"
NO_CLIP = "is of a clip that is not in the corpus"
SEVERAL = "names several videos of the corpus"


@dataclass(frozen=True)
class Placed:
    """P rows of one clip, in the order of their times."""

    rows: NDArray[np.int64]
    """[P]: which of all."""
    first: NDArray[np.int64]
    """[P]: frame of the clip."""
    second: NDArray[np.int64]


class Videos:
    """The clips of a corpus by what a row may call their video: its name in the corpus (the path below what was ingested), that
    name behind more folders, or its end; with or without the file's suffix."""

    def __init__(self, rows: Sequence[ClipRow]) -> None:
        self.by_clip = {row.clip_id: row for row in rows}
        self.clips: dict[str, list[ClipRow]] = defaultdict(list)
        """Source -> its clips."""
        for row in rows:
            self.clips[row.source].append(row)
        self._whole: dict[str, set[str]] = defaultdict(set)
        self._ends: dict[str, set[str]] = defaultdict(set)
        for source, clips in self.clips.items():
            for name in {source, clips[0].group}:
                for form in _forms(name):
                    self._whole[form].add(source)
                    for end in _ends(form):
                        self._ends[end].add(source)

    def clips_of(self, row: Row) -> list[ClipRow] | Bad:
        """Those that its pair may lie in."""
        if row.clip:
            clip = self.by_clip.get(row.clip)
            return Bad(row.where, NO_CLIP, row.clip) if clip is None else [clip]
        sources = self._sources(row.video)
        if not sources:
            return Bad(row.where, NO_VIDEO, row.video)
        if len(sources) > 1:
            return Bad(row.where, SEVERAL, f"{row.video}: {', '.join(sorted(sources)[:3])}")
        return self.clips[next(iter(sources))]

    def _sources(self, video: str) -> set[str]:
        for form in _forms(video):
            if form in self._ends:
                return self._whole.get(form) or self._ends[form]
            for end in _ends(form):
                if end in self._whole:
                    return self._whole[end]
        return set()


def _forms(name: str) -> list[str]:
    """As it is, and without the suffix of a video file."""
    path = PurePosixPath(name.replace("\\", "/"))
    short = path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path
    return list(dict.fromkeys((str(path), str(short))))


def _ends(name: str) -> list[str]:
    """The path and what is left of it without its first folders, the longest first."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", ".")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def place_rows(corpus: Corpus, rows: Sequence[Row]) -> tuple[dict[str, Placed], list[Bad]]:
    """(clip_id -> the rows whose pairs lie in it, those that lie nowhere)."""
    videos = Videos(corpus.clips)
    bad: list[Bad] = []
    candidates: list[tuple[int, list[ClipRow]]] = []
    for number, row in enumerate(rows):
        found = videos.clips_of(row)
        if isinstance(found, Bad):
            bad.append(found)
        else:
            candidates.append((number, found))
    times = corpus.times({clip.clip_id for _, clips in candidates for clip in clips}) if candidates else {}
    inside: dict[str, list[int]] = defaultdict(list)
    for number, clips in candidates:
        row = rows[number]
        holding = [clip for clip in clips if _within(times[clip.clip_id], row.t_s)]
        both = [clip for clip in holding if _within(times[clip.clip_id], row.t_s + row.gap_s)]
        if both:
            inside[both[0].clip_id].append(number)
        elif holding:
            last = times[holding[-1].clip_id][-1]
            told = f"{row.t_s:g} + {row.gap_s:g} s, its clip ends at {last:.2f} s"
            bad.append(Bad(row.where, "ends after its clip", told))
        else:
            bad.append(Bad(row.where, "lies outside of the clips of its video", f"{row.t_s:g} s of {clips[0].source}"))
    placed: dict[str, Placed] = {}
    for clip_id, numbers in inside.items():
        found_here, lost = _frames(times[clip_id], rows, numbers)
        bad += lost
        if len(found_here.rows):
            placed[clip_id] = found_here
    return placed, bad


def _within(t_s: NDArray[np.float64], moment_s: float) -> bool:
    edge = tolerance(t_s)
    return bool(t_s[0] - edge <= moment_s <= t_s[-1] + edge)


def tolerance(t_s: NDArray[np.float64]) -> float:
    """Seconds by which a time may miss a frame's: a clock's rounding, not another frame (`lapa.pairs.pair.frames_at`)."""
    return 0.25 * (float(np.median(np.diff(t_s))) if len(t_s) > 1 else 0.0) + 1e-3


def _frames(t_s: NDArray[np.float64], rows: Sequence[Row], numbers: list[int]) -> tuple[Placed, list[Bad]]:
    starts = np.array([rows[number].t_s for number in numbers])
    ends = starts + np.array([rows[number].gap_s for number in numbers])
    first, near = nearest_rows(t_s, starts, tolerance(t_s))
    second, also_near = nearest_rows(t_s, ends, tolerance(t_s))
    bad: list[Bad] = []
    kept: dict[tuple[int, int], int] = {}
    for number, i, j, good in zip(numbers, first.tolist(), second.tolist(), near & also_near, strict=True):
        row = rows[number]
        told = f"{row.t_s:g} and {row.t_s + row.gap_s:g} s"
        if not good:
            bad.append(Bad(row.where, "is at times of which the corpus keeps no frame", told))
        elif j <= i:
            bad.append(Bad(row.where, "has one frame for both", told))
        elif (i, j) in kept:
            bad.append(Bad(row.where, "is of a pair that an earlier row has", told))
        else:
            kept[i, j] = number
    order = sorted(kept)
    chosen = np.array([kept[pair] for pair in order], np.int64)
    frames = np.array(order, np.int64).reshape(-1, 2)
    return Placed(chosen, frames[:, 0], frames[:, 1]), bad
