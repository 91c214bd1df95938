"""The manifest: one row per candidate window or faulty source, kept or with the reason why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpora.store.files import put_in_place

TIERS = ("human", "synthetic", "neural", "robot")


@dataclass(frozen=True)
class ClipRow:
    """A candidate window of a source, or a source that could not be used at all."""

    clip_id: str
    """16 hex digits: a hash of the source's content, the camera or episode selector, start and end."""
    source: str
    """As shown to people: the path below the input root, "<dataset>/episode_000003/<camera>" or "<tar>/<key>"."""
    group: str
    """The unit of hold-out: one source video, or one episode with all its cameras."""
    content_hash: str = ""
    """BLAKE2b (128 bits, hex) of the video file; empty where it could not be read."""
    start_s: float = 0.0
    """Presentation time of the window's first frame, as a player counts (zero is the first frame, or the sound where that
    begins earlier), or from the episode's first frame."""
    end_s: float = 0.0
    fps: float = 0.0
    """Mean rate of the stored frames."""
    frames: int = 0
    width: int = 0
    """Of the source, after rotation."""
    height: int = 0
    size: int = 0
    """Side of the stored, square frames."""
    tier: str = "human"
    embodiment: str = ""
    text: str = ""
    decoder: str = ""
    """"decord" or "pyav"."""
    decoder_note: str = ""
    """Why it was not decord. Video that a player shows otherwise than it is stored is named here: rotated, mirrored, pixels
    that are not square, interlaced (and deinterlaced), PQ or HLG (and tone-mapped)."""
    codec: str = ""
    shot: int = 0
    """Index of the shot within the source."""
    luma_mean: float = 0.0
    blur: float = 0.0
    """Variance of the Laplacian of the sharper frames, at a short side of 192 pixels; small is blurred."""
    motion: float = 0.0
    """Mean absolute difference of luma (0-255) over about half a second."""
    camera_dx: float = 0.0
    """Median over pairs of the absolute shift of the image's centre, in half-widths. Like what follows, of kept windows only."""
    camera_dy: float = 0.0
    camera_rot_deg: float = 0.0
    camera_scale: float = 0.0
    """Median over pairs of |scale - 1|."""
    camera_inliers: float = 0.0
    kept: bool = False
    reason: str = ""
    """Empty where kept."""
    detail: str = ""
    shard: str = ""
    index_in_shard: int = -1

    @property
    def seconds(self) -> float:
        """Length of the window; 0 for a source of unknown length."""
        return max(0.0, self.end_s - self.start_s)

    @staticmethod
    def from_json(record: dict[str, Any]) -> ClipRow:
        """From a dict that has at least the fields of a row; others are ignored."""
        return ClipRow(**{name: record[name] for name in FIELDS if name in record})


FIELDS = tuple(field.name for field in dataclasses.fields(ClipRow))
_ARROW = {"str": pa.string(), "float": pa.float64(), "int": pa.int32(), "bool": pa.bool_()}
SCHEMA = pa.schema(
    [pa.field(field.name, _ARROW[str(field.type)], nullable=False) for field in dataclasses.fields(ClipRow)]
)

ROWS_PER_GROUP = 1024


class ManifestWriter:
    """Writes rows as they come, at most one row group in memory; the file appears under its name when complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(path.name + ".tmp")
        self._writer = pq.ParquetWriter(self._temporary, SCHEMA, compression="zstd")
        self._rows: list[ClipRow] = []

    def append(self, row: ClipRow) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        columns = {name: [getattr(row, name) for row in self._rows] for name in FIELDS}
        self._writer.write_table(pa.table(columns, schema=SCHEMA))
        self._rows = []

    def __enter__(self) -> ManifestWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and self._rows:
            self._flush()
        self._writer.close()
        if kind is None:
            put_in_place(self._temporary, self._path)


def read_manifest(path: Path, *, kept_only: bool = False) -> Iterator[ClipRow]:
    """Rows in order, one row group in memory at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
            rows = map(ClipRow.from_json, batch.to_pylist())
            yield from (row for row in rows if row.kept or not kept_only)
