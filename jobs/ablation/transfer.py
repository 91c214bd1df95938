"""The data of one replicate of a transfer ablation: known tasks with many demonstrations, novel tasks with few, people's video
of the novel tasks, as it is and with the robot painted over the person.

Each replicate is simulated anew: other demonstrations, people, rooms, clips and starts, and a latent action model of its own.

    OUT/known, novel       LeRobot datasets, with robot-tracks/{known,novel}/episode_000000.npz
        robot              corpus of both, from which the robot is cut out
        human/corpus       people's clips of the novel tasks
        body/corpus        the robot itself in people's rooms, without actions: a positive control; with its labels
        demosN/            what N demonstrations of each novel task make of people's: cut-outs, painted clips, labels, latents;
                           and these demonstrations multiplied
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from filelock import FileLock

from corpora.agent.settings import PaintSettings, TrackSettings
from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.clip_samples import ClipsAt
from corpora.mixture.embodiments import LATENT
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.label_kinds import Latents, TrackActions, Unlabelled
from corpora.mixture.label_type import Label
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from corpora.simulation.settings import EpisodeSettings
from jobs.ablation.maker import EMBODIMENT, Maker, Order, TrueActions, make_latents
from jobs.ablation.settings import Budget, TierData

if TYPE_CHECKING:
    from jobs.commands.label import LabelConfig

log = logging.getLogger(__name__)

FORMAT = 4
"""Raised when the same flags give other data; 1 labelled with fixed horizons, and simulated as few novel episodes as it could;
2 had latent action models of people's clips alone, 3 no labels of motions that are too small to tell."""
Clips = Literal["painted", "as-is", "body"]
"""People's with the robot over them, people's as they are, or the robot's own."""
Word = Literal["track", "true", "latents", "labelled-latents", "none"]
"""Actions by tracks, true ones, latents (of a model that the robot's known motion has a part in, or none), or no label."""
KNOWN, NOVEL = 22.0, 10.0
"""Weights of the demonstrations of known and of novel tasks in the robot's share of a batch."""


MULTIPLIED = 50
"""Trajectories that the demonstrations of a novel task are multiplied into."""


@dataclass(frozen=True)
class TransferOrder(Order):
    """Clips that are painted, and labels of clips."""

    out: Path
    """Of the replicate."""
    data: TierData
    demos: int
    """Whose cut-outs and tracks they take; 0 where these say nothing."""
    clips: Clips
    word: Word

    @property
    def folder(self) -> Path:
        return (self._demos / self.clips if self.paints else self._videos) / self.word

    @property
    def paints(self) -> bool:
        """Whether they take painted clips, or the tracks of these, which are in the robot's space."""
        return self.clips == "painted" or (self.clips, self.word) == ("as-is", "track")

    @property
    def corpus(self) -> Path:
        """Of the clips."""
        return self._painted if self.clips == "painted" else self._videos / "corpus"

    @property
    def _demos(self) -> Path:
        return self.out / f"demos{self.demos}"

    @property
    def _painted(self) -> Path:
        return self._demos / "painted" / "corpus"

    @property
    def _videos(self) -> Path:
        return self.out / ("body" if self.clips == "body" else "human")

    def make(self, how: LabelConfig) -> None:
        if self.paints:
            self._demos.mkdir(exist_ok=True)
            with FileLock(self._demos / "paint.lock"):  # labels of several kinds take them
                self._paint()
        if self.word in ("latents", "labelled-latents"):
            # of the robot's video the known tasks alone: novel ones are held out, cells have their own demonstrations of them
            robot, labels = self.out / "robot", self.word == "labelled-latents"
            make_latents(self.corpus, self.folder, self.data, robot, holdout=("novel/*",), labels=labels)
        if self.word not in ("track", "true"):
            return
        from jobs.ablation.ceiling import write_true_actions
        from jobs.commands import label

        config = dataclasses.replace(how, robot=self.out / "known", corpus=self.corpus, out=self.folder, steps=None)
        if self.word == "true":
            write_true_actions(config, self._videos / "truth.parquet")
            return
        tracks = (self._painted if self.paints else self._videos) / "tracks"
        shown = self.out / "novel" if self.demos else None
        label.run(
            dataclasses.replace(
                config, tracks=tracks, robot_tracks=self.out / "robot-tracks", near=shown, near_demos=self.demos
            ),
            quiet=True,
        )

    def _paint(self) -> None:
        """The robot over the people: cut out of the demonstrations that this cell has, and of no others."""
        from jobs.commands import crosspaint

        _track(self.out / "robot", self._robot_files(), self._demos / "robot-tracks")
        crosspaint.run(
            crosspaint.CrosspaintConfig(
                corpus=self.out / "human" / "corpus",
                tracks=self.out / "human" / "tracks",
                out=self._painted,
                paint=PaintSettings(robot=self.out / "robot", robot_tracks=self._demos / "robot-tracks"),
            ),
            quiet=True,
        )

    def _robot_files(self) -> Path:
        """The track files of the demonstrations of all known and `demos` of the novel tasks, in a folder of their own."""
        folder, files = self._demos / "robot-files", self.out / "robot-tracks"
        chosen = [*sorted((files / "known").glob("*.npz"))]
        if self.demos:
            chosen += [files / "novel" / f"episode_{index:06d}.npz" for index in self._demonstrations()]
        for path in chosen:
            place = folder / path.relative_to(files)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.hardlink_to(path)
        return folder

    def _demonstrations(self) -> Sequence[int]:
        """Numbers of the episodes of novel tasks that a cell is shown."""
        from corpora.episodes.opening import open_episodes

        episodes = open_episodes(self.out / "novel", EpisodeSelection(demos=self.demos))
        return [episode.index for episode in episodes.episodes]


