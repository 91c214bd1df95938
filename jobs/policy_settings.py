"""Settings of the jobs that train a policy; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.budget import check_budget
from vla.models.config import PolicyConfig
from vla.recipes import RECIPES
from vla.training_config import PolicyTrainingConfig, TuningConfig

EVERYTHING = TuningConfig(vision=True)
"""What a small policy trains: all of it."""


@dataclass(frozen=True, kw_only=True)
class TrainPolicy:
    """What the jobs that train a policy have in common."""

    out: Path
    """Run folder; the same command again resumes. It holds the policy when the run is done."""
    policy: str = ""
    """Go on from this policy (run folder or hub name) instead of fresh weights."""
    recipe: str = "small"
    """The policy (from scratch) and training that the other flags override."""
    cache: Path | None = None
    """Folder for decoded images; default GIZA_CACHE, else the user's cache."""
    seed: int = 0
    """Of weights, order, noise and the held-out split."""
    steps: int | None = None
    """Optimiser steps, instead of the recipe's."""
    minutes: float | None = None
    """Wall-clock minutes after which it stops early."""
    tuning: TuningConfig = EVERYTHING
    """What is trained; of a policy with a vision-language model by name, projector and DiT are GR00T's choice."""
    model: PolicyConfig = RECIPES["small"].policy
    """The policy, from scratch."""
    training: PolicyTrainingConfig = RECIPES["small"].training
    """The training."""

    def __post_init__(self) -> None:
        check_budget(self.steps, self.minutes)
