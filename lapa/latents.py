"""Latents on disk: Parquet parts, each a run of clips of one shard, written whole or not at all.

A part carries in its schema's metadata what it was made of (model, gap, stride, corpus, clips) and which clips gave no
rows, so a resumed extraction reads footers and nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.clips.manifest import ClipRow
from corpora.store.files import written_whole

SUMMARY = "extract.json"
FORMAT = 2
"""Raised when the same settings would give other rows."""
_METADATA = b"giza"

SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("tier", pa.string(), nullable=False),
        pa.field("embodiment", pa.string(), nullable=False),
        pa.field("t_s", pa.float64(), nullable=False),
        pa.field("gap_s", pa.float64(), nullable=False),
        pa.field("codes", pa.list_(pa.int32()), nullable=False),
        pa.field("latent", pa.list_(pa.float32()), nullable=False),
        pa.field("quantized", pa.list_(pa.float32()), nullable=False),
        pa.field("motion", pa.float32(), nullable=False),
        pa.field("camera", pa.list_(pa.float32()), nullable=False),
        pa.field("camera_inlier_ratio", pa.float32(), nullable=False),
        pa.field("model_hash", pa.string(), nullable=False),
    ]
)
"""One row per pair. t_s: source time of the first frame; gap_s: the pair's actual gap; codes: empty for continuous
models; latent: before quantisation, flattened; motion: mean absolute difference of luma, 0-255; camera: homography from
first to second, row-major."""


@dataclass(frozen=True)
class LatentKey:
    """What decides the rows of a folder of latents; two folders with one key hold the same rows."""

    model_hash: str
    gap_s: float
    stride_s: float
    corpus: str
    """Fingerprint of the corpus."""
    part_frames: int
    format: int = FORMAT


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
class PartSummary:
    """What a finished part holds."""

    index: int
    clips: int
    """Clips with rows."""
    pairs: int
    skipped: tuple[dict[str, str], ...]
    """clip_id, source, reason, detail of each clip that gave no row."""


@dataclass(frozen=True)
class PairColumns:
    """The rows of one clip, column by column; P pairs."""

    row: ClipRow
    t_s: NDArray[np.float64]
    gap_s: NDArray[np.float64]
    motion: NDArray[np.float32]
    camera: NDArray[np.float32]
    """[P, 9]."""
    camera_inlier_ratio: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.t_s)


def plan_parts(clips: Sequence[ClipRow], part_frames: int) -> list[Part]:
    """Clips in the order of the shards, cut where a shard ends or a part would hold more than `part_frames` frames."""
    if part_frames < 1:
        raise ValueError(f"part_frames {part_frames}: must be at least 1; try 4096")
    parts: list[Part] = []
    rows: list[ClipRow] = []
    for row in sorted(clips, key=lambda row: (row.shard, row.index_in_shard)):
        full = sum(r.frames for r in rows) + row.frames > part_frames
        if rows and (full or rows[0].shard != row.shard):
            parts.append(Part(len(parts), rows[0].shard, tuple(rows)))
            rows = []
        rows.append(row)
    if rows:
        parts.append(Part(len(parts), rows[0].shard, tuple(rows)))
    return parts


def write_part(
    out: Path,
    part: Part,
    key: LatentKey,
    pairs: Sequence[PairColumns],
    latents: Mapping[str, NDArray[Any]],
    skipped: Sequence[dict[str, str]],
) -> PartSummary:
    """Writes `part` under its name once it is complete.

    `latents`: codes, latent, quantized, [rows of all pairs, D] each.
    """
    count = sum(len(columns) for columns in pairs)
    summary = PartSummary(part.index, len(pairs), count, tuple(skipped))
    repeated = {
        name: [getattr(columns.row, name) for columns in pairs for _ in range(len(columns))]
        for name in ("source", "group", "clip_id", "tier", "embodiment")
    }
    table = pa.table(
        {
            **repeated,
            "t_s": _joined([columns.t_s for columns in pairs], np.float64),
            "gap_s": _joined([columns.gap_s for columns in pairs], np.float64),
            "codes": _lists(latents["codes"], np.int32),
            "latent": _lists(latents["latent"], np.float32),
            "quantized": _lists(latents["quantized"], np.float32),
            "motion": _joined([columns.motion for columns in pairs], np.float32),
            "camera": _lists(_joined([columns.camera for columns in pairs], np.float32).reshape(count, 9), np.float32),
            "camera_inlier_ratio": _joined([columns.camera_inlier_ratio for columns in pairs], np.float32),
            "model_hash": [key.model_hash] * count,
        },
        schema=SCHEMA,
    )
    record = {"key": dataclasses.asdict(key), "digest": part.digest, "summary": dataclasses.asdict(summary)}
    table = table.replace_schema_metadata({_METADATA: json.dumps(record, sort_keys=True).encode()})
    with written_whole(out / part.name) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return summary


def finished_parts(out: Path, plan: Sequence[Part], key: LatentKey) -> dict[int, PartSummary]:
    """Summaries of the parts of `plan` that are there.

    Raises ValueError where the folder holds latents of another model, gap, stride or corpus, or a part that giza did
    not write.
    """
    by_name = {part.name: part for part in plan}
    done: dict[int, PartSummary] = {}
    for path in sorted(out.glob("part-*.parquet")):
        record = _read_record(path)
        there = record["key"]
        here = dataclasses.asdict(key)
        differing = [name for name in here if there.get(name) != here[name]]
        if differing:
            values = ", ".join(f"{name} {there.get(name)!r} there, {here[name]!r} asked for" for name in differing)
            raise ValueError(
                f"--out {out} holds other latents ({values}); choose another --out, or remove it to start anew"
            )
        part = by_name.get(path.name)
        if part is None or record["digest"] != part.digest:
            raise ValueError(
                f"{path} was made from other clips than the corpus has now; choose another --out, or remove it to "
                "start anew"
            )
        summary = record["summary"]
        done[part.index] = PartSummary(part.index, summary["clips"], summary["pairs"], tuple(summary["skipped"]))
    return done


def _read_record(path: Path) -> dict[str, Any]:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} is not a whole Parquet file ({error}); remove it and run the same command again"
        ) from error
    if _METADATA not in metadata:
        raise ValueError(f"{path} was not written by giza extract; choose another --out")
    return dict(json.loads(metadata[_METADATA]))


def _joined(arrays: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(array, dtype).ravel() for array in arrays)])


def _lists(values: NDArray[Any], dtype: type) -> pa.ListArray:
    """[N, D] as a column of lists of length D."""
    values = np.ascontiguousarray(values, dtype)
    width = values.shape[1] if values.ndim == 2 else 0
    offsets = np.arange(len(values) + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))
