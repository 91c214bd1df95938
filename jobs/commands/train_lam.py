"""`giza train-lam`: train a latent action model on an ingested corpus."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.store.run import claim, recipe_in, write_json
from jobs.cli import closest, parse
from lapa.model.config import LamConfig
from lapa.pairs.config import LabelSpec
from lapa.recipes import RECIPES, SMALL
from lapa.training import TrainingConfig

if TYPE_CHECKING:
    import numpy as np

    from corpora.clips.corpus import Corpus

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainLamConfig:
    """Train a latent action model. Any field of the recipe can be overridden: --model.quantiser.kind nsvq."""

    corpus: Path
    """Folder written by giza ingest."""
    out: Path
    """Run folder; run the same command again to resume."""
    recipe: str = "small"
    """small, debug, lapa, univla or groot: the model and training that the other flags override."""
    seed: int = 0
    """Of weights, pairs and the held-out split."""
    steps: int | None = None
    """Optimiser steps, instead of the recipe's budget."""
    minutes: float | None = None
    """Wall-clock minutes, instead of the recipe's budget."""
    holdout: tuple[str, ...] = ()
    """Globs over the manifest's `group`: these videos are kept from training. Default: `val_share` of each embodiment."""
    val_share: float = 0.15
    """Share of the source videos that is held out where `holdout` names none."""
    labels: LabelSpec = dataclasses.field(default_factory=LabelSpec)
    """Few known actions in the loss (LAOM)."""
    init_from: Path | None = None
    """Run folder to start from; for stage 2 of univla, the run of stage 1."""
    model: LamConfig = SMALL
    """The model."""
    training: TrainingConfig = RECIPES["small"].training
    """The training."""

    def __post_init__(self) -> None:
        if self.model.stage == 2 and self.init_from is None:
            raise ValueError("--model.stage 2 continues a stage 1 run: give its folder with --init-from")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps {self.steps}: at least 1")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"--minutes {self.minutes}: more than 0")

    def budget(self) -> TrainingConfig:
        """The training with `steps` and `minutes` put in: giving one drops the recipe's other."""
        if self.steps is None and self.minutes is None:
            return self.training
        return dataclasses.replace(self.training, steps=self.steps or 0, minutes=self.minutes or 0.0)


