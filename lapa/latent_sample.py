"""A bounded, deterministic sample of extracted latents, and the counts that need all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

TRUTH_SHARE = 0.75
"""Pairs with known actions may take this share of the sample where there are others; the probe lives on them."""
THINNING = 4
"""A clip's pairs overlap in time: at most so many times more are decoded than are kept."""


@dataclass(frozen=True)
class LatentSample:
    """N pairs, in the order of the Parquet parts."""

    clip_id: NDArray[np.str_]
    group: NDArray[np.str_]
    tier: NDArray[np.str_]
    embodiment: NDArray[np.str_]
    """The tier where no embodiment is named."""
    t_s: NDArray[np.float64]
    """Source time of the first frame."""
    gap_s: NDArray[np.float64]
    codes: NDArray[np.int32] | None
    """[N, codes]; None for continuous models."""
    latent: NDArray[np.float32]
    """[N, D] before quantisation."""
    quantized: NDArray[np.float32]
    motion: NDArray[np.float32]
    """Mean absolute difference of luma, 0-255."""
    camera: NDArray[np.float64]
    """[N, 3, 3] homography from first to second, normalised coordinates."""
    camera_inlier_ratio: NDArray[np.float32]
    """0 where the camera's motion is unknown."""
    pairs: int
    """Pairs that the folder holds, the sample's among them."""
    model_hashes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.t_s)


def latent_parts(root: str | Path) -> list[Path]:
    """The Parquet parts of a folder of latents. Raises ValueError where there are none."""
    parts = sorted(Path(root).expanduser().glob("part-*.parquet"))
    if not parts:
        raise ValueError(f"'{root}' holds no latents: make them with giza extract --out {root}")
    return parts


def iterate_columns(root: str | Path, columns: list[str], rows: int = 8192) -> Iterator[pa.RecordBatch]:
    """All rows of a folder of latents, a batch at a time."""
    for path in latent_parts(root):
        with pq.ParquetFile(path) as file:
            missing = set(columns) - set(file.schema_arrow.names)
            if missing:
                raise ValueError(f"{path} lacks {sorted(missing)}: extract the latents again with giza extract")
            yield from file.iter_batches(batch_size=rows, columns=columns)


def list_column(column: pa.Array, dtype: Any) -> NDArray[Any]:
    """Lists of one length -> [rows, length]."""
    flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype)
    return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 0)


def read_codes(root: str | Path) -> Iterator[NDArray[np.int32]]:
    """Codes [rows, codes] of all pairs, a batch at a time; [rows, 0] for continuous models."""
    for batch in iterate_columns(root, ["codes"]):
        yield list_column(batch.column("codes"), np.int32)


def read_sample(
    root: str | Path,
    *,
    known_clips: Iterable[str],
    with_truth: Iterable[str],
    max_pairs: int,
    seed: int = 0,
    gap_s: float | None = None,
) -> LatentSample:
    """At most `max_pairs` pairs of the clips in `known_clips`, those in `with_truth` first in line.

    `gap_s`: only pairs within a fifth of it. The same files and seed give the same sample. Raises ValueError where no
    pair is left.
    """
    known, truth = set(known_clips), set(with_truth)
    names: list[str] = []
    number_of: dict[str, int] = {}
    clip_parts: list[NDArray[np.int64]] = []
    gap_parts: list[NDArray[np.float64]] = []
    for batch in iterate_columns(root, ["clip_id", "gap_s"]):
        encoded = batch.column("clip_id").dictionary_encode()
        numbers = [number_of.setdefault(name, len(number_of)) for name in encoded.dictionary.to_pylist()]
        clip_parts.append(np.array(numbers, np.int64)[encoded.indices.to_numpy(zero_copy_only=False)])
        gap_parts.append(batch.column("gap_s").to_numpy(zero_copy_only=False))
    names = list(number_of)
    clip_of = np.concatenate(clip_parts) if clip_parts else np.zeros(0, np.int64)
    gaps = np.concatenate(gap_parts) if gap_parts else np.zeros(0)
    usable = np.array([name in known for name in names], bool)[clip_of] if names else np.zeros(0, bool)
    if gap_s is not None:
        usable &= np.abs(gaps - gap_s) <= 0.2 * gap_s
    if not usable.any():
        wanted = "" if gap_s is None else f" with a gap near {gap_s:g} s"
        raise ValueError(
            f"'{root}' holds {len(clip_of)} pairs, none{wanted} of a clip of this corpus: give the corpus that these "
            "latents were extracted from"
        )
    has_truth = np.array([name in truth for name in names], bool)[clip_of]
    chosen = choose_rows(clip_of, names, usable, has_truth, max_pairs, seed)
    return _read_rows(root, chosen, len(clip_of))


