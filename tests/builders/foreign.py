"""Latents as other trainers write them, from rows of giza's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpora.clips.corpus import Corpus
from corpora.clips.parts import plan_parts
from lapa.latents import LatentKey
from lapa.pairs.config import PairConfig
from lapa.pairs.reader import PairReader
from lapa.pairs.table import PairTable
from tests.builders.latents import write_made_part

FIELDS = {
    "clip_id": "clip",
    "t_s": "t_s",
    "gap_s": "gap_s",
    "latent": "vector",
    "quantized": "quantized",
    "codes": "codes",
}


def records_of(rows: list[dict[str, Any]], **names: str) -> list[dict[str, Any]]:
    """Their columns under the names of a foreign file; `names`: others, "" leaves one out."""
    chosen = {own: theirs for own, theirs in (FIELDS | names).items() if theirs}
    return [{theirs: row[own] for own, theirs in chosen.items()} for row in rows]


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def write_npz(path: Path, records: list[dict[str, Any]]) -> Path:
    np.savez(path, **{name: np.array([record[name] for record in records]) for name in records[0]})
    return path


def write_parquet(path: Path, records: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


WRITERS = {"jsonl": write_jsonl, "npz": write_npz, "parquet": write_parquet}


def measured_latents(folder: Path, corpus: Path, *, size: int = 8, gap_s: float = 0.5) -> Path:
    """Random latents of all pairs, with two codes each, as an extraction would leave them: camera and motion are measured."""
    opened, rng = Corpus(corpus), np.random.default_rng(0)
    reader = PairReader(PairConfig(camera_compensation=False), gap_s=(gap_s,))
    key = LatentKey(model_hash="made", gap_s=gap_s, stride_s=0.0, corpus=opened.identity, part_frames=60)
    folder.mkdir(parents=True)
    for part in plan_parts(opened.clips, 60):
        stored = opened.stored([row.clip_id for row in part.rows])
        tables = [(each.row, reader.table(each)) for each in stored]
        clips = [(row, table.batch().without_images()) for row, table in tables if isinstance(table, PairTable)]
        latent = rng.normal(size=(sum(len(pairs) for _, pairs in clips), size))
        if clips:
            write_made_part(folder, part, key, clips, latent, 2 * latent, rng.integers(50, size=(len(latent), 2)))
    return folder
