"""Tracks of a corpus on disk, beside its clips.

FOLDER/_track.json           by which source, what share of the frames is seen; written last
       _clips.parquet        a row for each clip of the corpus: how much of it is seen, or why it has no track
       part-000000.parquet   a row for each frame of the clips that have one
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.agent.track import SHAPES, Track, known_track
from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.parts import PartKey, part_paths, read_footer, read_record, required, write_rows
from corpora.store.decode import decode
from corpora.store.files import digest_of

SUMMARY = "_track.json"
CLIPS = "_clips.parquet"
FORMAT = 2
"""Raised when the same settings would give other rows; 1 knew no turn and no opening, which are read as not known."""
SCHEMA = required(
    clip_id=pa.string(),
    frame=pa.int32(),
    t_s=pa.float64(),
    **dict.fromkeys(("x_px", "y_px", "confidence", "depth_m", "opening"), pa.float32()),
    position_m=pa.list_(pa.float32(), 3),
    turn_xyzw=pa.list_(pa.float32(), 4),
    mask=pa.binary(),
)
"""NaN is what is not known. mask: a bit for each pixel of the stored frame, row after row (numpy.packbits); empty where
there is none. Pixels are those of the stored frame, see `Track`."""

_PLAIN = tuple(name for name in SHAPES if name != "point_px")
"""Columns that are called as in `Track`."""


@dataclass(frozen=True)
class ClipTrack:
    """What _clips.parquet says of one clip."""

    clip_id: str
    source: str
    frames: int
    seen: int
    """Frames of which both the agent's pixels and its point are known."""
    confidence: float
    """Mean over the seen frames."""
    reason: str
    """Why it has no track; empty where it has one."""
    detail: str

    @property
    def seen_share(self) -> float:
        return self.seen / max(1, self.frames)


