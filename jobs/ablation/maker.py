"""What makes the data of an ablation, whichever its design. An arm asks a `Maker` for mixtures, which notes what they need; `make`
then makes what is wanted and not there yet. Labels that depend on the demonstrations are orders: the cells that need them have
them made, so that one that cannot be made fails no other arm."""

from __future__ import annotations

import dataclasses
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from corpora.ingestion.settings import IngestSettings
from corpora.mixture.label_kinds import PseudoActions
from corpora.mixture.mixture import MixtureSpec
from corpora.simulation.settings import EpisodeSettings
from jobs.ablation.processes import Cluster, share_of_cores, side_by_side, torch_threads
from jobs.ablation.settings import Budget, TierData

if TYPE_CHECKING:
    from jobs.commands.label import LabelConfig

log = logging.getLogger(__name__)

EMBODIMENT = "metaworld"
ROBOT = "sawyer"
"""What a corpus of the simulated robot calls its body."""


@dataclass(frozen=True)
class TrueActions(PseudoActions):
    """As `giza label` writes them, but true."""

    title: ClassVar[str] = "true"


class Order(ABC):
    """Labels that the first of the cells which need them makes."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Of the labels."""

    @abstractmethod
    def make(self, how: LabelConfig) -> None:
        """`how`: as the policy that learns from them wants it. Does nothing where they are there. Raises ValueError where they
        cannot be made."""


class Maker(ABC):
    """The data of one design and seed."""

    design: ClassVar[str]
    mixtures: ClassVar[tuple[str, ...]]
    """What an arm can ask it for."""
    places: ClassVar[dict[str, tuple[str, ...]]]
    """Tier -> folders that it is simulated in; the last of the robot tier holds the demonstrations of `tasks`."""

    def __init__(self, out: Path, tasks: tuple[str, ...], data: TierData) -> None:
        self.out, self.tasks, self.data = out.resolve(), tasks, data
        self.wanted: set[str] = set()
        """What `make` is to make."""
        self.orders: list[Order] = []
        """In the order in which they were asked for."""
        self.start_seed = 0
        """Of the starts that policies are tried from."""
        self.cores = share_of_cores(1)
        """That `make` may use."""

    @abstractmethod
    def robot(self, demos: int) -> MixtureSpec:
        """The demonstrations that every arm has, `demos` of each task."""

    @abstractmethod
    def make(self) -> None:
        """Simulates and ingests what is wanted and not done yet."""

    def copies(self, budget: Budget) -> dict[str, Any]:
        """Success of one demonstration of each task that is replayed without looking, where design and data have it."""
        return {}

    def demonstrations(self) -> dict[str, int]:
        """Task -> its episodes that succeeded, once they are simulated."""
        return self.succeeded(self.places["robot"][-1], self.tasks)

    def succeeded(self, folder: str, tasks: Sequence[str]) -> dict[str, int]:
        """Task -> how many of its episodes in a simulated folder did; empty where it is not simulated."""
        record = self._simulated(folder)
        told = [episode["task"] for episode in record.get("per_episode", ()) if episode["success"]]
        return {task: told.count(task) for task in tasks} if record else {}

    def hours(self) -> dict[str, float]:
        """Hours of each tier, as simulated."""
        read = {tier: list(filter(None, map(self._simulated, folders))) for tier, folders in self.places.items()}
        return {tier: sum(each["seconds"] for each in found) / 3600 for tier, found in read.items() if found}

    def _simulated(self, folder: str) -> dict[str, Any]:
        path = self.out / folder / "simulate.json"
        record: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return record

    def _simulate(self, name: str, episodes: int, episode: EpisodeSettings, **how: Any) -> None:
        import torch._dynamo  # noqa: F401 - it brings an LLVM, the simulator's GL another: loaded after that one it crashes

        from jobs.commands import simulate

        given: dict[str, Any] = {"tasks": self.tasks, "size": self.data.size, **how}
        simulate.run(simulate.SimulateConfig(out=self.out / name, episodes=episodes, episode=episode, **given))

    def _make_clips(self, name: str, episode: EpisodeSettings, clips: int, **how: Any) -> None:
        """Video without actions of `clips` episodes a task, each by another person, and the corpus of it, in folder `name`."""
        seen = dataclasses.replace(
            episode,
            seed=self.data.seed + 2,
            noise=self.data.human_noise,
            people=self.data.people,
            frame_every=self.data.human_frame_every,
        )
        folder = self.out / name
        self._simulate(f"{name}/video", clips, seen, action_free=True, truth=folder / "truth.parquet", **how)
        self._ingest(f"{name}/corpus", folder / "video")

    def _ingest(self, name: str, *inputs: Path) -> None:
        from jobs.commands import ingest

        given: dict[str, Any] = {"settings": IngestSettings(size=self.data.size), "workers": self.cores}
        ingest.run(ingest.IngestConfig(inputs=tuple(map(str, inputs)), out=self.out / name, **given))


