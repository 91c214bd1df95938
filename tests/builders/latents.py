"""Made-up latents, written by extract's own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from corpora.clips.manifest import ClipRow
from corpora.clips.parts import Part
from lapa.latents import SCHEMA, LatentKey, write_latent_part
from lapa.pairs.batch import PairBatch


def pairs_at(
    t_s: NDArray[np.floating],
    gap_s: float = 0.5,
    motion: NDArray[np.floating] | None = None,
    camera: NDArray[np.floating] | None = None,
    inlier_ratio: float = 0.0,
) -> PairBatch:
    """Pairs that begin at `t_s` [P], without images; `camera` [P, 9]."""
    count = len(t_s)
    return PairBatch(
        torch.zeros(count, 0),
        torch.zeros(count, 0),
        t_s=torch.from_numpy(np.asarray(t_s, np.float64)),
        gap_s=torch.full((count,), gap_s, dtype=torch.float64),
        frame_index=torch.arange(count),
        motion=torch.zeros(count) if motion is None else torch.from_numpy(np.asarray(motion, np.float32)),
        camera=torch.zeros(count, 9) if camera is None else torch.from_numpy(np.asarray(camera, np.float32)),
        camera_inlier_ratio=torch.full((count,), inlier_ratio),
    )


def write_made_part(
    folder: Path,
    part: Part,
    key: LatentKey,
    clips: list[tuple[ClipRow, PairBatch]],
    latent: NDArray[np.floating],
    quantized: NDArray[np.floating] | None = None,
    codes: NDArray[np.integer] | None = None,
) -> None:
    """`latent` [pairs of all clips, D]; codes are none and quantized is latent unless given."""
    columns = {
        "latent": latent.astype(np.float32),
        "quantized": (latent if quantized is None else quantized).astype(np.float32),
        "codes": np.zeros((len(latent), 0), np.int32) if codes is None else codes.astype(np.int32),
    }
    write_latent_part(folder, part, key, clips, columns, [])


def rows(out: Path) -> list[dict]:
    return [row for path in sorted(out.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def parts(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("part-*"))}


def assert_same_rows(one: list[dict], other: list[dict]) -> None:
    """Equal keys and codes; latents to the rounding of another batch or thread."""

    def key(row: dict) -> tuple:
        return row["clip_id"], row["t_s"]

    one, other = sorted(one, key=key), sorted(other, key=key)
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        for name in SCHEMA.names:
            if name in ("latent", "quantized", "camera"):
                np.testing.assert_allclose(left[name], right[name], atol=1e-5)
            else:
                assert left[name] == right[name], name
