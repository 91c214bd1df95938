"""Parquet made of a corpus, in parts: each of a run of clips of one shard, written whole or not at all.

A part carries in its schema's metadata what it was made of (its folder's key, its clips) and which clips gave no rows, so
a job that goes on reads footers and nothing else. The folder's records are called by names that begin with _: pandas,
PyArrow and Spark, which read such a folder as one table, pass them by.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.clips.manifest import ClipRow
from corpora.store.decode import decode
from corpora.store.files import machine_trouble, read_json, written_whole

SETTINGS = "_settings.json"
"""Of the run that writes a folder of parts."""
_METADATA = b"giza"


@dataclass(frozen=True)
class PartKey:
    """What decides the rows of a folder of parts; two folders with one key hold the same rows. Jobs add fields of their
    own."""

    model_hash: str
    corpus: str
    """Identity of the corpus."""
    part_frames: int
    format: int
    """Raised by a job when the same key would give other rows."""

    @property
    def earlier(self) -> dict[str, Any]:
        """What folders mean that do not say it, since they are older than the field."""
        fields = [field for field in dataclasses.fields(self) if field.name != "format"]
        return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}

    @property
    def told(self) -> dict[str, Any]:
        """Its fields by name, but for those of which it has what older folders mean."""
        unsaid = self.earlier.items()
        return {name: value for name, value in dataclasses.asdict(self).items() if (name, value) not in unsaid}


Key = TypeVar("Key", bound=PartKey)


@dataclass(frozen=True)
class Part:
    """Clips that become one Parquet file."""

    index: int
    shard: str
    rows: tuple[ClipRow, ...]

    @property
    def name(self) -> str:
        return f"part-{self.index:06d}.parquet"

    @property
    def digest(self) -> str:
        """Of the clips and their order."""
        names = [self.shard, *(row.clip_id for row in self.rows)]
        return hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class SkippedClip:
    """A clip without rows."""

    row: ClipRow
    reason: str
    """A word with underscores."""
    detail: str

    def to_json(self) -> dict[str, str]:
        return {
            "clip_id": self.row.clip_id,
            "source": self.row.source,
            "reason": self.reason,
            "detail": self.detail.split("\n")[0][:200],
        }


@dataclass(frozen=True)
class PartSummary:
    """What a finished part holds."""

    index: int
    clips: int
    """Clips with rows."""
    pairs: int
    """Rows."""
    skipped: tuple[dict[str, str], ...]
    """`SkippedClip.to_json` of each clip that gave no row."""


def plan_parts(clips: Sequence[ClipRow], part_frames: int = sys.maxsize) -> list[Part]:
    """Clips in the order of the shards, cut where a shard ends or a part would hold more than `part_frames` frames."""
    if part_frames < 1:
        raise ValueError(f"part_frames {part_frames}: must be at least 1; try 4096")
    parts: list[Part] = []
    rows: list[ClipRow] = []
    frames = 0
    for row in [*sorted(clips, key=lambda row: (row.shard, row.index_in_shard)), None]:
        if rows and (row is None or frames + row.frames > part_frames or rows[0].shard != row.shard):
            parts.append(Part(len(parts), rows[0].shard, tuple(rows)))
            rows, frames = [], 0
        if row is not None:
            rows.append(row)
            frames += row.frames
    return parts


def write_part(
    out: Path, part: Part, key: PartKey, table: pa.Table, skipped: Sequence[SkippedClip] = ()
) -> PartSummary:
    """Writes the rows `table` of `part` under its name once they are complete; `skipped`: its clips that gave none."""
    clips, told = len(part.rows) - len(skipped), tuple(each.to_json() for each in skipped)
    summary = PartSummary(part.index, clips, table.num_rows, told)
    record = {"key": key.told, "digest": part.digest, "summary": dataclasses.asdict(summary)}
    write_rows(out / part.name, table, json.dumps(record, sort_keys=True))
    return summary


def write_rows(path: Path, table: pa.Table, made: str = "") -> None:
    """A Parquet file, whole; `made`: JSON of what decides its rows, for its footer."""
    if made:
        table = table.replace_schema_metadata({_METADATA: made.encode()})
    with written_whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def required(**columns: pa.DataType) -> pa.Schema:
    """Columns without nulls."""
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def list_column(values: NDArray[Any]) -> pa.ListArray:
    """[N, D] as a column of lists of length D."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).ravel()))


