"""The arms of an ablation: a function of the tiers says which datasets each trains on, at matched steps, batch and robot data.

mine = Arm("human-idm-2", "+ human video by my labels",
           mixture=lambda tiers, demos: tiers.robot(demos) + tiers.human.labelled("labels"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from corpora.clips.manifest import TIERS
from corpora.mixture.label_kinds import Latents, Unlabelled
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec

Recipe = Literal["small", "small_flare", "bc", "trunk", "trunk_flare"]
"""small: the dual system; bc: behaviour cloning; trunk: behaviour cloning with latents and the future as outputs that feed the
action, used or not; _flare: with FLARE (of trunk on the change)."""
Role = Literal["baseline", "arm", "control", "positive", "ceiling"]
"""baseline: robot data alone; control: what an arm must beat to be told from it; positive: labels that must help, or the
ablation can show nothing; ceiling: no label made of video can be better."""


@dataclass(frozen=True)
class Arm:
    """One row of the ablation's table."""

    name: str
    """As on the command line."""
    description: str
    """What it is, in words."""
    mixture: Callable[[Any, int], MixtureSpec]
    """(tiers of the design, demonstrations of each task) -> what it trains on: `tiers.robot(demos)`, and the base beside it."""
    recipe: Recipe = "small"
    """Its policy, and whether the future is aligned with."""
    role: Role = "arm"
    """What it is for."""
    controls: tuple[str, ...] = ()
    """Names of the arms that it must beat, or it is not told from them."""
    batch_share: float = 1.0
    """Of the budget's batch: a baseline of half sees as many robot samples as arms with as much people's video do."""

    @property
    def is_control(self) -> bool:
        """It shows what an arm gains from labels that say nothing, and is no result of its own."""
        return self.role == "control"

    @property
    def flare(self) -> bool:
        """Whether the future is aligned with."""
        return self.recipe.endswith("_flare")

    def data(self, mixture: MixtureSpec) -> list[str]:
        """What it trains on, as a table says it: tiers from the top, of people's video also how it is used."""
        specs = sorted(mixture.datasets, key=lambda spec: -TIERS.index(spec.tier))
        return list(dict.fromkeys(self._described(spec) for spec in specs))

    def _described(self, spec: DatasetSpec) -> str:
        if spec.tier != "human":
            return spec.tier
        aligned = ", FLARE" if self.flare and spec.label.acts else ""
        return f"human ({spec.label.description}{aligned})"


def _robot(tiers: Any, demos: int) -> MixtureSpec:
    found: MixtureSpec = tiers.robot(demos)
    return found


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("robot-only", "demonstrations alone, trained as long", _robot, role="baseline"),
        Arm("bc", "plain convolutional behaviour cloning on the demonstrations", _robot, recipe="bc", role="baseline"),
        Arm(
            "synthetic", "+ synthetic episodes with actions", lambda tiers, demos: tiers.robot(demos) + tiers.synthetic
        ),
        Arm(
            "human-latent",
            "+ human video by latent actions",
            lambda tiers, demos: tiers.robot(demos) + tiers.latents + tiers.extra(Latents),
            controls=("shuffled",),
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
            role="ceiling",
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
            role="control",
        ),
    )
}
"""Of design joint."""


def _trunk(name: str, description: str, people: Callable[[Any, int], MixtureSpec] | None = None, **how: Any) -> Arm:
    """An arm of design transfer, whose policy has the same outputs in all of them, used or not: the robot's data, and `people`
    beside them."""
    mixture = _robot if people is None else lambda tiers, demos: tiers.robot(demos) + people(tiers, demos)
    return Arm(name, description, mixture, **{"recipe": "trunk", **how})


_PAINTED = "+ people with the robot painted over them, by "
_PERMUTED = "control: the same with labels permuted over clips"
TRANSFER: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        _trunk("robot-only", "demonstrations of known and novel tasks alone", role="baseline"),
        _trunk(
            "robot-half",
            "the same, with as many robot samples as arms with people's video see",
            role="baseline",
            batch_share=0.5,
        ),
        _trunk("robot-flare", "the same, with FLARE on the robot's own future", role="baseline", recipe="trunk_flare"),
        _trunk("robot-small", "demonstrations alone, the dual system", role="baseline", recipe="small"),
        _trunk("bc", "plain behaviour cloning on the demonstrations", role="baseline", recipe="bc"),
        _trunk(
            "human-track",
            f"{_PAINTED}hand tracks",
            lambda tiers, demos: tiers.tracked(demos),
            controls=("shuffled", "shuffled-within"),
        ),
        _trunk("shuffled", _PERMUTED, lambda tiers, demos: tiers.tracked(demos).shuffled(), role="control"),
        _trunk(
            "shuffled-within",
            f"{_PERMUTED} of the same task",
            lambda tiers, demos: tiers.tracked(demos).shuffled(within_text=True),
            role="control",
        ),
        _trunk(
            "human-as-is",
            "+ people as they are, by hand tracks",
            lambda tiers, demos: tiers.tracked(demos, "as-is"),
            controls=("as-is-shuffled",),
        ),
        _trunk(
            "as-is-shuffled", _PERMUTED, lambda tiers, demos: tiers.tracked(demos, "as-is").shuffled(), role="control"
        ),
        _trunk(
            "same-body",
            "positive control: the robot in people's rooms, its actions read off its motion",
            lambda tiers, demos: tiers.tracked(demos, "body"),
            role="positive",
        ),
        _trunk(
            "true",
            "positive control: painted people by their true actions, which simulation alone knows",
            lambda tiers, demos: tiers.true_actions(demos),
            role="positive",
        ),
        _trunk(
            "human-latent",
            f"{_PAINTED}latent actions",
            lambda tiers, demos: tiers.latent(demos),
            controls=("latent-shuffled", "robot-half"),
        ),
        _trunk("latent-shuffled", _PERMUTED, lambda tiers, demos: tiers.latent(demos).shuffled(), role="control"),
        _trunk(
            "human-flare",
            f"{_PAINTED}FLARE",
            lambda tiers, demos: tiers.unlabelled(demos),
            recipe="trunk_flare",
            controls=("robot-flare",),
        ),
        _trunk(
            "human-both",
            f"{_PAINTED}latent actions and FLARE",
            lambda tiers, demos: tiers.latent(demos),
            recipe="trunk_flare",
            controls=("both-shuffled", "robot-flare"),
        ),
        _trunk(
            "both-shuffled",
            _PERMUTED,
            lambda tiers, demos: tiers.latent(demos).shuffled(),
            recipe="trunk_flare",
            role="control",
        ),
    )
}
"""Of design transfer."""

DESIGNS: dict[str, dict[str, Arm]] = {"transfer": TRANSFER, "joint": ARMS}
"""transfer: known tasks with many demonstrations, novel ones with few; joint: few demonstrations of all tasks."""


def arms_named(design: str, names: Sequence[str], own: Mapping[str, Arm] | None = None) -> list[Arm]:
    """The arms of these names, `own` ones among them. Raises ValueError for a name that the design does not know, and where no
    baseline is among them."""
    known = {**DESIGNS[design], **(own or {})}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--arms '{unknown[0]}': of design {design} there are {', '.join(known)}")
    arms = [known[name] for name in dict.fromkeys(names)]
    if not any(arm.role == "baseline" for arm in arms):
        baselines = " or ".join(arm.name for arm in known.values() if arm.role == "baseline")
        raise ValueError(f"--arms {' '.join(names)}: must hold {baselines}, which the others are compared with")
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