def track_table(tracks: Sequence[tuple[ClipRow, NDArray[np.float64], Track]]) -> pa.Table:
    """Rows of clips (their times [T] and tracks), as a part has them."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for row, t_s, track in tracks:
        count = len(t_s)
        columns["clip_id"] += [row.clip_id] * count
        columns["frame"] += range(count)
        columns["t_s"] += t_s.tolist()
        columns["x_px"] += track.point_px[:, 0].tolist()
        columns["y_px"] += track.point_px[:, 1].tolist()
        for name in _PLAIN:
            columns[name] += getattr(track, name).tolist()
        columns["mask"] += [np.packbits(mask).tobytes() if mask.any() else b"" for mask in track.mask]
    return pa.table(columns, schema=SCHEMA)


def write_clips(folder: Path, rows: Iterable[ClipRow], skipped: dict[str, tuple[str, str]]) -> list[ClipTrack]:
    """_clips.parquet of the clips `rows`, from the parts in `folder`, and what it says; `skipped`: clip id -> (reason, detail) of
    those without a track."""
    found: dict[str, tuple[int, float]] = {}
    for path in part_paths(folder):
        table = pq.read_table(path, columns=["clip_id", "x_px", "y_px", "confidence", "mask"])
        there = np.isfinite(table["x_px"].to_numpy()) & np.isfinite(table["y_px"].to_numpy())
        there &= np.array([bool(mask) for mask in table["mask"].to_pylist()], bool)
        confidence = table["confidence"].to_numpy()
        names = np.array(table["clip_id"].to_pylist(), object)
        for name in dict.fromkeys(names.tolist()):
            mine = there & (names == name)
            found[name] = int(mine.sum()), float(confidence[mine].mean()) if mine.any() else 0.0
    clips = []
    for row in rows:
        seen, mean = found.get(row.clip_id, (0, 0.0))
        reason, detail = skipped.get(row.clip_id, ("", ""))
        clips.append(ClipTrack(row.clip_id, row.source, row.frames, seen, mean, reason, detail))
    write_rows(folder / CLIPS, pa.Table.from_pylist([vars(clip) for clip in clips]))
    return clips


def seen_of(clips: Sequence[ClipTrack]) -> dict[str, Any]:
    """What a summary says of them."""
    frames, seen = sum(clip.frames for clip in clips), sum(clip.seen for clip in clips)
    return {
        "clips": len(clips),
        "tracked_clips": sum(clip.seen > 0 for clip in clips),
        "frames": frames,
        "seen_frames": seen,
        "seen_share": seen / max(1, frames),
    }


class Tracks:
    """A finished folder of `giza track`, as it fits the frames of `corpus`: of that corpus, or of one of the same clips at
    another size (a corpus of larger frames, in which a far hand is found).

    Raises ValueError where it is none, or of other clips.
    """

    def __init__(self, folder: str | Path, corpus: Corpus) -> None:
        self.folder = Path(folder).expanduser()
        summary = read_record(self.folder, SUMMARY)
        if summary is None:
            raise ValueError(
                f"'{folder}' holds no finished tracks: make them with giza track --corpus {corpus.folder} --out {folder}"
            )
        records = pq.read_table(self.folder / CLIPS).to_pylist()
        clips = [decode(ClipTrack, record, what=f"{self.folder / CLIPS}") for record in records]
        self.clips = {clip.clip_id: clip for clip in clips}
        """By clip id, all that were looked at."""
        frames = {name: clip.frames for name, clip in self.clips.items()}
        other = [row.clip_id for row in corpus.clips if frames.get(row.clip_id) != row.frames]
        if other or summary["fit"] != corpus.fit:
            raise ValueError(
                f"tracks '{folder}' are not of the clips of '{corpus.folder}' but of '{summary['corpus']}' "
                f"({len(other)} clips differ, e.g. {other[:1]}; fit {summary['fit']} there, {corpus.fit} here): track this "
                "corpus, or one of the same videos and settings at another --size"
            )
        self.summary: dict[str, Any] = summary
        self._sizes = {row.clip_id: row.size for row in corpus.clips}
        self._held: tuple[Path, dict[str, Track]] | None = None

    @cached_property
    def identity(self) -> str:
        """Of what was found in which clips, and how."""
        keys = [read_footer(path).key(PartKey, "tracks") for path in part_paths(self.folder)[:1]]
        made = [[key.model_hash, key.corpus, key.format] for key in keys]
        return digest_of(json.dumps(made), (self.folder / CLIPS).read_bytes())

    @cached_property
    def _places(self) -> dict[str, Path]:
        return {
            name: path
            for path in part_paths(self.folder)
            for name in pq.read_table(path, columns=["clip_id"])["clip_id"].unique().to_pylist()
        }

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._places

    def __getitem__(self, clip_id: str) -> Track:
        """Of a clip that has one, in pixels of the corpus; one part is in memory, so ask in the order of the corpus."""
        path = self._places[clip_id]
        if self._held is None or self._held[0] != path:
            self._held = path, dict(self._read(path))
        return self._held[1][clip_id].resized(self._sizes[clip_id])

    def _read(self, path: Path) -> Iterator[tuple[str, Track]]:
        table = pq.read_table(path)
        names = np.array(table["clip_id"].to_pylist(), object)
        for name in dict.fromkeys(names.tolist()):
            size = int(self.summary["size"])
            mine = table.filter(pa.array(names == name))
            masks = np.zeros((mine.num_rows, size, size), bool)
            for mask, packed in zip(masks, mine["mask"].to_pylist(), strict=True):
                if packed:
                    mask[:] = np.unpackbits(np.frombuffer(packed, np.uint8), count=size * size).reshape(size, size)
            point = np.stack([mine["x_px"].to_numpy(), mine["y_px"].to_numpy()], 1)
            there = [name for name in _PLAIN if name in mine.column_names]
            known = {name: np.array(mine[name].to_pylist(), np.float32).reshape(-1, *SHAPES[name]) for name in there}
            yield name, known_track(masks, point, **known)
