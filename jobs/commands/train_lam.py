"""`giza train-lam`: train a latent action model on an ingested corpus."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.held_out import HELD_OUT
from corpora.store.inputs import READ
from corpora.store.ranks import expect_processes, process_rank
from corpora.store.run import BUDGET, LAYOUT, TRAINING, Run
from corpora.store.told import closest
from corpora.text import TEXT_FORMAT, unread
from jobs.cli import parse
from jobs.console import facts_table, print_ending
from jobs.progress import bar
from jobs.training.budget import check_budget, with_budget
from jobs.training.logs import LoggerName, check_logger
from lapa.model.config import LamConfig
from lapa.pairs.config import LabelSpec
from lapa.recipes import RECIPES, SMALL
from lapa.training_config import TrainingConfig

if TYPE_CHECKING:
    from corpora.clips.corpus import Corpus
    from lapa.training import LamTraining
    from lapa.training_data import TrainingData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainLamConfig:
    """Train a latent action model. Any field of the recipe can be overridden: --model.quantiser.kind nsvq."""

    corpus: Path | tuple[Path, ...] = dataclasses.field(metadata=READ)
    """Folder written by giza ingest; or several, which are trained on as one: people's video with the robot painted over them,
    and the robot's own."""
    out: Path
    """Run folder; run the same command again to resume."""
    recipe: str = "small"
    """The model and training that the other flags override."""
    seed: int = 0
    """Of weights, pairs and the held-out split."""
    steps: int | None = None
    """Optimiser steps, instead of the recipe's."""
    minutes: float | None = None
    """Wall-clock minutes after which it stops early."""
    holdout: tuple[str, ...] = ()
    """Globs over the manifest's `group`: these videos are kept from training. Default: `val_share` of each embodiment."""
    val_share: float = 0.15
    """Share of the source videos that is held out where `holdout` names none."""
    labels: LabelSpec = dataclasses.field(default_factory=LabelSpec)
    """Few known actions in the loss (LAOM)."""
    logger: LoggerName = "tensorboard"
    """Where the curves, and decoded pairs at each validation, go: files in OUT/tensorboard, Weights & Biases (its package is
    yours to install), or nowhere."""
    init_from: Path | None = dataclasses.field(default=None, metadata=READ)
    """Run folder, or published checkpoint, to start from; for recipe univla, the run of univla_stage1."""
    model: LamConfig = SMALL
    """The model."""
    training: TrainingConfig = RECIPES["small"].training
    """The training."""

    def __post_init__(self) -> None:
        check_budget(self.steps, self.minutes)


