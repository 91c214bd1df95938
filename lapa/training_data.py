"""The pairs of one training run: stores of decoded frames, and the loaders over them."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.store.run import process_rank
from lapa.model.config import LamConfig
from lapa.pairs.batches import StoredBatches, StreamedBatches, gather, loader_workers
from lapa.pairs.cache import Featurise, FrameStore, open_store, store_bytes
from lapa.pairs.config import LabelSpec
from lapa.training_config import TrainingConfig

VAL_CLIPS = 2000
"""Clips behind a validation: held-out videos give it a few hundred pairs, with no need for all of a large corpus."""


class TrainingData:
    """Stores and loaders of one run; a corpus larger than `training.cache_gb` is streamed instead."""

    def __init__(
        self,
        corpus: Corpus,
        train_rows: list[ClipRow],
        val_rows: list[ClipRow],
        model: LamConfig,
        training: TrainingConfig,
        *,
        seed: int,
        labels: LabelSpec,
        labelled: set[str],
        featurise: Featurise | None,
    ) -> None:
        """`labelled`: clip_ids whose actions may be seen; `featurise`: the frozen model of feature targets.

        Decodes what the cache lacks. Raises ValueError where features would have to be streamed.
        """
        self.corpus, self.train_rows, self.model, self.training = corpus, train_rows, model, training
        self.seed, self.labels, self.labelled = seed, labels, labelled
        cache = Path(os.environ.get("GIZA_CACHE", corpus.root / "cache"))
        needed = store_bytes(train_rows, model)
        self.streamed = needed > training.cache_gb * 1e9
        if self.streamed and not model.pixels:
            raise ValueError(
                f"features of {len(train_rows)} clips take {needed / 1e9:.0f} GB, more than "
                f"--training.cache-gb {training.cache_gb:g}: raise it (a frozen model is never run twice on a frame)"
            )
        self.store: FrameStore | None = None
        self.val_store: FrameStore | None = None
        self.val_model = dataclasses.replace(
            model, pair=dataclasses.replace(model.pair, gap_s=(model.pair.extract_gap_s,))
        )
        with _progress() as progress:
            common: dict[str, Any] = {"cache": cache, "featurise": featurise, "progress": progress}
            if not self.streamed:
                self.store = open_store(corpus, train_rows, model, labels, labelled, **common)
            if val_rows:
                self.val_store = open_store(corpus, val_rows[:VAL_CLIPS], self.val_model, LabelSpec(), set(), **common)

    def label_scale(self) -> Tensor | None:
        """Deviation of each labelled dimension [A]; None without labels. Raises ValueError with fewer than two of them."""
        if not self.model.label_dim or self.store is None:
            return None
        label = self.store.pairs.label
        known = label[np.isfinite(label).all(1)]
        if len(known) < 2:
            raise ValueError(
                f"--labels.share {self.labels.share} leaves {len(known)} labelled pairs of '{self.labels.feature}': raise it"
            )
        return torch.from_numpy(np.maximum(known.std(0), 1e-6))

    def train_loader(self, start: int) -> DataLoader[Any]:
        """Endless batches of training pairs, from batch number `start` on."""
        rank, ranks = process_rank(), int(os.environ.get("WORLD_SIZE", 1))
        dataset: StoredBatches | StreamedBatches
        if self.store is not None:
            dataset = StoredBatches(
                self.store, self.model, self.training.batch_size, seed=self.seed, rank=rank, start=start
            )
        else:
            dataset = StreamedBatches(
                self.corpus, self.train_rows, self.model, self.labels, self.labelled, self.training.batch_size,
                seed=self.seed, rank=rank, ranks=ranks, start=start,
            )  # fmt: skip
        workers = loader_workers(self.training.workers)
        return DataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0)

    def val_loader(self) -> DataLoader[Any] | None:
        """`training.val_pairs` held-out pairs, the same at every call; None where nothing is held out."""
        if self.val_store is None or len(self.val_store.pairs.first) == 0:
            return None
        chosen = np.random.default_rng(0).permutation(len(self.val_store.pairs.first))[: self.training.val_pairs]
        parts = np.array_split(chosen, math.ceil(len(chosen) / self.training.batch_size))
        return DataLoader([gather(self.val_store, self.val_model, part) for part in parts], batch_size=None)  # type: ignore[arg-type]


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """What is told (done, total) clips and shows them on a bar."""
    with Progress(transient=True) as progress:
        task = progress.add_task("decoding clips", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