@dataclass(frozen=True)
class MultiplyOrder(Order):
    """The demonstrations of the novel tasks in other scenes, with their own actions."""

    out: Path
    """Of the replicate."""
    data: TierData
    demos: int
    """Of each task, which are multiplied."""

    @property
    def folder(self) -> Path:
        return self.out / f"demos{self.demos}" / "multiplied"

    def make(self, how: LabelConfig) -> None:
        import torch._dynamo  # noqa: F401 - before the simulator's GL, see Maker._simulate

        from jobs.commands import multiply

        multiply.run(
            multiply.MultiplyConfig(
                demos=self.out / "novel",
                into=max(MULTIPLIED, self.demos),
                out=self.folder,
                take=self.demos,
                seed=self.data.seed,
            )
        )


class TransferTiers(Maker):
    """The tiers of one replicate."""

    design: ClassVar = "transfer"
    mixtures: ClassVar = (
        "robot(demos)",
        *(f"{name}(demos, clips)" for name in ("tracked", "true_actions", "latent", "labelled_latent", "unlabelled")),
        "multiplied(demos)",
    )
    places: ClassVar = {"robot": ("known", "novel"), "human": ("human/video",)}

    def __init__(
        self, out: Path, known: tuple[str, ...], novel: tuple[str, ...], data: TierData, replicate: int
    ) -> None:
        seeded = dataclasses.replace(data, seed=data.seed + 1000 * (replicate + 1))
        super().__init__(out / "replicates" / f"seed{replicate}", novel, seeded)
        self.known, self.start_seed = known, seeded.seed

    def robot(self, demos: int) -> MixtureSpec:
        """All demonstrations of the known tasks, and `demos` of each novel one."""
        known = DatasetSpec("known", "robot", EpisodesAt(self.out / "known"), weight=KNOWN, embodiment=EMBODIMENT)
        if not demos:
            return MixtureSpec((known,))
        chosen = EpisodesAt(self.out / "novel", EpisodeSelection(demos=demos))
        novel = DatasetSpec("demonstrations", "robot", chosen, weight=NOVEL, embodiment=EMBODIMENT)
        return MixtureSpec((known, novel))

    def multiplied(self, demos: int) -> MixtureSpec:
        """The novel tasks' demonstrations in other scenes; nothing where there are none."""
        if not demos:
            return MixtureSpec(())
        order = MultiplyOrder(self.out, self.data, demos)
        self.orders.append(order)
        return MixtureSpec((DatasetSpec("multiplied", "synthetic", EpisodesAt(order.folder), embodiment=EMBODIMENT),))

    def tracked(self, demos: int, clips: Clips = "painted") -> MixtureSpec:
        """Clips with the robot's actions for how the hand moves."""
        return self._ordered(demos, clips, "track")

    def true_actions(self, demos: int, clips: Clips = "painted") -> MixtureSpec:
        """Clips with the actions that were truly done, which simulation alone knows."""
        return self._ordered(demos, clips, "true")

    def latent(self, demos: int, clips: Clips = "painted") -> MixtureSpec:
        """Clips with the latents of a latent action model that is trained on them and on the robot's video of known tasks."""
        return self._ordered(demos, clips, "latents")

    def labelled_latent(self, demos: int, clips: Clips = "painted") -> MixtureSpec:
        """The same, of a model that is also told how the robot's hand moves."""
        return self._ordered(demos, clips, "labelled-latents")

    def unlabelled(self, demos: int, clips: Clips = "painted") -> MixtureSpec:
        """Clips for FLARE."""
        return self._ordered(demos, clips, "none")

    def _ordered(self, demos: int, clips: Clips, word: Word) -> MixtureSpec:
        order = TransferOrder(self.out, self.data, demos, clips, word)
        order = order if order.paints else dataclasses.replace(order, demos=0)
        self.orders.append(order)
        self.wanted |= {"body" if clips == "body" else "human"}
        labels: dict[Word, tuple[Label, str]] = {
            "track": (TrackActions(order.folder), EMBODIMENT),
            "true": (TrueActions(order.folder), EMBODIMENT),
            "latents": (Latents(order.folder), LATENT),
            "labelled-latents": (Latents(order.folder), LATENT),
            "none": (Unlabelled(), LATENT),
        }
        label, embodiment = labels[word]
        at = ClipsAt(order.corpus)
        return MixtureSpec((DatasetSpec(f"{clips}-{word}", "human", at, label, embodiment=embodiment),))

    def copies(self, budget: Budget) -> dict[str, Any]:
        from jobs.ablation.copying import copies

        return copies(self.out, self.out / "novel", self.tasks, budget, self.data.size, self.start_seed)

    def make(self) -> None:
        """With the tracks of the robot's episodes and of all clips."""
        episode = EpisodeSettings(seed=self.data.seed, noise=self.data.robot_noise)
        robot_tracks = self.out / "robot-tracks"
        self._simulate("known", self.data.known_episodes, episode, tasks=self.known, tracks=robot_tracks)
        self._simulate("novel", self.data.robot_episodes, episode, tracks=robot_tracks)
        if none := [task for task, count in self.succeeded("known", self.known).items() if not count]:
            log.warning(
                "%s: no episode of the known %s succeeded: nothing is learned of it", self.out.name, ", ".join(none)
            )
        if "human" in self.wanted:
            self._make_tracked("human", episode, self.data.human_clips, "hand")
            self._ingest("robot", self.out / "known", self.out / "novel")
        if "body" in self.wanted:
            self._make_tracked("body", episode, (self.data.human_clips + 1) // 2, "robot_elsewhere")

    def _make_tracked(self, name: str, episode: EpisodeSettings, clips: int, appearance: str) -> None:
        """As `_make_clips`, with the tracks of the corpus."""
        folder = self.out / name
        self._make_clips(name, episode, clips, appearance=appearance, tracks=folder / "tracks-of-video")
        _track(folder / "corpus", folder / "tracks-of-video", folder / "tracks")


def _track(corpus: Path, files: Path, out: Path) -> None:
    from jobs.commands import track

    settings = TrackSettings(source="files", files=files)
    track.run(track.TrackConfig(corpus=corpus, out=out, settings=settings), quiet=True)
