"""The data of an ablation in Meta-World: robot demonstrations, synthetic episodes, and people's video with its latents."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from corpora.episodes.episode import EpisodeSelection
from corpora.ingestion.settings import IngestSettings
from corpora.mixture.label_kinds import LATENT, Label, Latents, PseudoActions, Unlabelled
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import ClipsAt, DatasetSpec, EpisodesAt
from corpora.simulation.episode import EpisodeSettings
from corpora.simulation.tasks import task_names
from jobs.ablation.settings import Budget, TierData

EMBODIMENT = "metaworld"


@dataclass(frozen=True)
class LabelOrder:
    """Actions of people's clips that are made with some demonstrations, by the cell that needs them."""

    folder: Path
    demos: int
    true: bool
    """The true ones, which simulation alone knows; else those of an inverse dynamics model of these demonstrations."""


@dataclass(frozen=True)
class TrueActions(PseudoActions):
    """As `giza label` writes them, but true."""

    title: ClassVar[str] = "true"


class Tiers:
    """The tiers of an ablation as mixtures, which an arm puts together: `tiers.robot(demos) + tiers.human`.

    Asking for one notes that it is wanted; `make` then makes what is wanted and not there yet.
    """

    def __init__(self, out: Path, tasks: tuple[str, ...], data: TierData, extra: MixtureSpec | None = None) -> None:
        self.out, self.tasks, self.data, self._extra = out.resolve(), tasks, data, extra or MixtureSpec(())
        self.wanted: set[str] = set()
        """robot, synthetic, human, latents."""
        self.orders: list[LabelOrder] = []
        """In the order in which they were asked for."""

    start_seed = 0
    """Of the starts that policies are tried from."""

    def robot(self, demos: int) -> MixtureSpec:
        """The demonstrations that every arm has, `demos` of each task."""
        self.wanted.add("robot")
        return self._one("demonstrations", "robot", EpisodesAt(self.out / "robot", EpisodeSelection(demos=demos)))

    @property
    def synthetic(self) -> MixtureSpec:
        """Episodes with actions, seen by a moving camera."""
        self.wanted.add("synthetic")
        return self._one("synthetic", "synthetic", EpisodesAt(self.out / "synthetic"))

    @property
    def human(self) -> MixtureSpec:
        """People's clips without labels: for FLARE, or to be `.labelled(...)`."""
        return MixtureSpec((self._clips("human-flare", Unlabelled(), LATENT),))

    @property
    def latents(self) -> MixtureSpec:
        """People's clips with the latents of a latent action model that is trained on them."""
        self.wanted.add("latents")
        return MixtureSpec((self._clips("human-latent", Latents(self.out / "human" / "latents"), LATENT),))

    def pseudo_actions(self, demos: int) -> MixtureSpec:
        """People's clips with actions by an inverse dynamics model of `demos` demonstrations a task."""
        folder = self._ordered("pseudo", demos, true=False)
        return MixtureSpec((self._clips("human-idm", PseudoActions(folder), EMBODIMENT),))

    def true_actions(self, demos: int) -> MixtureSpec:
        """People's clips with the actions that were truly done, encoded as the robot's of `demos` demonstrations a task."""
        folder = self._ordered("true", demos, true=True)
        return MixtureSpec((self._clips("human-true", TrueActions(folder), EMBODIMENT),))

    def extra(self, kind: type[Label]) -> MixtureSpec:
        """Clips of the ablation's `--extra` file with a label of this kind."""
        found = [
            spec for spec in self._extra.datasets if isinstance(spec.data, ClipsAt) and isinstance(spec.label, kind)
        ]
        return MixtureSpec(tuple(found))

    def _one(self, name: str, tier: str, data: EpisodesAt) -> MixtureSpec:
        return MixtureSpec((DatasetSpec(name, tier, data, embodiment=EMBODIMENT),))

    def _clips(self, name: str, label: Label, embodiment: str) -> DatasetSpec:
        self.wanted.add("human")
        return DatasetSpec(name, "human", ClipsAt(self.out / "human" / "corpus"), label, embodiment=embodiment)

    def _ordered(self, name: str, demos: int, *, true: bool) -> Path:
        order = LabelOrder(self.out / "human" / f"{name}-demos{demos}", demos, true)
        self.orders.append(order)
        return order.folder

    PLACES: ClassVar[dict[str, tuple[str, ...]]] = {
        "robot": ("robot",),
        "synthetic": ("synthetic",),
        "human": ("human/video",),
    }
    """Tier -> where it is simulated."""

    def copies(self, budget: Budget) -> dict[str, Any]:
        """Success of one demonstration of each task that is replayed without looking, where design and data have it."""
        return {}

    def hours(self) -> dict[str, float]:
        """Hours of each tier, as simulated."""
        found: dict[str, float] = {}
        for tier, places in self.PLACES.items():
            records = [self.out / place / "simulate.json" for place in places]
            read = [json.loads(record.read_text("utf-8")) for record in records if record.is_file()]
            if read:
                found[tier] = sum(values["seconds"] for values in read) / 3600
        return found

    def make(self) -> None:
        """Simulates, ingests, trains the latent action model and extracts: what is wanted and not done yet."""
        import torch._dynamo  # noqa: F401 - it brings an LLVM, the simulator's GL another: loaded after that one it crashes

        episode = EpisodeSettings(seed=self.data.seed)
        if "robot" in self.wanted:
            shown = dataclasses.replace(episode, noise=self.data.robot_noise)
            self._simulate("robot", self.data.robot_episodes, shown)
        if "synthetic" in self.wanted:
            moving = dataclasses.replace(episode, seed=self.data.seed + 1, camera_motion=4.0)
            self._simulate("synthetic", self.data.synthetic_episodes, moving)
        if "human" in self.wanted:
            self._make_clips("human", episode, self.data.human_clips, appearance="hand")
        if "latents" in self.wanted:
            self._make_latents(self.out / "human" / "corpus", self.out / "human")

    def _simulate(self, name: str, episodes: int, episode: EpisodeSettings, **how: Any) -> None:
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

        settings = IngestSettings(size=self.data.size)
        ingest.run(ingest.IngestConfig(inputs=tuple(map(str, inputs)), out=self.out / name, settings=settings))

    def _make_latents(self, corpus: Path, folder: Path) -> None:
        """Trains a latent action model on `corpus` and extracts its latents, in `folder`."""
        from jobs.commands import extract, train_lam
        from lapa.recipes import RECIPES

        recipe = RECIPES["small"]
        if not (folder / "lam" / "run.json").is_file():
            train_lam.run(
                train_lam.TrainLamConfig(
                    corpus=corpus,
                    out=folder / "lam",
                    steps=self.data.lam_steps,
                    model=recipe.model,
                    training=recipe.training,
                ),
                quiet=True,
            )
        extract.run(
            extract.ExtractConfig(
                lam=folder / "lam",
                corpus=corpus,
                out=folder / "latents",
                gap_s=self.data.gap_s,
                stride_s=0.0,
            )
        )


def make_all(tiers: Sequence[Tiers], budget: Budget, parallel: int) -> list[dict[str, Any]]:
    """Makes them, side by side where there are several; what `copies` found in each."""
    if len(tiers) == 1 or parallel == 1:
        return [_make(each, budget) for each in tiers]
    context = multiprocessing.get_context("spawn")  # the simulator's GL does not survive a fork
    with ProcessPoolExecutor(parallel, mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(_make, tiers, itertools.repeat(budget)))


def _make(tiers: Tiers, budget: Budget) -> dict[str, Any]:
    tiers.make()
    return tiers.copies(budget)


DATA = TierData()


def prepare(out: str | Path, tasks: Sequence[str], data: TierData = DATA, *, human_clips: int | None = None) -> Tiers:
    """Demonstrations and people's clips of these Meta-World tasks, in `out`; whatever else arms want, `ablate` makes.

    `human_clips`: of each task, instead of `data`'s. Raises ValueError for an unknown task.
    """
    if human_clips is not None:
        data = dataclasses.replace(data, human_clips=human_clips)
    tiers = Tiers(Path(out), task_names(tuple(tasks)), data)
    tiers.wanted |= {"robot", "human"}
    tiers.make()
    return tiers
