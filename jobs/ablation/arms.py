"""The arms of an ablation: a function of the tiers says which datasets each trains on, at matched steps, batch and robot data.

mine = Arm("human-track", "+ human video by tracked hands",
           mixture=lambda tiers, demos: tiers.robot(demos) + tiers.human.labelled("tracks"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from corpora.clips.manifest import TIERS
from corpora.mixture.label_kinds import Latents, Unlabelled
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from jobs.ablation.tiers import Tiers


@dataclass(frozen=True)
class Arm:
    """One row of the ablation's table."""

    name: str
    """As on the command line."""
    description: str
    """What it is, in words."""
    mixture: Callable[[Tiers, int], MixtureSpec]
    """(tiers, demonstrations of each task) -> what it trains on: `tiers.robot(demos)`, and the base that it is pretrained on."""
    recipe: str = "small"
    """small, small_flare (with FLARE), or bc for the task-specific baseline."""
    is_reference: bool = False
    """The others are compared with it."""
    is_control: bool = False
    """It shows what an arm gains from labels that say nothing, and is no result of its own."""

    @property
    def flare(self) -> bool:
        """Whether the future is aligned with."""
        return self.recipe == "small_flare"

    def data(self, mixture: MixtureSpec) -> list[str]:
        """What it trains on, as a table says it: tiers from the top, of people's video also how it is used."""
        specs = sorted(mixture.datasets, key=lambda spec: -TIERS.index(spec.tier))
        return list(dict.fromkeys(self._described(spec) for spec in specs))

    def _described(self, spec: DatasetSpec) -> str:
        if spec.tier != "human":
            return spec.tier
        aligned = ", FLARE" if self.flare and spec.label.acts else ""
        return f"human ({spec.label.description}{aligned})"


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("robot-only", "demonstrations alone, trained as long", Tiers.robot, is_reference=True),
        Arm("bc", "plain convolutional behaviour cloning on the demonstrations", Tiers.robot, recipe="bc"),
        Arm(
            "synthetic", "+ synthetic episodes with actions", lambda tiers, demos: tiers.robot(demos) + tiers.synthetic
        ),
        Arm(
            "human-latent",
            "+ human video by latent actions",
            lambda tiers, demos: tiers.robot(demos) + tiers.latents + tiers.extra(Latents),
        ),
        Arm(
            "human-flare",
            "+ human video by FLARE",
            lambda tiers, demos: tiers.robot(demos) + tiers.human + tiers.extra(Unlabelled),
            recipe="small_flare",
        ),
        Arm(
            "human-both",
            "+ human video by latent actions and FLARE",
            lambda tiers, demos: tiers.robot(demos) + tiers.latents + tiers.extra(Latents),
            recipe="small_flare",
        ),
        Arm(
            "human-idm",
            "+ human video by inverse-dynamics labels",
            lambda tiers, demos: tiers.robot(demos) + tiers.pseudo_actions(demos),
        ),
        Arm(
            "human-true",
            "ceiling: human video with its true actions, which simulation alone knows",
            lambda tiers, demos: tiers.robot(demos) + tiers.true_actions(demos),
        ),
        Arm(
            "everything",
            "+ human video by latents and FLARE, + synthetic",
            lambda tiers, demos: tiers.robot(demos) + tiers.latents + tiers.synthetic + tiers.extra(Latents),
            recipe="small_flare",
        ),
        Arm(
            "shuffled",
            "control: human video with latents permuted over clips",
            lambda tiers, demos: tiers.robot(demos) + (tiers.latents + tiers.extra(Latents)).shuffled(),
            is_control=True,
        ),
    )
}


def arms_named(names: Sequence[str], own: Mapping[str, Arm] | None = None) -> list[Arm]:
    """The arms of these names, `own` ones among them. Raises ValueError for an unknown name, and where the reference is
    missing."""
    known = {**ARMS, **(own or {})}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--arms '{unknown[0]}': must be among {', '.join(known)}")
    arms = [known[name] for name in dict.fromkeys(names)]
    if not any(arm.is_reference for arm in arms):
        reference = next(arm.name for arm in ARMS.values() if arm.is_reference)
        raise ValueError(f"--arms {' '.join(names)}: must hold {reference}, which the others are compared with")
    return arms


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


def cells(arms: Sequence[Arm], demos: Sequence[int], seeds: Sequence[int]) -> list[Cell]:
    """Seed by seed, so that an interrupted ablation has whole seeds."""
    return [Cell(arm.name, count, seed) for seed in seeds for count in demos for arm in arms]
