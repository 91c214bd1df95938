"""Tiny latent action models, trained by the job itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jobs.commands.train_lam import TrainLamConfig, run
from lapa.model.config import LamConfig
from lapa.recipes import DEBUG, RECIPES, SMALL, Recipe
from lapa.training_config import TrainingConfig

TINY = dataclasses.replace(DEBUG, pair=dataclasses.replace(DEBUG.pair, gap_s=(0.3, 0.5)))
"""Of recipe `debug`."""
TINY_SMALL = dataclasses.replace(
    SMALL, pair=dataclasses.replace(SMALL.pair, image_size=32), dim=48, tokens=2, latent_dim=8
)
"""Recipe `small` itself, but for its size."""


def lam_settings(corpus: Path | tuple[Path, ...], out: Path, **changes: object) -> TrainLamConfig:
    """Settings of `giza train-lam`: five steps of `TINY`, repeated to the bit."""
    training = TrainingConfig(
        steps=5, batch_size=8, workers=0, val_every_steps=4, val_pairs=16, precision="32-true", warmup_steps=4
    )
    base = TrainLamConfig(corpus=corpus, out=out, recipe="debug", model=TINY, training=training)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def first_stage(model: LamConfig, corpus: Path, folder: Path) -> Path | None:
    """A run of what `model` is the second stage of; None for one that is none."""
    if model.stage == 1:
        return None
    first = dataclasses.replace(tiny_recipe("univla_stage1", folder).model, target=model.target)
    run(lam_settings(corpus, folder / "first", steps=2, model=first), quiet=True)
    return folder / "first"


def tiny_recipe(name: str, folder: Path) -> Recipe:
    """A recipe of today at tiny size: what it is made of, and how it is trained, is its own. `folder`: of the frozen models of
    `univla` and its first stage, which are made there."""
    model, training = RECIPES[name].model, RECIPES[name].training
    training = dataclasses.replace(training, batch_size=8, accumulate=1, workers=0, val_pairs=64, warmup_steps=4)
    if name == "debug":
        return Recipe(TINY, training)
    if name == "small":
        return Recipe(TINY_SMALL, training)
    frozen = {}
    if not model.pixels:
        from tests.flare.test_vision import save, save_t5

        frozen["target"] = save("dinov2", folder / "vision")
        if model.text_model:
            frozen["text_model"] = save_t5(folder / "text")
    side, patch = (32, 8) if model.pixels else (28, 7)
    width = 40 if model.pair.image_width else 0
    pair = dataclasses.replace(model.pair, image_size=side, image_width=width, gap_s=(0.3, 0.5), extract_gap_s=0.5)
    depths = {depth: min(1, getattr(model, depth)) for depth in ("spatial_depth", "temporal_depth", "decoder_depth")}
    small = {"pair": pair, "patch": patch, "dim": 32, "heads": 2, "tokens": min(4, model.tokens), "latent_dim": 8}
    return Recipe(dataclasses.replace(model, **small, **depths, **frozen), training)
