"""Named runs: a policy and how it is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from flare.config import FlareConfig
from vla.models.config import PolicyConfig
from vla.recipes import RECIPES as POLICIES
from vla.training_config import PolicyTrainingConfig


@dataclass(frozen=True)
class PolicyRecipe:
    """A policy and its training."""

    policy: PolicyConfig
    training: PolicyTrainingConfig


SIGLIP2 = "google/siglip2-large-patch16-256"
"""FLARE's target encoder (2505.15659)."""

_GROOT = PolicyTrainingConfig(
    steps=10_000,
    batch_size=64,
    lr=1e-4,
    weight_decay=1e-5,
    betas=(0.95, 0.999),
    precision="bf16-mixed",
    ema=0.0,
    val_every_steps=1000,
)
"""GR00T's fine-tuning defaults (REFERENCE.md, section 2)."""

RECIPES: dict[str, PolicyRecipe] = {
    "small": PolicyRecipe(POLICIES["small"], PolicyTrainingConfig(steps=3000, workers=0)),
    "small_flare": PolicyRecipe(
        POLICIES["small_flare"],
        PolicyTrainingConfig(steps=3000, workers=0, flare=True, alignment=FlareConfig(standardise=True, ema=1.0)),
    ),
    "bc": PolicyRecipe(POLICIES["bc"], PolicyTrainingConfig(steps=3000, workers=0)),
    "debug": PolicyRecipe(
        POLICIES["debug"],
        PolicyTrainingConfig(steps=20, batch_size=8, val_every_steps=10, val_samples=16, workers=0, ema=0.9),
    ),
    "n1": PolicyRecipe(POLICIES["n1"], _GROOT),
    "n1_5": PolicyRecipe(
        POLICIES["n1_5"],
        dataclasses.replace(_GROOT, alignment=FlareConfig(target="frozen", target_name=SIGLIP2)),
    ),
    "n1_6": PolicyRecipe(POLICIES["n1_6"], dataclasses.replace(_GROOT, batch_size=64)),
}


FIELDS = {name: {"model": recipe.policy, "training": recipe.training} for name, recipe in RECIPES.items()}
"""The same, as the jobs' flags --model and --training."""


def recipe_named(name: str) -> PolicyRecipe:
    """Raises ValueError for an unknown name, with the nearest known one."""
    if name not in RECIPES:
        from jobs.cli import closest

        raise ValueError(f"--recipe '{name}': {closest(name, list(RECIPES))}")
    return RECIPES[name]
