"""The arms of an ablation: a function of the tiers says which datasets each trains on, at matched steps, batch and robot data.

Of design transfer, and of design joint:

    mine = Arm("track-flare", "+ painted people by hand tracks, and FLARE", recipe="trunk_flare", controls=("robot-flare",),
               mixture=lambda tiers, demos: tiers.robot(demos) + tiers.tracked(demos))
    mine = Arm("human-idm-2", "+ human video by my labels",
               mixture=lambda tiers, demos: tiers.robot(demos) + tiers.human.labelled("labels"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from corpora.clips.manifest import TIERS
from corpora.mixture.label_kinds import Latents, Unlabelled
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from corpora.store.told import closest


@dataclass(frozen=True)
class PolicyKind:
    """What kind of policy an arm has, as an arm's `recipe` names it."""

    loss: str = "regression"
    """Of the actions; two of a kind are a measure against each other."""
    head: str = "regression"
    """ "": that of the ablation's own policy."""
    feeding: bool = False
    """Latents and the future are outputs that feed the action, used or not."""
    flare: bool = False
    """The future is aligned with."""
    change: bool = False
    """What is aligned with is how it differs from now."""
    unlabelled: str = Unlabelled.title
    """What it learns of video without labels, as a table says it."""


POLICIES = {
    "small": PolicyKind("flow matching", ""),  # the dual system
    "small_flare": PolicyKind("flow matching", "", flare=True),
    "small_world": PolicyKind("flow matching", "world_action", unlabelled="next pictures"),
    "bc": PolicyKind(),
    "trunk": PolicyKind(feeding=True),
    "trunk_flare": PolicyKind(feeding=True, flare=True, change=True),
}
"""Recipe of an arm -> its policy."""
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
    recipe: str = "small"
    """Its policy, of `POLICIES`."""
    role: Role = "arm"
    """What it is for."""
    controls: tuple[str, ...] = ()
    """Names of the arms that it must beat, or it is not told from them."""
    thinned: bool = False
    """A baseline that sees as few robot samples as arms with people's video, in smaller batches."""

    def __post_init__(self) -> None:
        for name, value, known in (("recipe", self.recipe, POLICIES), ("role", self.role, get_args(Role))):
            if value not in known:
                raise ValueError(f"arm '{self.name}': {name} '{value}'. {closest(value, known)}")

    @property
    def is_control(self) -> bool:
        """It shows what an arm gains from labels that say nothing, and is no result of its own."""
        return self.role == "control"

    @property
    def flare(self) -> bool:
        """Whether the future is aligned with."""
        return POLICIES[self.recipe].flare

    def data(self, mixture: MixtureSpec) -> list[str]:
        """What it trains on, as a table says it: tiers from the top, of people's video also how it is used."""
        specs = sorted(mixture.datasets, key=lambda spec: -TIERS.index(spec.tier))
        return list(dict.fromkeys(self._described(spec) for spec in specs))

    def _described(self, spec: DatasetSpec) -> str:
        if spec.tier != "human":
            return spec.tier
        aligned = ", FLARE" if self.flare and spec.label.acts else ""
        learned = spec.label.description.replace(Unlabelled.title, POLICIES[self.recipe].unlabelled)
        return f"human ({learned}{aligned})"


People = Callable[[Any, int], MixtureSpec]
"""(tiers of the design, demonstrations of each task) -> what an arm has beside the robot's data."""


def _arm(name: str, description: str, people: People | None = None, **how: Any) -> Arm:
    """An arm of the robot's data, and `people` beside them."""

    def mixture(tiers: Any, demos: int) -> MixtureSpec:
        robot: MixtureSpec = tiers.robot(demos)
        return robot if people is None else robot + people(tiers, demos)

    return Arm(name, description, mixture, **how)


def _latents(tiers: Any, demos: int) -> MixtureSpec:
    found: MixtureSpec = tiers.latents + tiers.extra(Latents)
    return found


def _unlabelled(tiers: Any, demos: int) -> MixtureSpec:
    found: MixtureSpec = tiers.human + tiers.extra(Unlabelled)
    return found


