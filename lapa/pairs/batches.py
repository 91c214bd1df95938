"""Batches of pairs for training: which pairs, augmented how, is a function of (seed, rank, batch number) alone.

So a resumed training sees just what an uninterrupted one would have seen, whatever the number of loader workers. A corpus
larger than the disk budget is streamed from its shards through a pool of clips; there the order starts anew on resume.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from lapa.model.config import LamConfig
from lapa.pairs.cache import FrameStore, clip_records
from lapa.pairs.config import FLOW_STRIDE, LabelSpec
from lapa.pairs.pair import pair_input, stabilise

Batch = dict[str, Tensor]
"""first, second: float32 [B, 3, S, S] in [0, 1] (feature targets: [B, N, F]); valid [B, 1, S, S]; flow [B, 2, S/4, S/4] where
the model wants it; label [B, A], NaN where unknown; clip: int64 [B]."""


@dataclass(frozen=True)
class Augmentation:
    """The same change to both frames of a pair, so that it carries nothing about what happened between them."""

    shift: float = 1 / 16
    """Largest shift, share of the picture's side."""
    contrast: float = 0.2
    """Contrast is multiplied by 1 +- this."""
    brightness: float = 0.1
    """Brightness is moved by +- this (pictures are in [0, 1])."""


def to_pictures(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 [B, S, S, 3] -> float32 [B, 3, S, S] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float() / 255


def gather(store: FrameStore, config: LamConfig, chosen: NDArray[np.int64]) -> Batch:
    """The pairs `chosen` (rows of the store's pair table), without augmentation."""
    table = store.pairs
    i, j = table.first[chosen], table.second[chosen]
    if store.features is not None:
        batch = {
            "first": torch.from_numpy(store.features[i]).float(),
            "second": torch.from_numpy(store.features[j]).float(),
        }
    else:
        stable = [
            stabilise(store.frames[a], store.frames[b], table.h[p], compensate=config.pair.camera_compensation)
            for a, b, p in zip(i, j, chosen, strict=True)
        ]
        before, after, valid = (np.stack(part) for part in zip(*stable, strict=True))
        batch = {
            "first": to_pictures(before),
            "second": to_pictures(after),
            "valid": torch.from_numpy(valid[:, None]).float(),
        }
    if store.flow is not None:
        batch["flow"] = torch.from_numpy(store.flow[chosen]).float()
    if config.label_dim:
        batch["label"] = torch.from_numpy(table.label[chosen])
    batch["clip"] = torch.from_numpy(table.clip[chosen].astype(np.int64))
    return batch


def augment(batch: Batch, config: Augmentation, rng: np.random.Generator) -> Batch:
    """A shift shared by the batch and a change of contrast and brightness per pair; pictures only."""
    if batch["first"].ndim != 4:
        return batch
    count, size = len(batch["first"]), batch["first"].shape[-1]
    margin = round(config.shift * size)
    dx, dy = (int(value) for value in rng.integers(-margin, margin + 1, 2))
    out = dict(batch)
    for name in ("first", "second", "valid"):
        out[name] = _shift(batch[name], dx, dy)
    if "flow" in batch:
        out["flow"] = _shift_flow(batch["flow"], dx, dy)
    contrast = 1 + config.contrast * torch.from_numpy(rng.uniform(-1, 1, (count, 1, 1, 1))).float()
    brightness = config.brightness * torch.from_numpy(rng.uniform(-1, 1, (count, 1, 1, 1))).float()
    for name in ("first", "second"):
        out[name] = (out[name] - 0.5) * contrast + 0.5 + brightness
    return out


def _shift(x: Tensor, dx: int, dy: int) -> Tensor:
    """Content moves by (dx, dy) pixels; what comes in repeats the border."""
    if dx == 0 and dy == 0:
        return x
    height, width = x.shape[-2:]
    rows = (torch.arange(height) - dy).clamp(0, height - 1)
    columns = (torch.arange(width) - dx).clamp(0, width - 1)
    return x[..., rows, :][..., columns]


def _shift_flow(flow: Tensor, dx: int, dy: int) -> Tensor:
    """Flow lives on a grid FLOW_STRIDE coarser than the shift."""
    full = F.interpolate(flow, scale_factor=FLOW_STRIDE, mode="nearest")
    return F.avg_pool2d(_shift(full, dx, dy), FLOW_STRIDE)


class StoredBatches(IterableDataset):  # type: ignore[type-arg]
    """Batches number `start`, `start` + 1, ... of a frame store; endless."""

    def __init__(
        self,
        store: FrameStore,
        config: LamConfig,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        start: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        if len(store.pairs.first) == 0:
            raise ValueError(
                f"no clip is long enough for a pair {min(config.pair.gap_s)} s apart: choose a shorter --model.pair.gap-s or longer clips"
            )
        self.store, self.config, self.batch_size = store, config, batch_size
        self.seed, self.rank, self.start = seed, rank, start
        self.augmentation = augmentation or Augmentation()

    def batch(self, number: int) -> Batch:
        """Batch `number`, the same at every call."""
        rng = np.random.default_rng((self.seed, self.rank, number))
        chosen = rng.integers(0, len(self.store.pairs.first), self.batch_size)
        return augment(gather(self.store, self.config, chosen), self.augmentation, rng)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        offset, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = self.start + offset
        while True:
            yield self.batch(number)
            number += step


class StreamedBatches(IterableDataset):  # type: ignore[type-arg]
    """Batches from a pool of clips that is refilled from the shards in random order; memory is that of the pool."""

    def __init__(
        self,
        corpus: Corpus,
        rows: list[ClipRow],
        config: LamConfig,
        labels: LabelSpec,
        labelled: set[str],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        start: int = 0,
        pool: int = 64,
        pairs_per_clip: int = 32,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.corpus, self.rows, self.config, self.batch_size = corpus, rows, config, batch_size
        self.labels, self.labelled = labels, labelled
        self.seed, self.rank, self.ranks, self.start = seed, rank, ranks, start
        self.pool, self.pairs_per_clip = pool, pairs_per_clip
        self.augmentation = augmentation or Augmentation()

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        part, parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        part, parts = self.rank * parts + part, self.ranks * parts
        rng = np.random.default_rng((self.seed, part, self.start))
        pool: list[tuple[NDArray[np.uint8], dict[str, NDArray[Any]], int]] = []
        drawn: list[int] = []
        batch: list[Batch] = []
        for item in self._clips(part, parts, rng):
            pool.append(item)
            drawn.append(0)
            while len(pool) >= min(self.pool, max(1, len(self.rows) // parts)):
                k = int(rng.integers(len(pool)))
                batch.append(self._pair(pool[k], rng))
                drawn[k] += 1
                if drawn[k] >= self.pairs_per_clip:
                    pool.pop(k)
                    drawn.pop(k)
                if len(batch) == self.batch_size:
                    stacked = {name: torch.cat([pair[name] for pair in batch]) for name in batch[0]}
                    yield augment(stacked, self.augmentation, rng)
                    batch = []

    def _clips(
        self, part: int, parts: int, rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.uint8], dict[str, NDArray[Any]], int]]:
        index = {row.clip_id: i for i, row in enumerate(self.rows)}
        by_shard: dict[str, list[ClipRow]] = {}
        for row in self.rows:
            by_shard.setdefault(row.shard, []).append(row)
        shards = sorted(by_shard)
        # where there are fewer shards than readers, readers share a shard by clips
        mine = shards[part::parts] if len(shards) >= parts else shards
        found = False
        while True:
            order = random.Random(int(rng.integers(2**31))).sample(mine, len(mine))
            for shard in order:
                rows = by_shard[shard] if len(shards) >= parts else by_shard[shard][part::parts]
                for clip in self.corpus.read_clips(rows):
                    labelled = clip.row.clip_id in self.labelled
                    frames, pairs = clip_records(clip, self.config, self.labels, labelled=labelled)
                    if len(pairs["first"]):
                        found = True
                        yield frames, pairs, index[clip.row.clip_id]
            if not found:
                raise ValueError(f"no clip is long enough for a pair {min(self.config.pair.gap_s)} s apart")

    def _pair(self, item: tuple[NDArray[np.uint8], dict[str, NDArray[Any]], int], rng: np.random.Generator) -> Batch:
        frames, pairs, clip = item
        p = int(rng.integers(len(pairs["first"])))
        i, j = pairs["first"][p], pairs["second"][p]
        made = pair_input(self.config, frames[i], frames[j], pairs["h"][p], training=True)
        batch = {
            "first": to_pictures(made.first[None]),
            "second": to_pictures(made.second[None]),
            "valid": torch.from_numpy(made.valid[None, None]).float(),
            "clip": torch.tensor([clip]),
        }
        if made.flow is not None:
            batch["flow"] = torch.from_numpy(made.flow[None])
        if self.config.label_dim:
            batch["label"] = torch.from_numpy(pairs["label"][p : p + 1])
        return batch


def loader_workers(wanted: int | None) -> int:
    """Loader processes: as wanted, else one where a second core is free for it, at most 8."""
    if wanted is not None:
        return wanted
    return max(0, min(8, (os.cpu_count() or 1) - 1))
