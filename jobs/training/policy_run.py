"""One training run of a policy in a folder: claimed by its settings, resumed where it was, saved when it is done."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from corpora.held_out import HELD_OUT
from corpora.mixture.mixture import MixtureSpec
from corpora.store.files import default_cache
from corpora.store.ranks import expect_processes, process_rank
from corpora.store.run import BUDGET, LAYOUT, TRAINING, Run
from corpora.text import unread
from flare.targets import TargetEncoder, TargetShape, build_target
from jobs.console import print_training
from jobs.progress import bar
from jobs.training.budget import with_budget
from jobs.training.logs import LoggerName
from jobs.training.precision import settled
from jobs.training.settings import TrainPolicy, check_model
from jobs.training.trainer import fit
from lapa.pairs.batches import loader_workers
from vla.checkpoint import build_policy, format_of, load_policy
from vla.data.loader import PolicyBatches, TrainingDataset, cacheable, cached_features, held_out_batches, some_images
from vla.data.open import open_mixture
from vla.models.config import PolicyConfig
from vla.policy import Policy
from vla.published_heads import head_fingerprint, load_head
from vla.recipes import EVERYTHING
from vla.stored import policy_fingerprint
from vla.training import FirstStageTraining, PolicyTraining, halve_frozen
from vla.training_config import PolicyTrainingConfig, TuningConfig
from vla.tuning import apply_tuning, merge_lora

log = logging.getLogger(__name__)


def train_on(
    config: TrainPolicy,
    mixture: MixtureSpec,
    identity: Mapping[str, Any],
    *,
    paths: Sequence[str] = (),
    job: str,
    quiet: bool,
    **opening: Any,
) -> dict[str, Any]:
    """Trains (or resumes) what `config` says on `mixture`, saves the policy and returns the summary; a finished run only
    returns it.

    identity: what else the run depends on, kept with the settings; paths: fields of `config` that may move. `opening` goes to
    `open_mixture`. Raises ValueError for datasets that do not fit the policy, and where `config.out` holds another run.
    """
    quiet = quiet or process_rank() > 0  # of processes that train together the first speaks
    config = dataclasses.replace(config, training=settled(config.training, config.out))
    settings = dataclasses.asdict(config)
    for moved in ("out", "cache", "logger", "policy", "head_weights", *paths):
        del settings[moved]
    settings |= settings.pop("selection", {})
    settings |= {**identity, "data_fingerprint": mixture.fingerprints()}
    settings |= {"data_contents": mixture.contents_fingerprints()}
    settings |= {"policy_fingerprint": policy_fingerprint(config.policy) if config.policy else None}
    if config.head_weights:
        settings["head_fingerprint"] = head_fingerprint(config.head_weights)
    expect_processes(config.training.devices)
    run = Run(
        config.out,
        settings,
        record=TRAINING,
        budget=BUDGET,
        free=LAYOUT,
        formats={"held_out": HELD_OUT, "policy_format": format_of(config.model.head)},
        together=True,
    )
    summary = train_in(
        run,
        mixture,
        config.model,
        with_budget(config.training, config.steps, config.minutes),
        policy=config.policy,
        head_weights=config.head_weights,
        tuning=config.tuning,
        seed=config.seed,
        cache=config.cache,
        logger=config.logger,
        quiet=quiet,
        refit=config.refit,
        **opening,
    )
    if not quiet:
        print_training(summary, f"giza {job}: {config.out}", config.out)
    return summary


def train_in(
    run: Run,
    mixture: MixtureSpec,
    model: PolicyConfig,
    training: PolicyTrainingConfig,
    *,
    policy: str | Path = "",
    head_weights: Path | None = None,
    tuning: TuningConfig = EVERYTHING,
    seed: int,
    data_seed: int | None = None,
    cache: Path | None = None,
    logger: LoggerName = "tensorboard",
    quiet: bool,
    **opening: Any,
) -> dict[str, Any]:
    """Trains (or resumes) a policy on `mixture` in the folder of `run`, or returns what it came to.

    model: of fresh weights; beside `policy`, which it goes on from, that policy's own. head_weights: of a published model, that
    fresh weights begin with. data_seed: of what is held out; by
    default `seed`. `opening` goes to `open_mixture`. Raises ValueError for datasets that do not fit the policy.
    """
    if (done := run.finished) is not None:
        return done
    lightning.seed_everything(seed, workers=True, verbose=False)
    trained = load_policy(policy) if policy else build_policy(model)
    if head_weights is not None:
        rows = load_head(trained, head_weights)
        log.info("published weights of embodiments: %s", ", ".join(f"{name} {row}" for name, row in rows.items()))
    check_model(model, trained.config, policy)
    if training.state_dropout is not None:
        trained.config = dataclasses.replace(trained.config, state_dropout=training.state_dropout)
    if tuning != EVERYTHING and not trained.tunable:
        raise ValueError(f"--tuning: a policy of head '{trained.config.head}' is trained whole; leave --tuning.* out")
    datasets = open_mixture(
        mixture,
        trained,
        seed=seed if data_seed is None else data_seed,
        future_s=trained.future_s or (training.alignment.future_s if training.flare else None),
        cache=cache,
        progress=None if quiet else lambda name: bar(f"decoding {name}"),
        **opening,
    )
    if trained.tunable:
        apply_tuning(trained, tuning, log=(lambda text: None) if quiet else print)
    return train_policy(trained, datasets, training, run, seed=seed, cache=cache, logger=logger, quiet=quiet)


def train_policy(
    policy: Policy,
    datasets: Sequence[TrainingDataset],
    training: PolicyTrainingConfig,
    run: Run,
    *,
    seed: int,
    cache: Path | None = None,
    logger: LoggerName = "tensorboard",
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains (or resumes) and saves the averaged policy to the run's folder, as `from_pretrained` reads it. Returns the
    summary.

    Raises ValueError for datasets that do not fit the policy, KeyboardInterrupt where it was stopped by hand.
    """
    kept = training.cache_features and cacheable(policy)
    target = flare_target(policy, training, cameras_of(datasets), kept=kept) if training.flare else None
    kept_future = kept and policy.future_s is not None if target is None else target.reads_features
    if target is not None:
        texts = {text for each in datasets for text in each.data.texts}
        for said in unread(texts, target.read_text, "FLARE's target"):
            log.warning("%s", said)
    lightning.seed_everything(seed, workers=True, verbose=False)
    names = [dataset.name for dataset in datasets]
    training = settled(training, run.folder)
    precision, halved = training.precision, training.precision == "bf16-true"
    if halved:
        halve_frozen(policy)
        training = dataclasses.replace(training, precision="bf16-mixed")
    if policy.system2 is not None:
        policy.system2.fit(lambda: some_images(datasets[0]))
    look_up = None
    if kept:
        with bar("features of the frozen model", quiet=quiet) as progress:
            folder = (cache or default_cache()) / "features"
            cameras = cameras_of(datasets)
            look_up = cached_features(
                policy, datasets, folder, cameras=cameras, kept_future=kept_future, progress=progress
            ).tokens
    batches = PolicyBatches(
        datasets,
        policy.config,
        batch_size=training.batch_size,
        cameras=cameras_of(datasets),
        seed=seed,
        rank=process_rank(),
        ranks=training.devices,
        look_up=look_up,
        kept_future=kept_future,
    )

    def loader(start: int) -> DataLoader[Any]:
        batches.start = start
        workers = loader_workers(training.workers)
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    held_out = held_out_batches(
        datasets,
        policy.config,
        batch_size=training.batch_size,
        cameras=cameras_of(datasets),
        samples=training.val_samples,
        look_up=look_up,
        kept_future=kept_future,
    )
    validation: DataLoader[Any] | None = DataLoader(held_out, batch_size=None) if held_out else None  # type: ignore[arg-type]
    with run.claim():
        stage = _first_stage(policy, loader, validation, training, run.folder / FIRST, seed=seed, quiet=quiet)
        module = PolicyTraining(policy, training, seed=seed, dataset_names=names, target=target)
        module.train()  # Lightning keeps modes as they are, and a loaded policy is in evaluation mode
        took = fit(
            module,
            loader,
            validation,
            training,
            run.folder,
            rate=module.rate,
            key="embodiment",
            clip=training.clip,
            strategy=training.strategy,
            logger=logger,
            quiet=quiet,
        )
        summary = {
            "seed": seed,
            "steps": took.steps,
            "minutes": took.minutes,
            "samples_seen": took.steps * training.batch_size * training.accumulate,
            "samples_per_s": took.samples_per_s,
            "data_wait_share": took.data_wait_share,
            "precision": precision,
            "parameters": sum(p.numel() for p in policy.parameters()),
            "trained_parameters": sum(p.numel() for p in policy.parameters() if p.requires_grad),
            "members": [
                _dataset_summary(batches, number, took.steps * training.accumulate) for number in range(len(names))
            ],
            "held_out": {name: round(value, 6) for name, value in took.measured.items()},
            **stage,
        }
        averaged = module.saved()
        if process_rank() == 0:
            averaged.measured = {**policy.measured, "training": summary}
            averaged.trained_on = (*policy.trained_on, *(dataset.record() for dataset in datasets))
            merge_lora(averaged.float() if halved else averaged)
            averaged.save_pretrained(run.folder)
        return run.finish(summary)