def run(config: TrainLamConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Trains (or resumes) and writes model.safetensors, config.json, run.json and logs to `config.out`.

    Returns what run.json holds. Raises ValueError for a corpus that is none, or a folder that holds another run.
    """
    check_logger(config.logger)
    if config.model.stage == 2 and config.init_from is None:
        raise ValueError(
            "--model.stage 2 continues a stage 1 run: train one with --recipe univla_stage1, and give its folder "
            "with --init-from"
        )
    import lightning
    import numpy as np
    import torch

    from corpora.clips.several import open_corpora
    from jobs.training.precision import settled
    from lapa.model.checkpoint import initialise_from, made_by, model_hash, read_lam_config
    from lapa.model.lam import LatentActionModel, featurise_for
    from lapa.pairs.batches import BATCHES
    from lapa.pairs.known_motion import KNOWN_MOTION, SeenLabels
    from lapa.pairs.pair import STABILISED
    from lapa.pairs.split import split_groups
    from lapa.training import LamTraining
    from lapa.training_data import TrainingData

    quiet = quiet or process_rank() > 0  # of processes that train together the first speaks
    config = dataclasses.replace(config, training=settled(config.training, config.out))
    training = with_budget(config.training, config.steps, config.minutes)
    corpus = open_corpora(config.corpus)
    named = [str(each) for each in (config.corpus if isinstance(config.corpus, tuple) else (config.corpus,))]
    corpus.expect_clips()
    size, stored = max(config.model.pair.shape), min(row.size for row in corpus.clips)
    if config.model.pixels and size > stored:
        raise ValueError(
            f"model.pair.image_size {size} is larger than the corpus' {stored} px: ingest again with --size {size}, or "
            "choose a smaller model.pair.image_size"
        )
    train_groups, held_out = split_groups(
        corpus.clips, share=config.val_share, patterns=config.holdout, seed=config.seed
    )
    if not held_out:
        log.warning("only one source video: nothing is held out, so nothing says whether the model generalises")
    with torch.device("meta"):  # parts that do not fit together say so before anything is claimed or decoded
        LatentActionModel(config.model)
    settings = dataclasses.asdict(config)
    for moved in ("out", "corpus", "logger", "init_from"):  # the same run may be called by another path
        del settings[moved]
    if not config.labels.embodiment:  # runs of earlier versions know no such flag
        del settings["labels"]["embodiment"]
    settings["corpus_identity"] = corpus.identity
    if config.init_from is not None:
        read_lam_config(config.init_from)  # says where there is no model
        settings["init_from_hash"] = model_hash(config.init_from)
    formats = {
        "stabilised": STABILISED if config.model.pair.camera_compensation else None,
        "known_motion": KNOWN_MOTION if config.labels.feature else None,
        "held_out": None if config.holdout else HELD_OUT,
        "text_format": TEXT_FORMAT if config.model.text_model else None,
        "batches": BATCHES,
    }
    expect_processes(training.devices)
    run = Run(config.out, settings, record=TRAINING, budget=BUDGET, free=LAYOUT, formats=formats, together=True)
    if (done := run.finished) is not None:
        if not quiet:
            _print(done, config)
        return done
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    model_config = _with_labels(config, corpus)
    train_rows = [row for row in corpus.clips if row.group not in held_out]
    val_rows = [row for row in corpus.clips if row.group in held_out]
    labels = SeenLabels.choose(config.labels, train_rows, config.seed, model_config.label_dim)
    featurise = featurise_for(model_config)
    if featurise is not None:
        probe = featurise(np.zeros((1, size, size, 3), np.uint8))
        model_config = dataclasses.replace(model_config, feature_patches=probe.shape[1], feature_dim=probe.shape[2])
    texts = val_texts = None
    if model_config.text_model:
        from flare.vision import FrozenText

        reader, told = FrozenText(model_config.text_model, length=16), [row.text for row in train_rows]
        for said in unread(told, reader.read_text, f"text model '{model_config.text_model}'"):
            log.warning("%s", said)
        texts, val_texts = reader.of_texts(told), reader.of_texts([row.text for row in val_rows])
        model_config = dataclasses.replace(model_config, text_dim=texts.shape[-1])
    with bar("decoding clips", quiet=quiet) as progress:
        data = TrainingData(
            corpus,
            train_rows,
            val_rows,
            model_config,
            training,
            seed=config.seed,
            labels=labels,
            featurise=featurise,
            progress=progress,
        )
    model = LatentActionModel(model_config)
    if config.init_from is not None:
        initialise_from(model, config.init_from)
    module = LamTraining(
        model, training, seed=config.seed, label_scale=data.label_scale(), texts=texts, val_texts=val_texts
    )
    facts = {
        "recipe": config.recipe,
        "seed": config.seed,
        "corpus": ", ".join(named),
        "train_groups": train_groups,
        "held_out_groups": held_out,
        "train_clips": len(train_rows),
        "labelled_clips": len(labels.clips),
        "labels": dataclasses.asdict(config.labels),
        "streamed": data.streamed,
    }
    begun = "" if config.init_from is None else made_by(config.init_from)
    begun = "" if begun == "giza" else begun
    with run.claim():
        summary = _train(run, module, data, facts, config.logger, begun=begun, quiet=quiet)
    if not quiet:
        _print(summary, config)
    return summary


def _train(
    run: Run,
    module: LamTraining,
    data: TrainingData,
    facts: dict[str, Any],
    logger: LoggerName,
    *,
    begun: str,
    quiet: bool,
) -> dict[str, Any]:
    """Trains from where the run is, saves the model and its card, and finishes the run with `facts` and what was measured.
    `begun`: the published model whose weights it began with."""
    from jobs.training.trainer import fit
    from lapa.model.card import write_lam_card
    from lapa.model.checkpoint import model_hash, save_lam

    training = module.training_config
    took = fit(
        module,
        data.train_loader,
        data.val_loader(),
        training,
        run.folder,
        rate=module.rate,
        unit="pairs",
        key="",
        logger=logger,
        quiet=quiet,
    )
    summary = facts | {
        "steps": took.steps,
        "minutes": took.minutes,
        "pairs_seen": took.steps * training.batch_size * training.accumulate,
        "pairs_per_s": took.samples_per_s,
        "data_wait_share": took.data_wait_share,
        "precision": training.precision,
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "collapsed": module.collapsed,
        "validation": {name: round(value, 5) for name, value in took.measured.items()},
    }
    if process_rank() == 0:
        save_lam(module.model, run.folder)
        summary["model_hash"] = model_hash(run.folder)
        write_lam_card(run.folder, module.config, summary, begun)
    return run.finish(summary)


def _with_labels(config: TrainLamConfig, corpus: Corpus) -> LamConfig:
    """The model's configuration with the width of the few-label head."""
    labels = config.labels
    if not labels.feature:
        return config.model
    bodies = [part for part in corpus.parts if labels.embodiment in ("", *(row.embodiment for row in part.clips))]
    known = {part: width for part in bodies or corpus.parts if (width := part.truth_features.get(labels.feature))}
    if not known:
        raise ValueError(
            f"--labels.feature '{labels.feature}': {closest(labels.feature, sorted(corpus.truth_features))}"
        )
    width = min(known.values())
    if labels.dims and max(labels.dims) >= width:
        raise ValueError(f"--labels.dims {labels.dims}: '{labels.feature}' has dimensions 0 to {width - 1}")
    if not labels.dims and width < max(known.values()):
        told = ", ".join(f"{each} in {part}" for part, each in known.items())
        raise ValueError(
            f"--labels.feature '{labels.feature}' has not as many dimensions in every corpus ({told}): name those that "
            "all have with --labels.dims, or one body with --labels.embodiment"
        )
    return dataclasses.replace(config.model, label_dim=len(labels.dims) or width)


def _print(summary: dict[str, Any], config: TrainLamConfig) -> None:
    shown = ("recipe", "parameters", "steps", "minutes", "pairs_seen", "pairs_per_s", "data_wait_share", "precision")
    facts = {name: summary[name] for name in (*shown, "train_clips", "collapsed") if name in summary}
    facts["held-out videos"] = len(summary["held_out_groups"])
    table = facts_table(f"latent action model: {config.out}", facts | summary["validation"])
    print_ending(table, summary, config.out)


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    run(parse(TrainLamConfig, argv, job="train-lam", recipes={name: vars(recipe) for name, recipe in RECIPES.items()}))
