"""The pairs of one training run: tables of decoded frames, and the loaders over them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.parts import plan_parts
from corpora.store.ranks import process_rank
from lapa.model.config import LamConfig
from lapa.pairs.batches import StoredBatches, StreamedBatches, loader_workers
from lapa.pairs.cache import decoded, open_table, table_bytes
from lapa.pairs.known_motion import SeenLabels
from lapa.pairs.reader import PairReader
from lapa.pairs.table import Featurise, PairTable
from lapa.training_config import TrainingConfig

VAL_CLIPS = 2000
"""Clips behind a validation: held-out videos give it a few hundred pairs, with no need for all of a large corpus."""


class TrainingData:
    """Tables and loaders of one run; a corpus larger than `training.cache_gb` is streamed instead."""

    def __init__(
        self,
        corpus: Corpus,
        train_rows: list[ClipRow],
        val_rows: list[ClipRow],
        model: LamConfig,
        training: TrainingConfig,
        *,
        seed: int,
        labels: SeenLabels,
        featurise: Featurise | None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """`labels`: actions that may be seen; `featurise`: the frozen model of feature targets; `progress`: called with
        (clips decoded, of how many).

        Decodes what the cache lacks. Raises ValueError where no clip holds a pair, and where features would have to be
        streamed.
        """
        self.corpus, self.train_rows, self.training, self.seed = corpus, train_rows, training, seed
        self.reader = PairReader(model.pair, model.pair.gap_s, training=True, featurise=featurise, labels=labels)
        model.pair.expect(corpus.squared_by)
        cache = Path(os.environ.get("GIZA_CACHE", corpus.root / "cache"))
        needed = table_bytes(train_rows, self.reader, 0 if model.pixels else model.feature_patches * model.feature_dim)
        self.streamed = needed > training.cache_gb * 1e9
        if self.streamed and not model.pixels:
            raise ValueError(
                f"features of {len(train_rows)} clips take {needed / 1e9:.0f} GB, more than "
                f"--training.cache-gb {training.cache_gb:g}: raise it (a frozen model is never run twice on a frame)"
            )
        self.table: PairTable | None = None
        self.val_table: PairTable | None = None
        common: dict[str, Any] = {"cache": cache, "target": model.target, "progress": progress}
        if not self.streamed:
            self.table = open_table(corpus, train_rows, self.reader, **common)
            if self.table is None:
                raise ValueError(
                    f"no clip is long enough for a pair {min(model.pair.gap_s):g} s apart: choose a shorter "
                    "--model.pair.gap-s or longer clips"
                )
        if val_rows:
            held_out = PairReader(model.pair, training=True, featurise=featurise)
            self.val_table = open_table(corpus, val_rows[:VAL_CLIPS], held_out, **common)

    def label_scale(self) -> Tensor | None:
        """Deviation of each labelled dimension [A]; None without labels. Raises ValueError with fewer than two of them."""
        labels = self.reader.labels
        if not labels.width:
            return None
        label = self._streamed_labels() if self.table is None else self.table.label
        known = label[np.isfinite(label).all(1)]
        if len(known) < 2:
            raise ValueError(
                f"--labels.share {labels.spec.share} leaves {len(known)} labelled pairs of '{labels.spec.feature}': raise it"
            )
        return torch.from_numpy(np.maximum(known.std(0), 1e-6))

    def _streamed_labels(self) -> NDArray[np.float32]:
        """[P, A], of the clips whose labels are seen, which are decoded for it."""
        rows = [row for row in self.train_rows if row.clip_id in self.reader.labels.clips]
        tables = [decoded(item) for _, _, item in self.reader.read_tables(self.corpus.root, plan_parts(rows))]
        nothing = np.zeros((0, self.reader.labels.width), np.float32)
        return np.concatenate([nothing, *(table.label for table in tables if table is not None)])

    def train_loader(self, start: int) -> DataLoader[Any]:
        """Endless batches of training pairs, from batch number `start` on."""
        size, ranks = self.training.batch_size, {"rank": process_rank(), "ranks": self.training.devices}
        dataset: StoredBatches | StreamedBatches
        if self.table is not None:
            dataset = StoredBatches(self.table, size, seed=self.seed, start=start, **ranks)
        else:
            dataset = StreamedBatches(
                self.corpus, self.train_rows, self.reader, size, seed=self.seed, start=start, **ranks
            )
        workers = loader_workers(self.training.workers)
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def val_loader(self) -> DataLoader[Any] | None:
        """`training.val_pairs` held-out pairs, the same at every call; None where nothing is held out."""
        if self.val_table is None:
            return None
        chosen = np.random.default_rng(0).permutation(len(self.val_table))[: self.training.val_pairs]
        parts = np.array_split(chosen, math.ceil(len(chosen) / self.training.batch_size))
        return DataLoader([self.val_table.batch(part) for part in parts], batch_size=None)  # type: ignore[arg-type]