def part_paths(root: str | Path) -> list[Path]:
    """The Parquet files of a folder of parts, in their order."""
    return sorted(Path(root).expanduser().glob("part-*.parquet"))


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """The record `name` ("_extract.json") of a folder of parts; None where there is none. Raises ValueError where it is damaged,
    and for a folder of an earlier version of giza."""
    record = read_json(folder / name)
    if record is None and (said := earlier_version(folder, name)):
        raise ValueError(f"'{folder}' {said}")
    return record


def earlier_version(folder: Path, name: str) -> str:
    """What to do where an earlier version of giza wrote a folder whose record is now called `name`; "" where none did."""
    if (folder / name).exists() or not (folder / name.removeprefix("_")).is_file():
        return ""
    return (
        f"was written by an earlier version of giza ({name.removeprefix('_')}, now {name}): make it again by the same job, in "
        "another folder"
    )


@dataclass(frozen=True)
class Footer:
    """What a part says of itself."""

    path: Path
    rows: int
    made: bytes
    """JSON, as it was written; empty in a file that is not giza's."""

    @property
    def record(self) -> dict[str, Any]:
        """Raises ValueError where giza did not write the part."""
        try:
            return dict(json.loads(self.made))
        except ValueError as error:
            raise ValueError(f"{self.path} was not written by giza; remove it, or choose another --out") from error

    def key(self, kind: type[Key], what: str) -> Key:
        """What decided its rows; of a `PartKey` alone the fields that all jobs have. Raises ValueError for a part that is not
        `what` ("latents")."""
        record = self.record.get("key")
        if not isinstance(record, dict):
            raise ValueError(f"{self.path} holds no {what}: another job of giza wrote it; give a folder of {what}")
        if kind is PartKey:
            names = {field.name for field in dataclasses.fields(PartKey)}
            record = {name: value for name, value in record.items() if name in names}
        return decode(kind, record, what=f"{self.path} holds no {what}")


def read_footer(path: Path) -> Footer:
    """Of one part. Raises ValueError for damaged bytes, and OSError where the machine cannot read them now, or no longer has
    the file that it listed."""
    try:
        with pq.ParquetFile(path) as file:
            return Footer(path, file.metadata.num_rows, (file.schema_arrow.metadata or {}).get(_METADATA, b""))
    except (OSError, pa.ArrowException) as error:
        if machine_trouble(error) or isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is not a whole Parquet file ({error}); remove it and run the same again") from error


def read_footers(folder: str | Path) -> list[Footer]:
    """Of a folder's parts, in their order. Raises ValueError for one that cannot be read."""
    return [read_footer(path) for path in part_paths(folder)]


def finished_parts(out: Path, plan: Sequence[Part], key: PartKey) -> dict[int, PartSummary]:
    """Summaries of the parts of `plan` that are there.

    Raises ValueError where the folder holds parts of another key (another model, gap, corpus ...), or a part that giza
    did not write.
    """
    by_name = {part.name: part for part in plan}
    done: dict[int, PartSummary] = {}
    for footer in read_footers(out):
        path, record = footer.path, footer.record
        if not record.keys() >= {"key", "digest", "summary"}:
            raise ValueError(f"{path} was written by another job of giza; choose another --out")
        there, here = key.earlier | record["key"], dataclasses.asdict(key)
        differing = [name for name in here if there.get(name) != here[name]]
        if differing:
            values = ", ".join(f"{name} {there.get(name)!r} there, {here[name]!r} asked for" for name in differing)
            raise ValueError(f"--out {out} holds others ({values}); choose another --out, or remove it to start anew")
        part = by_name.get(path.name)
        if part is None or record["digest"] != part.digest:
            raise ValueError(
                f"{path} was made from other clips than the corpus has now; choose another --out, or remove it to "
                "start anew"
            )
        done[part.index] = decode(PartSummary, record["summary"], what=str(path))
    return done