def run(config: TrainLamConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Trains (or resumes) and writes model.safetensors, config.json, run.json and TensorBoard logs to `config.out`.

    Returns what run.json holds. Raises ValueError for a corpus that is none, or a folder that holds another run.
    """
    import lightning
    import torch

    from corpora.clips.corpus import Corpus
    from jobs.trainer import make_trainer, quiet_lightning
    from jobs.training_progress import TrainingProgress
    from lapa.model.checkpoint import initialise_from, model_hash, save_lam
    from lapa.model.lam import LatentActionModel
    from lapa.pairs.pair import STABILISED, chosen_share
    from lapa.pairs.split import split_groups
    from lapa.training import LamTraining
    from lapa.training_data import TrainingData

    training = config.budget()
    corpus = Corpus(config.corpus)
    size, stored = config.model.pair.image_size, corpus.clips[0].size if corpus.clips else 0
    if config.model.pixels and size > stored:
        raise ValueError(
            f"model.pair.image_size {size} is larger than the corpus' {stored} px: ingest again with --size {size}, or "
            "choose a smaller model.pair.image_size"
        )
    train_groups, held_groups = split_groups(
        corpus.clips, share=config.val_share, patterns=config.holdout, seed=config.seed
    )
    if not held_groups:
        log.warning("only one source video: nothing is held out, so nothing says whether the model generalises")
    with torch.device("meta"):  # parts that do not fit together say so before anything is claimed or decoded
        LatentActionModel(config.model)
    settings = dataclasses.asdict(config)
    for moved in ("out", "corpus", "init_from"):  # the same run may be called by another path
        del settings[moved]
    claim(config.out, settings, formats={"stabilised": STABILISED if config.model.pair.camera_compensation else None})
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    model_config = _with_labels(config, corpus)
    held = set(held_groups)
    train_rows = [row for row in corpus.clips if row.group not in held]
    val_rows = [row for row in corpus.clips if row.group in held]
    labelled = {
        row.clip_id
        for row in train_rows
        if config.labels.feature and chosen_share(row.clip_id, config.labels.share, config.seed)
    }
    featurise = None
    if not model_config.pixels:
        from flare.vision import frozen_vision

        vision = frozen_vision(model_config.target)
        probe = vision.of_frames(_black(model_config.pair.image_size))
        model_config = dataclasses.replace(model_config, feature_patches=probe.shape[1], feature_dim=probe.shape[2])
        featurise = vision.of_frames
    texts = None
    if model_config.text_model:
        from flare.vision import FrozenText

        texts = FrozenText(model_config.text_model, length=16).of_texts([row.text for row in train_rows])
        model_config = dataclasses.replace(model_config, text_dim=texts.shape[-1])
    data = TrainingData(
        corpus,
        train_rows,
        val_rows,
        model_config,
        training,
        seed=config.seed,
        labels=config.labels,
        labelled=labelled,
        featurise=featurise,
    )
    model = LatentActionModel(model_config)
    if config.init_from is not None:
        initialise_from(model, config.init_from)
    module = LamTraining(model, training, seed=config.seed, label_scale=data.label_scale(), texts=texts)
    meter = TrainingProgress(show=not quiet)
    trainer = make_trainer(training, config.out, meter)
    checkpoint = config.out / "checkpoints" / "last.ckpt"
    resumed = checkpoint if checkpoint.is_file() else None
    batches_done = 0
    if resumed is not None:
        batches_done = (
            int(torch.load(resumed, weights_only=True, map_location="cpu")["global_step"]) * training.accumulate
        )
    start = str(resumed) if resumed else None
    with quiet_lightning():
        trainer.fit(module, data.train_loader(batches_done), data.val_loader(), ckpt_path=start, weights_only=True)
    if trainer.interrupted:  # Ctrl-C: Lightning has kept a checkpoint's worth of work, the run is not finished
        raise KeyboardInterrupt
    steps = trainer.global_step
    validation = data.val_loader()
    measured: dict[str, float] = {}
    if validation is not None:  # of the final weights, wherever the last validation in training fell
        with quiet_lightning():
            measured = dict(trainer.validate(module, validation, verbose=False)[0])
    summary: dict[str, Any] = {
        "recipe": config.recipe,
        "seed": config.seed,
        "corpus": str(config.corpus),
        "steps": steps,
        "minutes": round(module.elapsed_s / 60, 3),
        "pairs_seen": steps * training.batch_size * training.accumulate * trainer.world_size,
        "pairs_per_s": round(meter.samples_per_s, 1),
        "data_wait_share": round(meter.wait_share, 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_groups": train_groups,
        "held_out_groups": held_groups,
        "train_clips": len(train_rows),
        "labelled_clips": len(labelled),
        "labels": dataclasses.asdict(config.labels),
        "streamed": data.streamed,
        "collapsed": module.collapsed,
        "validation": {k: round(float(v), 5) for k, v in measured.items()},
    }
    if trainer.is_global_zero:
        save_lam(model, config.out)
        summary["model_hash"] = model_hash(config.out)
        write_json(config.out / "run.json", summary)
        if not quiet:
            _print(summary, config)
    return summary


def _with_labels(config: TrainLamConfig, corpus: Corpus) -> LamConfig:
    """The model's configuration with the width of the few-label head."""
    labels = config.labels
    if not labels.feature:
        return config.model
    if labels.feature not in corpus.truth_features:
        raise ValueError(
            f"--labels.feature '{labels.feature}': {closest(labels.feature, sorted(corpus.truth_features))}"
        )
    width = corpus.truth_features[labels.feature]
    if labels.dims and max(labels.dims) >= width:
        raise ValueError(f"--labels.dims {labels.dims}: '{labels.feature}' has dimensions 0 to {width - 1}")
    return dataclasses.replace(config.model, label_dim=len(labels.dims) or width)


def _black(size: int) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.zeros((1, size, size, 3), np.uint8)


def _print(summary: dict[str, Any], config: TrainLamConfig) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"latent action model: {config.out}", show_header=False)
    for name in (
        "recipe",
        "parameters",
        "steps",
        "minutes",
        "pairs_seen",
        "pairs_per_s",
        "data_wait_share",
        "train_clips",
        "collapsed",
    ):
        table.add_row(name, str(summary[name]))
    table.add_row("held-out videos", str(len(summary["held_out_groups"])))
    for name, value in summary["validation"].items():
        table.add_row(name, str(value))
    Console().print(table)


def main(argv: Sequence[str]) -> None:
    """Parses the recipe first: its fields are the defaults that the other flags override."""
    name = recipe_in(argv, "small")
    if name not in RECIPES:
        raise ValueError(f"--recipe '{name}': {closest(name, list(RECIPES))}")
    recipe = RECIPES[name]
    import tyro

    default = TrainLamConfig(
        corpus=tyro.MISSING, out=tyro.MISSING, recipe=name, model=recipe.model, training=recipe.training
    )
    run(parse(TrainLamConfig, argv, job="train-lam", default=default))
