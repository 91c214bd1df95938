"""The pairs of a corpus in memory-mapped files: decoded once, tracked once, flow computed once.

    <cache>/pairs-64px-<key>/frames.raw, flow.raw, features.raw     row after row; those that the model looks at
                             table.npz                              the rest, and their shapes

A corpus that does not fit the disk budget is streamed instead (lapa/pairs/batches.py); both give the same pairs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.parts import SkippedClip, plan_parts
from corpora.store.frames import made_once
from lapa.pairs.config import FLOW_STRIDE
from lapa.pairs.known_motion import KNOWN_MOTION
from lapa.pairs.pair import STABILISED
from lapa.pairs.reader import PairReader
from lapa.pairs.table import PairTable

_MAPPED = ("frames", "flow", "features")
"""Arrays that are too large for memory; the others are in table.npz."""


def table_bytes(rows: Sequence[ClipRow], reader: PairReader, feature_numbers: int) -> int:
    """Disk that the pairs of these clips take at most. `feature_numbers`: of a frame, for a feature target."""
    pixels, gaps = math.prod(reader.config.shape), len(reader.gaps_s)
    flow = gaps * 2 * 2 * (pixels // FLOW_STRIDE**2) if reader.flow else 0
    return sum(row.frames for row in rows) * (3 * pixels + flow + 2 * feature_numbers)


def open_table(
    corpus: Corpus,
    rows: Sequence[ClipRow],
    reader: PairReader,
    *,
    cache: Path,
    target: str = "pixels",
    progress: Callable[[int, int], None] | None = None,
) -> PairTable | None:
    """The pairs of `rows`, whose place is `clip`, from the cache or made now (under a temporary name) by `reader`; None where
    no clip holds one.

    `target`: name of what `reader.featurise` makes of frames. Raises ValueError for a clip that does not decode.
    """
    stabilised = STABILISED if reader.config.camera_compensation else 0
    same_pairs = dataclasses.replace(reader.config, gap_s=reader.gaps_s, extract_gap_s=1.0)
    labels = reader.labels
    known = (labels.spec, sorted(labels.clips), labels.width, KNOWN_MOTION if labels.width else 0)
    identity = (same_pairs, reader.stride_s, stabilised, target, known, corpus.identity, [row.clip_id for row in rows])
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]

    def make(folder: Path) -> None:
        _build(folder, corpus, rows, reader, progress)

    return _open(made_once(cache, f"pairs-{reader.config.image_size}px", key, make), reader)


def decoded(item: PairTable | SkippedClip) -> PairTable | None:
    """The pairs of a clip; None where it holds none. Raises ValueError where it does not decode."""
    if isinstance(item, PairTable):
        return item
    if item.reason == "shorter_than_gap":
        return None
    raise ValueError(f"clip {item.row.clip_id} of {item.row.shard}: {item.reason}, {item.detail}: ingest it again")


def _build(
    folder: Path,
    corpus: Corpus,
    rows: Sequence[ClipRow],
    reader: PairReader,
    progress: Callable[[int, int], None] | None,
) -> None:
    place = {row.clip_id: number for number, row in enumerate(rows)}
    columns: dict[str, list[NDArray[Any]]] = {}
    frames = 0
    files: dict[str, BinaryIO] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for done, (_, row, item) in enumerate(reader.read_tables(corpus.root, plan_parts(rows)), 1):
            table = decoded(item)
            if progress is not None:
                progress(done, len(rows))
            if table is None:
                continue
            for name, array in _large(table, reader).items():
                if name not in files:
                    files[name] = open(folder / f"{name}.raw", "wb")  # noqa: SIM115
                files[name].write(np.ascontiguousarray(array).tobytes())
                shapes[name] = (shapes.get(name, (0,))[0] + len(array), *array.shape[1:])
            small = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
            small |= {"first": table.first + frames, "second": table.second + frames}
            small["clip"] = np.full(len(table), place[row.clip_id], np.int64)
            for name, array in small.items():
                if name not in (*_MAPPED, "config"):
                    columns.setdefault(name, []).append(array)
            frames += len(table.frames)
    finally:
        for file in files.values():
            file.close()
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    np.savez(folder / "table.npz", **arrays, **{f"{name}_shape": np.array(shape) for name, shape in shapes.items()})  # type: ignore[arg-type]


def _large(table: PairTable, reader: PairReader) -> dict[str, NDArray[Any]]:
    large: dict[str, NDArray[Any]] = {"frames": table.frames}
    if table.features is not None:
        large["features"] = table.features.astype(np.float16, copy=False)
    elif reader.flow:
        flow = reader.batch(table).flow
        assert flow is not None
        large["flow"] = flow.numpy().astype(np.float16)
    return large


def _open(folder: Path, reader: PairReader) -> PairTable | None:
    with np.load(folder / "table.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if not arrays:
        return None
    for name, dtype in (("frames", np.uint8), ("flow", np.float16), ("features", np.float16)):
        shape = arrays.pop(f"{name}_shape", None)
        arrays[name] = None if shape is None else np.memmap(folder / f"{name}.raw", dtype, "r", shape=tuple(shape))
    return PairTable(config=reader.config, **arrays)
