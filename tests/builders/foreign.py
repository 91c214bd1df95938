"""Latents as other trainers write them, from rows of giza's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FIELDS = {"clip_id": "clip", "t_s": "t_s", "gap_s": "gap_s", "latent": "vector", "quantized": "quantized", "codes": "codes"}


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