_WORLD = "demonstrations alone, the picture that follows and the actions denoised together"
_JOINT = (
    _arm("robot-only", "demonstrations alone, trained as long", role="baseline"),
    _arm("bc", "plain convolutional behaviour cloning on the demonstrations", recipe="bc", role="baseline"),
    _arm("synthetic", "+ synthetic episodes with actions", lambda tiers, demos: tiers.synthetic),
    _arm("human-latent", "+ human video by latent actions", _latents, controls=("shuffled",)),
    _arm(
        "human-flare",
        "+ human video by FLARE",
        _unlabelled,
        recipe="small_flare",
    ),
    _arm("human-both", "+ human video by latent actions and FLARE", _latents, recipe="small_flare"),
    _arm("human-idm", "+ human video by inverse-dynamics labels", lambda tiers, demos: tiers.pseudo_actions(demos)),
    _arm(
        "human-true",
        "ceiling: human video with its true actions, which simulation alone knows",
        lambda tiers, demos: tiers.true_actions(demos),
        role="ceiling",
    ),
    _arm(
        "everything",
        "+ human video by latents and FLARE, + synthetic",
        lambda tiers, demos: tiers.latents + tiers.synthetic + tiers.extra(Latents),
        recipe="small_flare",
    ),
    _arm(
        "shuffled",
        "control: human video with latents permuted over clips",
        lambda tiers, demos: _latents(tiers, demos).shuffled(),
        role="control",
    ),
    _arm("world-only", _WORLD, recipe="small_world", role="baseline"),
    _arm(
        "human-world",
        "the same, + human video by the pictures that follow",
        _unlabelled,
        recipe="small_world",
        controls=("world-shuffled", "world-only"),
    ),
    _arm(
        "world-shuffled",
        "control: the same with what follows of other clips",
        lambda tiers, demos: _unlabelled(tiers, demos).shuffled(),
        recipe="small_world",
        role="control",
    ),
)
ARMS: dict[str, Arm] = {arm.name: arm for arm in _JOINT}
"""Of design joint."""


def _clips(kind: str, clips: str = "painted") -> People:
    """Of design transfer, by what its tiers call their labels."""
    return lambda tiers, demos: getattr(tiers, kind)(demos, clips)


def _permuted(people: People, *, within_text: bool = False) -> People:
    return lambda tiers, demos: people(tiers, demos).shuffled(within_text=within_text)


