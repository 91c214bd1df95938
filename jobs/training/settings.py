"""Settings of the jobs that train a policy; imports no torch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpora.store.inputs import READ, READ_OR_HUB, expect_input
from jobs.training.budget import check_budget
from jobs.training.logs import LoggerName
from vla.models.config import PolicyConfig
from vla.recipes import EVERYTHING, RECIPES, tuning_of_policy
from vla.training_config import PolicyTrainingConfig, TuningConfig


@dataclass(frozen=True, kw_only=True)
class TrainPolicy:
    """What the jobs that train a policy have in common."""

    out: Path
    """Run folder; the same command again resumes. It holds the policy when the run is done."""
    policy: str = field(default="", metadata=READ_OR_HUB)
    """Go on from this policy (run folder or hub name) instead of fresh weights. The model is then this policy's, and of the
    recipe only the training is taken."""
    recipe: str = "small"
    """The policy (from scratch) and training that the other flags override."""
    backbone: str = ""
    """Frozen model (hub name or folder) instead of the recipe's own: a vision model of small_dino and bc_dino, a vision-language
    model of n1 and later."""
    head_weights: Path | None = field(default=None, metadata=READ)
    """Folder of GR00T N1.5, N1.6 or N1.7 as NVIDIA publishes it: System 1 begins with its weights (--recipe n1_5, n1_6, n1_7)."""
    cache: Path | None = None
    """Folder for decoded images; default GIZA_CACHE, else the user's cache."""
    seed: int = 0
    """Of weights, order, noise and the held-out split."""
    steps: int | None = None
    """Optimiser steps, instead of the recipe's."""
    minutes: float | None = None
    """Wall-clock minutes after which it stops early."""
    logger: LoggerName = "tensorboard"
    """Where the curves go: files in OUT/tensorboard, Weights & Biases (its package is yours to install), or nowhere."""
    refit: bool = False
    """Make the statistics of embodiments that --policy knows anew, of these data; default: they stay, and what lies beyond is
    cut to the old range and told. An action that never moved before and does now is refused without it."""
    tuning: TuningConfig = EVERYTHING
    """What is trained. Beside --policy, and of a recipe that --model.vlm.name or --model.vision.name gives a model by name, the
    default is no recipe's: projector and DiT, and of a policy without such a model all of it."""
    model: PolicyConfig = RECIPES["small"].policy
    """The policy. Beside --policy, that policy's own: nothing of it can be changed."""
    training: PolicyTrainingConfig = RECIPES["small"].training
    """The training."""

    def __post_init__(self) -> None:
        check_budget(self.steps, self.minutes)
        if self.refit and not self.policy:
            raise ValueError("--refit without --policy: there are no statistics yet; leave it out")
        if self.head_weights and self.policy:
            raise ValueError(
                "--head-weights beside --policy: that policy has weights of its own; leave one of them out"
            )
        if self.backbone:
            object.__setattr__(self, "model", with_backbone(self.model, self.backbone))


def with_backbone(model: PolicyConfig, name: str) -> PolicyConfig:
    """The model on another frozen one. Raises ValueError where it has none."""
    for part in ("vision", "vlm"):
        if getattr(model, part).name:
            return dataclasses.replace(model, **{part: dataclasses.replace(getattr(model, part), name=name)})
    raise ValueError(
        f"--backbone '{name}': this recipe's policy has no model by name; choose --recipe small_dino or bc_dino for a vision "
        "model, n1_5 to n1_7 for a vision-language model"
    )


def fields_of_policy(name: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What --policy sets. Raises ValueError where there is no such policy."""
    expect_input("policy", name, hub=True)
    from vla.stored import policy_config

    config = policy_config(name)
    return {"model": config, "tuning": tuning_of_policy(config)}


def fields_of_model(part: str, name: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What --model.vlm.name or --model.vision.name sets: a recipe whose policy has no such model trains all of it, which would
    be all of this one, too."""
    model: PolicyConfig = recipe["model"]
    if model.vlm.name or model.vision.name:
        return {}
    brought = dataclasses.replace(model, **{part: dataclasses.replace(getattr(model, part), name=name)})
    return {"tuning": tuning_of_policy(brought)}


SETS: dict[str, Callable[[str, Mapping[str, Any]], dict[str, Any]]] = {
    "policy": fields_of_policy,
    "model.vlm.name": functools.partial(fields_of_model, "vlm"),
    "model.vision.name": functools.partial(fields_of_model, "vision"),
}


def check_model(asked: PolicyConfig, has: PolicyConfig, policy: str | Path) -> None:
    """Raises ValueError, naming each flag, where another model is asked for than `policy` has."""
    if differ := [f"--{flag} {one} (the policy has {other})" for flag, one, other in _differences("model", asked, has)]:
        raise ValueError(
            f"{', '.join(differ)}: the model is that of --policy '{policy}', which training does not change; leave "
            f"{'it' if len(differ) == 1 else 'them'} out, or train from scratch, without --policy"
        )


def _differences(name: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    if dataclasses.is_dataclass(one):
        for item in dataclasses.fields(one):
            field = f"{name}.{item.name.replace('_', '-')}"
            yield from _differences(field, getattr(one, item.name), getattr(other, item.name))
    elif one != other:
        yield name, one, other
