"""`giza pretrain`: a policy on a pyramid: human video (latent actions, FLARE), synthetic and robot data in one mixture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.store.run import claim, recipe_in
from jobs.cli import parse
from jobs.commands.ground import EVERYTHING
from jobs.policy_recipes import RECIPES, recipe_named
from vla.models.config import PolicyConfig
from vla.training_config import PolicyTrainingConfig, TuningConfig


@dataclass(frozen=True)
class PretrainConfig:
    """Train a policy on the members of a pyramid file."""

    pyramid: Path
    """TOML file of members; see giza pyramid."""
    out: Path
    """Run folder; the same command again resumes. It holds the policy when the run is done."""
    recipe: str = "small"
    """small, debug, n1, n1_5 or n1_6: the policy and training that the other flags override."""
    policy: str = ""
    """Go on from this policy (run folder or hub name) instead of fresh weights."""
    held_share: float = 0.1
    """Share of each member's episodes or videos that is held out."""
    stride_s: float = 0.0
    """Clips without labels: seconds between two samples; 0: every frame."""
    cache: Path | None = None
    """Folder for decoded pictures; default GIZA_CACHE, else the user's cache."""
    seed: int = 0
    """Of weights, order, noise and the held-out split."""
    steps: int | None = None
    """Optimiser steps, instead of the recipe's budget."""
    minutes: float | None = None
    """Wall-clock minutes, instead of the recipe's budget."""
    tuning: TuningConfig = EVERYTHING
    """What is trained."""
    model: PolicyConfig = RECIPES["small"].policy
    """The policy."""
    training: PolicyTrainingConfig = RECIPES["small"].training
    """The training."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps {self.steps}: at least 1")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"--minutes {self.minutes}: more than 0")
        if not 0 <= self.held_share < 1:
            raise ValueError(f"--held-share {self.held_share}: within 0 and 1")


def run(config: PretrainConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Trains (or resumes) and saves the policy to `config.out`; returns the summary.

    Raises ValueError for a wrong pyramid (all its faults together) and for members that do not fit the policy.
    """
    import lightning

    from corpora.mixture.spec import read_pyramid
    from jobs.policy_run import budget, policy_fingerprint, train_policy
    from jobs.run_progress import member_bar, print_run
    from jobs.trainer import process_rank
    from vla.checkpoint import build_policy, load_policy
    from vla.data.open import open_members
    from vla.tuning import apply_tuning

    pyramid = read_pyramid(config.pyramid)
    settings = dataclasses.asdict(config)
    for moved in ("out", "cache", "policy", "pyramid"):
        del settings[moved]
    settings["members"] = [dataclasses.asdict(member) for member in pyramid.members]
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    policy = load_policy(config.policy) if config.policy else build_policy(config.model)
    settings["policy_fingerprint"] = policy_fingerprint(config.policy) if config.policy else None
    claim(config.out, settings)
    training = budget(config.training, config.steps, config.minutes)
    members = open_members(
        pyramid,
        policy,
        seed=config.seed,
        held_share=config.held_share,
        future_s=training.alignment.future_s if training.flare else None,
        stride_s=config.stride_s,
        cache=config.cache,
        progress=None if quiet else member_bar,
    )
    if hasattr(policy, "dit"):
        apply_tuning(policy, config.tuning, log=(lambda text: None) if quiet else print)
    summary = train_policy(policy, members, training, config.out, seed=config.seed, cache=config.cache, quiet=quiet)
    if not quiet and process_rank() == 0:
        print_run(summary, f"giza pretrain: {config.out}")
    return summary


def main(argv: Sequence[str]) -> None:
    """Parses the recipe first: its fields are the defaults that the other flags override."""
    import tyro

    name = recipe_in(argv, "small")
    recipe = recipe_named(name)
    default = PretrainConfig(
        pyramid=tyro.MISSING, out=tyro.MISSING, recipe=name, model=recipe.policy, training=recipe.training
    )
    run(parse(PretrainConfig, argv, job="pretrain", default=default))