def make_latents(
    corpus: Path,
    out: Path,
    data: TierData,
    robot: Path | None = None,
    *,
    holdout: tuple[str, ...] = (),
    labels: bool = False,
) -> None:
    """Trains a latent action model on `corpus`, beside `robot` where that is given, and extracts the latents of the former to
    `out`. `labels`: where the hand moves is in the loss, as far as the robot's own video says it (LAOM)."""
    from jobs.commands import extract, train_lam
    from lapa.pairs.config import LabelSpec
    from lapa.recipes import RECIPES

    recipe, lam = RECIPES["small"], out.with_name(out.name.replace("latents", "lam"))
    corpora = corpus if robot is None else (corpus, robot)
    known = LabelSpec("observation.state", (0, 1, 2), 1.0, ROBOT) if labels else LabelSpec()
    if not (lam / "run.json").is_file():
        config = train_lam.TrainLamConfig(
            corpora,
            lam,
            steps=data.lam_steps,
            holdout=holdout,
            labels=known,
            model=dataclasses.replace(recipe.model, label_dim=3 if labels else 0),
            training=recipe.training,
        )
        train_lam.run(config, quiet=True)
    extract.run(extract.ExtractConfig(lam=lam, corpus=corpus, out=out, gap_s=data.gap_s, stride_s=0.0))


@dataclass(frozen=True)
class Made:
    """What became of the data of one seed."""

    fault: str = ""
    """Why they could not be made; "": they are there."""
    copies: dict[str, Any] = field(default_factory=dict)
    """As `Maker.copies`."""
    demonstrations: dict[str, int] = field(default_factory=dict)
    """As `Maker.demonstrations`."""

    def lacks(self, demos: int) -> str:
        """Why nothing can be trained on so many demonstrations of each task; "" where it can."""
        few = [f"{task} has {count}" for task, count in self.demonstrations.items() if count < demos]
        if self.fault or not few:
            return self.fault
        return (
            f"{demos} demonstrations of each task are wanted, and of those that succeeded {', '.join(few)}: choose other "
            "--tasks, or begin again with more --data.robot-episodes"
        )


def make_all(makers: Sequence[Maker], budget: Budget, parallel: int, engine: str = "local") -> list[Made]:
    """Makes their data, side by side where there are several. One that fails is told and stops no other. Raises ValueError
    where all fail."""
    parallel = min(parallel, len(makers))
    for maker in makers:
        maker.cores = share_of_cores(parallel)
    cluster = Cluster[Any, Made](makers[0].out, lambda _, reason: Made(reason)) if engine == "ray" else None
    found = dict(side_by_side(_make, [(maker, budget) for maker in makers], parallel, cluster))
    made = [found[number] for number in range(len(makers))]
    if all(each.fault for each in made):
        raise ValueError(made[0].fault.removeprefix("ValueError: "))
    return made


def _make(asked: tuple[Maker, Budget]) -> Made:
    import torch

    maker, budget = asked
    try:
        with torch_threads(min(torch.get_num_threads(), maker.cores)):
            maker.make()
            return Made("", maker.copies(budget), maker.demonstrations())
    except Exception as error:  # its arms fail, and those of other seeds go on
        fault = f"{type(error).__name__}: {error}"
        log.warning("data of '%s': %s", maker.out, fault, exc_info=not isinstance(error, ValueError))
        return Made(fault)