FIRST = "first_stage"
"""Folder of a run: where what is trained before the rest is resumed from."""


def _first_stage(
    policy: Policy,
    loader: Callable[[int], DataLoader[Any]],
    validation: DataLoader[Any] | None,
    training: PolicyTrainingConfig,
    folder: Path,
    *,
    seed: int,
    quiet: bool,
) -> dict[str, Any]:
    """Trains (or resumes) what the policy wants trained before the rest, on the same batches; what came of it, for the summary."""
    stage = policy.first_stage
    if stage is None:
        return {}
    steps = stage.config.steps
    own = dataclasses.replace(
        training, steps=steps, minutes=0.0, lr=stage.config.lr, accumulate=1, val_every_steps=steps
    )
    module = FirstStageTraining(stage, own, seed=seed)
    module.train()
    took = fit(module, loader, validation, own, folder, rate=module.rate, key="embodiment", quiet=quiet)
    stage.settle()
    measured = {name: round(value, 6) for name, value in took.measured.items()}
    return {FIRST: {"steps": took.steps, "minutes": took.minutes, "held_out": measured}}


def _dataset_summary(batches: PolicyBatches, number: int, batch_count: int) -> dict[str, Any]:
    dataset = batches.datasets[number]
    return {
        "name": dataset.name,
        "tier": dataset.data.spec.tier,
        "embodiment": dataset.data.spec.embodiment,
        "share": round(batches.order.shares[number], 5),
        "samples": len(dataset.train),
        "held_out_samples": len(dataset.held_out),
        "idle_rows": dataset.data.idle_rows,
        **({"verdict": verdict} if (verdict := dataset.data.spec.label.verdict) else {}),
        **_encoded_as(dataset),
        "epochs": round(batches.order.epochs(batch_count)[number], 3),
    }


