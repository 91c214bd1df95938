"""Tiny latent action models, trained by the job itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jobs.commands.train_lam import TrainLamConfig
from lapa.recipes import DEBUG, SMALL
from lapa.training_config import TrainingConfig

TINY = dataclasses.replace(DEBUG, pair=dataclasses.replace(DEBUG.pair, gap_s=(0.3, 0.5)))
"""Of recipe `debug`."""
TINY_SMALL = dataclasses.replace(
    SMALL, pair=dataclasses.replace(SMALL.pair, image_size=32), dim=48, tokens=2, latent_dim=8
)
"""Recipe `small` itself, but for its size."""


def lam_settings(corpus: Path, out: Path, **changes: object) -> TrainLamConfig:
    """Settings of `giza train-lam`: five steps of `TINY`, repeated to the bit."""
    training = TrainingConfig(
        steps=5, batch_size=8, workers=0, val_every_steps=4, val_pairs=16, precision="32-true", warmup_steps=4
    )
    base = TrainLamConfig(corpus=corpus, out=out, recipe="debug", model=TINY, training=training)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]
