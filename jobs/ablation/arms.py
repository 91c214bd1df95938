"""The arms of an ablation: which tiers and labels each trains on, at matched steps, batch and robot data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Base = Literal["", "latent", "flare", "both", "inverse-dynamics", "true"]


@dataclass(frozen=True)
class Arm:
    """One row of the ablation's table."""

    name: str
    """As on the command line."""
    says: str
    """What it is, in words."""
    recipe: str = "small"
    """small, or bc for the task-specific baseline."""
    human: Base = ""
    """How human video is used: by latents, by FLARE, by both, by pseudo-actions, by true ones; empty: not at all."""
    synthetic: bool = False
    """Whether the synthetic tier is trained on."""
    shuffled: bool = False
    """The control: latents permuted over clips."""

    @property
    def flare(self) -> bool:
        return self.human in ("flare", "both")

    @property
    def pretrained(self) -> bool:
        """Whether it has a base below the robot tier."""
        return bool(self.human) or self.synthetic


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("robot-only", "demonstrations alone, trained as long"),
        Arm("bc", "plain convolutional behaviour cloning on the demonstrations", recipe="bc"),
        Arm("synthetic", "+ synthetic episodes with actions", synthetic=True),
        Arm("human-latent", "+ human video by latent actions", human="latent"),
        Arm("human-flare", "+ human video by FLARE", human="flare"),
        Arm("human-both", "+ human video by latent actions and FLARE", human="both"),
        Arm("human-idm", "+ human video by inverse-dynamics labels", human="inverse-dynamics"),
        Arm("human-true", "ceiling: human video with its true actions, which simulation alone knows", human="true"),
        Arm("everything", "+ human video by latents and FLARE, + synthetic", human="both", synthetic=True),
        Arm("shuffled", "control: human video with latents permuted over clips", human="latent", shuffled=True),
    )
}
REFERENCE = "robot-only"
"""The arm that the others are compared with."""


def arms_named(names: tuple[str, ...]) -> list[Arm]:
    """Raises ValueError for an unknown name, and where the reference is missing."""
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise ValueError(f"--arms '{unknown[0]}': must be among {', '.join(ARMS)}")
    if REFERENCE not in names:
        raise ValueError(f"--arms {' '.join(names)}: must hold {REFERENCE}, which the others are compared with")
    return [ARMS[name] for name in dict.fromkeys(names)]


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation."""

    arm: str
    demos: int
    """Demonstrations of each task."""
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.arm}/demos{self.demos}-seed{self.seed}"


def cells(arms: list[Arm], demos: tuple[int, ...], seeds: tuple[int, ...]) -> list[Cell]:
    """Seed by seed, so that an interrupted ablation has whole seeds."""
    return [Cell(arm.name, count, seed) for seed in seeds for count in demos for arm in arms]
