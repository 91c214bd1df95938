"""Which latents of a clip become rows at a dataset's rate, and where one episode ends and the next begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.episodes.columns import column_array
from corpora.video.nearest import nearest_rows
from lapa.latents import Latents

_SLACK = 1.25
"""Latents up to so many times further apart than rows are still one for each row, but for a few."""


@dataclass(frozen=True)
class ClipLatents:
    """The latents of one clip, P pairs in the order of their times."""

    clip_id: str
    t_s: NDArray[np.float64]
    """[P]: source time of the first frame."""
    gap_s: NDArray[np.float64]
    codes: NDArray[np.int64]
    """[P, C]; C is 0 for continuous models."""
    vector: NDArray[np.float32]
    """[P, D]."""


@dataclass(frozen=True)
class Stretch:
    """An episode to be: rows at a constant rate, each with a latent of its own."""

    clip_id: str
    start_s: float
    """Source time of its first row."""
    chosen: NDArray[np.int64]
    """[N]: which of the clip's latents each row has."""
    off_s: float
    """How far a latent's time is from its row's, at most."""


class Left(ValueError):
    """A clip that gives no episode."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def latents_by_clip(latents: Latents, vector: str = "") -> Iterator[ClipLatents]:
    """Clip after clip, in the order of the parts. `vector`: column of what becomes the action; empty: times alone."""
    wanted = ["clip_id", "t_s", "gap_s", *(["codes", vector] if vector else [])]
    for path in latents.parts:
        table = pq.read_table(path, columns=wanted).combine_chunks()
        names = np.array(table.column("clip_id").to_pylist(), np.str_)
        times = {name: table.column(name).to_numpy() for name in ("t_s", "gap_s")}
        empty = np.zeros((len(names), 0))
        codes = column_array(table.column("codes"), np.int64) if vector and len(names) else empty.astype(np.int64)
        values = column_array(table.column(vector), np.float32) if vector and len(names) else empty.astype(np.float32)
        for name in dict.fromkeys(names.tolist()):
            mine = np.flatnonzero(names == name)
            mine = mine[np.argsort(times["t_s"][mine], kind="stable")]
            yield ClipLatents(name, times["t_s"][mine], times["gap_s"][mine], codes[mine], values[mine])


def usual_rate(clips: Sequence[ClipLatents]) -> int:
    """Rows a second at which most latents lie, rounded down, at least 1."""
    count: dict[int, int] = {}
    for clip in clips:
        if len(clip.t_s) > 1:
            rate = max(1, int(1 / float(np.median(np.diff(clip.t_s))) + 0.05))
            count[rate] = count.get(rate, 0) + len(clip.t_s)
    return max(count, key=lambda rate: (count[rate], rate), default=1)


def stretches(clip: ClipLatents, fps: int, min_s: float) -> list[Stretch]:
    """Rows 1 / `fps` apart from the clip's first latent on, each the latent nearest to it, within half a row. Where there is
    none, as behind a hole, an episode ends. Raises Left where the clip gives none."""
    step = 1 / fps
    if len(clip.t_s) > 1 and (apart := float(np.median(np.diff(clip.t_s)))) > _SLACK * step:
        remedy = f"give --fps {max(1, int(1 / apart + 0.05))}, or extract with a smaller --stride-s"
        raise Left("sparser_than_rows", f"latents {apart:.3f} s apart, rows {step:.3f} s: {remedy}")
    found: list[Stretch] = []
    begin = 0
    while begin < len(clip.t_s):
        start = float(clip.t_s[begin])
        wanted = np.asarray(start + np.arange(int((clip.t_s[-1] - start) * fps + 0.5) + 1) * step, np.float64)
        rows, near = nearest_rows(clip.t_s, wanted, 0.5 * step * _SLACK)
        fresh = np.diff(rows, prepend=rows[0] - 1) > 0
        good = near & fresh
        count = int(np.argmin(good)) if not good.all() else len(good)
        chosen = rows[:count]
        off = float(np.abs(clip.t_s[chosen] - wanted[:count]).max())
        if count >= 2 and count * step >= min_s - 1e-9:
            found.append(Stretch(clip.clip_id, start, chosen, off))
        begin = int(chosen[-1]) + 1
    if not found:
        length = float(clip.t_s[-1] - clip.t_s[0]) if len(clip.t_s) else 0.0
        raise Left("too_short", f"{len(clip.t_s)} latents over {length:.2f} s, and an episode has {min_s:g} s")
    return found