def choose_rows(
    clip_of: NDArray[np.int64],
    names: list[str],
    usable: NDArray[np.bool_],
    has_truth: NDArray[np.bool_],
    max_pairs: int,
    seed: int,
) -> NDArray[np.bool_]:
    """Mask [rows] of the sample: whole clips in the order of a hash of their names, then thinned evenly."""
    truth_rows, other_rows = usable & has_truth, usable & ~has_truth
    truth_quota = min(
        int(truth_rows.sum()), max_pairs - min(int(other_rows.sum()), round((1 - TRUTH_SHARE) * max_pairs))
    )
    rank = np.argsort(
        np.argsort([hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).hexdigest() for name in names])
    )
    chosen = np.zeros(len(clip_of), bool)
    for rows, quota in ((truth_rows, truth_quota), (other_rows, max_pairs - truth_quota)):
        candidates = np.flatnonzero(rows)
        if len(candidates) == 0 or quota <= 0:
            continue
        order = candidates[np.argsort(rank[clip_of[candidates]], kind="stable")]
        order = order[: THINNING * quota]
        if len(order) > quota:
            order = order[np.linspace(0, len(order) - 1, quota).round().astype(np.int64)]
        chosen[order] = True
    return chosen


def _read_rows(root: str | Path, chosen: NDArray[np.bool_], pairs: int) -> LatentSample:
    columns = [
        "clip_id", "group", "tier", "embodiment", "t_s", "gap_s", "codes", "latent", "quantized", "motion", "camera",
        "camera_inlier_ratio", "model_hash",
    ]  # fmt: skip
    taken: list[pa.RecordBatch] = []
    start = 0
    for batch in iterate_columns(root, columns):
        mask = chosen[start : start + len(batch)]
        start += len(batch)
        if mask.any():
            taken.append(batch.filter(pa.array(mask)))
    table = pa.Table.from_batches(taken).combine_chunks()

    def text(name: str) -> NDArray[np.str_]:
        return np.array(table.column(name).to_pylist(), np.str_)

    def number(name: str) -> NDArray[Any]:
        return table.column(name).to_numpy()

    def lists(name: str, dtype: Any) -> NDArray[Any]:
        return list_column(table.column(name).combine_chunks(), dtype)

    codes = lists("codes", np.int32)
    camera = lists("camera", np.float64)
    return LatentSample(
        clip_id=text("clip_id"),
        group=text("group"),
        tier=text("tier"),
        embodiment=np.where(text("embodiment") == "", text("tier"), text("embodiment")),
        t_s=number("t_s"),
        gap_s=number("gap_s"),
        codes=codes if codes.shape[1] else None,
        latent=lists("latent", np.float32),
        quantized=lists("quantized", np.float32),
        motion=number("motion"),
        camera=camera.reshape(-1, 3, 3),
        camera_inlier_ratio=number("camera_inlier_ratio"),
        pairs=pairs,
        model_hashes=tuple(sorted(set(table.column("model_hash").to_pylist()))),
    )


def rows_by_clip(sample: LatentSample, rows: NDArray[np.integer]) -> dict[str, NDArray[np.int64]]:
    """clip_id -> those of `rows` that are pairs of the clip."""
    result: dict[str, list[int]] = {}
    for row in rows.tolist():
        result.setdefault(str(sample.clip_id[row]), []).append(row)
    return {clip: np.array(found, np.int64) for clip, found in result.items()}


Progress = Callable[[str, int, int], None]
"""(what, done, of how many)."""
