"""One training run of a policy in a folder: claimed by its settings, resumed where it was, saved when it is done."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from corpora.episodes.rlds import is_rlds
from corpora.store.frames import default_cache
from corpora.store.run import SUMMARY, write_json
from flare.targets import TargetEncoder, TargetShape, build_target
from jobs.run_progress import member_bar
from jobs.trainer import make_trainer, process_rank, quiet_lightning
from jobs.training_progress import TrainingProgress
from lapa.pairs.batches import loader_workers
from vla.checkpoint import WEIGHTS
from vla.data.features import cacheable, cached_features
from vla.data.loader import PolicyBatches, TrainingMember, held_batches
from vla.policy import ChunkPolicy
from vla.training import PolicyTraining
from vla.training_config import PolicyTrainingConfig
from vla.tuning import merge_lora

log = logging.getLogger(__name__)


def data_fingerprint(dataset: Path) -> str:
    """Of a dataset's metadata (LeRobot or RLDS), wherever it lies. Raises ValueError where there is none."""
    meta = dataset.expanduser() / "meta"
    if is_rlds(dataset):
        meta = dataset.expanduser()
        paths = list(meta.glob("*.json"))
    elif (meta / "info.json").is_file():
        paths = [path for path in meta.rglob("*") if path.is_file()]
    else:
        raise ValueError(
            f"'{dataset}' is no LeRobot dataset: it lacks meta/info.json; nor is it RLDS, which has features.json and "
            "dataset_info.json"
        )
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(meta).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def policy_fingerprint(name: str) -> str:
    """Of a policy's weights, wherever they lie; of a policy on the hub, its name."""
    weights = Path(name).expanduser() / WEIGHTS
    if not weights.is_file():
        return name
    digest = hashlib.sha256(str(weights.stat().st_size).encode())
    with weights.open("rb") as file:
        digest.update(file.read(64 << 20))
    return digest.hexdigest()[:16]


def train_policy(
    policy: ChunkPolicy,
    members: Sequence[TrainingMember],
    training: PolicyTrainingConfig,
    out: Path,
    *,
    seed: int,
    target: TargetEncoder | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains (or resumes) and saves the averaged policy to `out`, as `from_pretrained` reads it. Returns the summary.

    Raises ValueError for members that do not fit the policy, KeyboardInterrupt where it was stopped by hand.
    """
    if training.flare and target is None:
        target = flare_target(policy, training, cameras_of(members))
    lightning.seed_everything(seed, workers=True, verbose=False)
    names = [member.name for member in members]
    module = PolicyTraining(policy, training, seed=seed, member_names=names, target=target)
    checkpoint = out / "checkpoints" / "last.ckpt"
    resumed = checkpoint if checkpoint.is_file() else None
    batches_done = 0
    if resumed is not None:
        state = torch.load(resumed, weights_only=True, map_location="cpu", mmap=True)
        batches_done = int(state["global_step"]) * training.accumulate
        del state
    meter = TrainingProgress(show=not quiet, unit="samples", key="embodiment")
    trainer = make_trainer(training, out, meter, clip=training.clip, strategy=training.strategy)
    look_up = None
    if training.cache_features and cacheable(policy):
        with nullcontext() if quiet else member_bar("features of the frozen model") as bar:
            folder = (cache or default_cache()) / "features"
            look_up = cached_features(policy, members, folder, cameras=cameras_of(members), progress=bar).tokens
    ranks = training.devices
    rank = process_rank()
    batches = PolicyBatches(
        members,
        policy.config,
        batch_size=training.batch_size,
        cameras=cameras_of(members),
        seed=seed,
        rank=rank,
        ranks=ranks,
        start=batches_done,
        look_up=look_up,
    )
    workers = loader_workers(training.workers)
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    held = held_batches(
        members,
        policy.config,
        batch_size=training.batch_size,
        cameras=cameras_of(members),
        samples=training.val_samples,
        look_up=look_up,
    )
    validation: DataLoader[Any] | None = DataLoader(held, batch_size=None) if held else None  # type: ignore[arg-type]
    module.train()  # Lightning keeps modes as they are, and a loaded policy is in evaluation mode
    with quiet_lightning():
        trainer.fit(module, loader, validation, ckpt_path=str(resumed) if resumed else None, weights_only=True)
    if trainer.interrupted:  # Ctrl-C: a checkpoint's worth of work is kept, the run is not finished
        raise KeyboardInterrupt
    measured: dict[str, float] = {}
    if validation is not None:
        with quiet_lightning():
            measured = dict(trainer.validate(module, validation, verbose=False)[0])
    summary = {
        "seed": seed,
        "steps": trainer.global_step,
        "minutes": round(module.elapsed_s / 60, 3),
        "samples_seen": trainer.global_step * training.batch_size * training.accumulate,
        "samples_per_s": round(meter.samples_per_s, 1),
        "data_wait_share": round(meter.wait_share, 4),
        "parameters": sum(p.numel() for p in policy.parameters()),
        "trained_parameters": sum(p.numel() for p in policy.parameters() if p.requires_grad),
        "members": [
            _member_summary(batches, number, trainer.global_step * training.accumulate) for number in range(len(names))
        ],
        "held_out": {name: round(float(value), 6) for name, value in measured.items()},
    }
    if trainer.is_global_zero:
        averaged = module.averaged()
        averaged.measured = {**policy.measured, "training": summary}
        merge_lora(averaged)
        averaged.save_pretrained(out)
        write_json(out / SUMMARY, summary)
    return summary


def _member_summary(batches: PolicyBatches, number: int, batch_count: int) -> dict[str, Any]:
    member = batches.members[number]
    return {
        "name": member.name,
        "tier": member.member.tier,
        "embodiment": member.member.embodiment,
        "share": round(batches.order.shares[number], 5),
        "samples": len(member.train),
        "held_out_samples": len(member.held),
        "epochs": round(batches.order.epochs(batch_count)[number], 3),
    }


def cameras_of(members: Sequence[TrainingMember]) -> int:
    """The most cameras that a member has."""
    return max(len(member.member.sample(int(member.train[0])).pictures) for member in members)


def flare_target(policy: ChunkPolicy, training: PolicyTrainingConfig, cameras: int) -> TargetEncoder:
    """FLARE's target encoder for this policy. Raises ValueError where the policy has no future tokens."""
    if not policy.future_tokens:
        raise ValueError("--training.flare: the policy has no future tokens; give --model.future-tokens, e.g. 9")
    config = policy.config
    shape = TargetShape(
        policy.future_tokens,
        config.image_size,
        cameras,
        vision=policy.frame_encoder,
        horizon=config.horizon,
        action_dim=config.max_action_dim,
        state_dim=config.max_state_dim,
        embodiments=config.slots,
    )
    return build_target(training.alignment, shape)


def budget(training: PolicyTrainingConfig, steps: int | None, minutes: float | None) -> PolicyTrainingConfig:
    """The training with --steps and --minutes put in: giving one drops the recipe's other."""
    if steps is None and minutes is None:
        return training
    return dataclasses.replace(training, steps=steps or 0, minutes=minutes or 0.0)
