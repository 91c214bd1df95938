"""The data of an ablation of design joint, in Meta-World: robot demonstrations, synthetic episodes, and people's video with its
latents; the same for all seeds.

    OUT/robot, synthetic   LeRobot datasets
        human/corpus       people's clips of all tasks, with lam and latents
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.clip_samples import ClipsAt
from corpora.mixture.embodiments import LATENT
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.label_kinds import Latents, PseudoActions, Unlabelled
from corpora.mixture.label_type import Label
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from corpora.simulation.settings import EpisodeSettings
from corpora.simulation.tasks import task_names
from jobs.ablation.maker import EMBODIMENT, Maker, Order, TrueActions, make_latents
from jobs.ablation.settings import TierData

if TYPE_CHECKING:
    from jobs.commands.label import LabelConfig


@dataclass(frozen=True)
class LabelOrder(Order):
    """Actions of people's clips that are made with some demonstrations."""

    out: Path
    """Of the ablation."""
    demos: int
    true: bool
    """The true ones, which simulation alone knows; else those of an inverse dynamics model of these demonstrations."""

    @property
    def folder(self) -> Path:
        return self.out / "human" / f"{'true' if self.true else 'pseudo'}-demos{self.demos}"

    def make(self, how: LabelConfig) -> None:
        from jobs.ablation.ceiling import write_true_actions
        from jobs.commands import label

        corpus, shown = self.out / "human" / "corpus", EpisodeSelection(demos=self.demos, failures=True)
        config = dataclasses.replace(how, robot=self.out / "robot", corpus=corpus, out=self.folder, selection=shown)
        if self.true:
            write_true_actions(config, self.out / "human" / "truth.parquet")
        else:
            label.run(config, quiet=True)


class Tiers(Maker):
    """The tiers as mixtures, which an arm puts together: `tiers.robot(demos) + tiers.human`."""

    design: ClassVar = "joint"
    mixtures: ClassVar = (
        *("robot(demos)", "synthetic", "human", "latents", "pseudo_actions(demos)", "true_actions(demos)"),
        "extra(label kind)",
    )
    places: ClassVar = {"robot": ("robot",), "synthetic": ("synthetic",), "human": ("human/video",)}

    def __init__(self, out: Path, tasks: tuple[str, ...], data: TierData, extra: MixtureSpec | None = None) -> None:
        super().__init__(out, tasks, data)
        self._extra = extra or MixtureSpec(())

    def robot(self, demos: int) -> MixtureSpec:
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
        order = self._ordered(demos, true=False)
        return MixtureSpec((self._clips("human-idm", PseudoActions(order.folder), EMBODIMENT),))

    def true_actions(self, demos: int) -> MixtureSpec:
        """People's clips with the actions that were truly done, encoded as the robot's of `demos` demonstrations a task."""
        order = self._ordered(demos, true=True)
        return MixtureSpec((self._clips("human-true", TrueActions(order.folder), EMBODIMENT),))

    def extra(self, kind: type[Label]) -> MixtureSpec:
        """Clips of the ablation's `--extra` file with a label of this kind."""
        return MixtureSpec(
            tuple(spec for spec in self._extra.datasets if spec.data.of_clips and isinstance(spec.label, kind))
        )

    def _one(self, name: str, tier: str, data: EpisodesAt) -> MixtureSpec:
        return MixtureSpec((DatasetSpec(name, tier, data, embodiment=EMBODIMENT),))

    def _clips(self, name: str, label: Label, embodiment: str) -> DatasetSpec:
        self.wanted.add("human")
        return DatasetSpec(name, "human", ClipsAt(self.out / "human" / "corpus"), label, embodiment=embodiment)

    def _ordered(self, demos: int, *, true: bool) -> LabelOrder:
        order = LabelOrder(self.out, demos, true)
        self.orders.append(order)
        return order

    def make(self) -> None:
        """Also trains the latent action model, and extracts."""
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
            make_latents(self.out / "human" / "corpus", self.out / "human" / "latents", self.data)


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