def _encoded_as(dataset: TrainingDataset) -> dict[str, Any]:
    """What was done where nothing was said: the slot's."""
    if dataset.action_space is None:
        return {}
    parts = dataset.action_space.parts
    return {
        "representation": {part.name: part.representation for part in parts},
        "normalisation": {part.name: part.normalisation for part in parts},
    }


def cameras_of(datasets: Sequence[TrainingDataset]) -> int:
    """The most cameras that a dataset has."""
    return max(len(dataset.data.cameras) for dataset in datasets)


def flare_target(policy: Policy, training: PolicyTrainingConfig, cameras: int, *, kept: bool = False) -> TargetEncoder:
    """FLARE's target encoder for this policy; `kept`: features of its frozen vision model are kept. Raises ValueError where
    the policy has no future tokens, and where the kind of target lacks what it is made of."""
    if not policy.future_tokens:
        raise ValueError(
            "--training.flare: the policy has no future tokens; one that is trained from scratch has them with "
            "--model.future-tokens, e.g. 9"
        )
    config, system2 = policy.config, policy.system2
    patches = system2.patches(config.image_size) if system2 is not None and kept else None
    shape = TargetShape(
        policy.future_tokens,
        config.image_size,
        cameras,
        vision=policy.frame_encoder,
        features=None if system2 is None or patches is None else (patches, system2.dim),
        horizon=config.horizon,
        action_dim=config.max_action_dim,
        state_dim=config.max_state_dim,
        embodiments=config.slots,
    )
    return build_target(training.alignment, shape)