_ALONE: dict[str, Any] = {"recipe": "trunk", "role": "baseline"}
_ARM: dict[str, Any] = {"recipe": "trunk"}
"""The policy has the same outputs in all of them, used or not."""
_FLARE: dict[str, Any] = {"recipe": "trunk_flare"}
_CHECK: dict[str, Any] = {"recipe": "trunk", "role": "positive"}
_CONTROL: dict[str, Any] = {"recipe": "trunk", "role": "control"}
_MULTIPLIED: People = lambda tiers, demos: tiers.multiplied(demos)  # noqa: E731
_TRACKED, _AS_IS = _clips("tracked"), _clips("tracked", "as-is")
_LATENT, _LABELLED, _ALIGNED = _clips("latent"), _clips("labelled_latent"), _clips("unlabelled")
_PAINTED = "+ people with the robot painted over them, by "
_TOLD = f"{_PAINTED}latent actions of a model that is also told how the robot's hand moves (LAOM)"
_SAME = "control: the same with labels permuted over clips"
_OTHERS = "control: the same with what follows, and what it follows, of other clips"
_TRUE = "positive control: painted people by their true actions, which simulation alone knows"
_BODY = "positive control: the robot in people's rooms, its actions read off its motion"
_HALF = "the same, with as many robot samples as arms with people's video see"
_TRANSFER = (
    _arm("robot-only", "demonstrations of known and novel tasks alone", **_ALONE),
    _arm("robot-half", _HALF, thinned=True, **_ALONE),
    _arm("robot-flare", "the same, with FLARE on the robot's own future", role="baseline", **_FLARE),
    _arm("robot-small", "demonstrations alone, the dual system", role="baseline", recipe="small"),
    _arm("bc", "plain behaviour cloning on the demonstrations", role="baseline", recipe="bc"),
    _arm(
        "multiplied",
        "+ the novel tasks' demonstrations in other scenes (MimicGen)",
        _MULTIPLIED,
        controls=("robot-half",),
        **_ARM,
    ),
    _arm("human-track", f"{_PAINTED}hand tracks", _TRACKED, controls=("shuffled", "shuffled-within"), **_ARM),
    _arm("shuffled", _SAME, _permuted(_TRACKED), **_CONTROL),
    _arm("shuffled-within", f"{_SAME} of the same task", _permuted(_TRACKED, within_text=True), **_CONTROL),
    _arm("human-as-is", "+ people as they are, by hand tracks", _AS_IS, controls=("as-is-shuffled",), **_ARM),
    _arm("as-is-shuffled", _SAME, _permuted(_AS_IS), **_CONTROL),
    _arm("same-body", _BODY, _clips("tracked", "body"), **_CHECK),
    _arm("true", _TRUE, _clips("true_actions"), **_CHECK),
    _arm("human-latent", f"{_PAINTED}latent actions", _LATENT, controls=("latent-shuffled", "robot-half"), **_ARM),
    _arm("latent-shuffled", _SAME, _permuted(_LATENT), **_CONTROL),
    _arm("labelled-latent", _TOLD, _LABELLED, controls=("labelled-shuffled", "robot-half"), **_ARM),
    _arm("labelled-shuffled", _SAME, _permuted(_LABELLED), **_CONTROL),
    _arm("human-flare", f"{_PAINTED}FLARE", _ALIGNED, controls=("flare-shuffled", "robot-flare"), **_FLARE),
    _arm("flare-shuffled", _OTHERS, _permuted(_ALIGNED), role="control", **_FLARE),
    _arm(
        "human-both",
        f"{_PAINTED}latent actions and FLARE",
        _LATENT,
        controls=("both-shuffled", "robot-flare"),
        **_FLARE,
    ),
    _arm("both-shuffled", _SAME, _permuted(_LATENT), role="control", **_FLARE),
    _arm("world-only", _WORLD, recipe="small_world", role="baseline"),
    _arm(
        "human-world",
        f"{_PAINTED}the pictures that follow, which are denoised beside actions",
        _ALIGNED,
        recipe="small_world",
        controls=("world-shuffled", "world-only"),
    ),
    _arm(
        "world-shuffled",
        "control: the same with what follows of other clips",
        _permuted(_ALIGNED),
        recipe="small_world",
        role="control",
    ),
)
TRANSFER: dict[str, Arm] = {arm.name: arm for arm in _TRANSFER}
"""Of design transfer."""

DESIGNS: dict[str, dict[str, Arm]] = {"transfer": TRANSFER, "joint": ARMS}
"""transfer: known tasks with many demonstrations, novel ones with few; joint: few demonstrations of all tasks."""


def arms_named(design: str, names: Sequence[str], own: Mapping[str, Arm] | None = None) -> list[Arm]:
    """The arms of these names, `own` ones among them. Raises ValueError for an arm, or a control of one, that the design does
    not know, and where no baseline is among them."""
    known = {**DESIGNS[design], **(own or {})}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--arms '{unknown[0]}': of design {design} there are {', '.join(known)}")
    arms = [known[name] for name in dict.fromkeys(names)]
    for arm in arms:
        if lost := [name for name in arm.controls if name not in known]:
            raise ValueError(f"arm '{arm.name}': control '{lost[0]}': of design {design} there are {', '.join(known)}")
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


def cells(demos: Mapping[str, Sequence[int]], seeds: Sequence[int]) -> list[Cell]:
    """Of each arm's numbers of demonstrations; seed by seed, so that an interrupted ablation has whole seeds."""
    counts = dict.fromkeys(count for mine in demos.values() for count in mine)
    return [Cell(arm, count, seed) for seed in seeds for count in counts for arm in demos if count in demos[arm]]
