"""The data of one replicate of a transfer ablation: known tasks with many demonstrations, novel tasks with few, people's video
of the novel tasks, as it is and with the robot painted over the person.

Each replicate is simulated anew: other demonstrations, people, rooms, clips and starts, and a latent action model of its own.

    OUT/known, novel       LeRobot datasets, with robot-tracks/{known,novel}/episode_000000.npz
        robot              corpus of both, from which the robot is cut out
        human/corpus       people's clips of the novel tasks
        body/corpus        the robot itself in people's rooms, without actions: a positive control
        demosN/            what N demonstrations of each novel task make of it: cut-outs, painted clips, labels, latents
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from corpora.agent.painting import PaintSettings
from corpora.agent.source import TrackSettings
from corpora.episodes.episode import EpisodeSelection
from corpora.mixture.label_kinds import LATENT, Label, Latents, TrackActions, Unlabelled
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import ClipsAt, DatasetSpec, EpisodesAt
from corpora.simulation.episode import EpisodeSettings
from jobs.ablation.settings import Budget, TierData
from jobs.ablation.tiers import EMBODIMENT, Tiers, TrueActions

Clips = Literal["painted", "as-is", "body"]
"""People's with the robot over them, people's as they are, or the robot's own."""
KNOWN, NOVEL = 22.0, 10.0
"""Weights of the demonstrations of known and of novel tasks, together half of a batch beside people's video."""


class TransferTiers(Tiers):
    """The tiers of one replicate. Asking for a mixture notes what it needs; `make` then makes it."""

    def __init__(
        self, out: Path, known: tuple[str, ...], novel: tuple[str, ...], data: TierData, replicate: int, most_demos: int
    ) -> None:
        seeded = dataclasses.replace(data, seed=data.seed + 1000 * (replicate + 1))
        super().__init__(out / "replicates" / f"seed{replicate}", novel, seeded)
        self.known, self._most_demos = known, most_demos
        self.start_seed = self.data.seed
        self.needed: set[tuple[int, Clips, str]] = set()
        """(demonstrations, clips, label: track, true, latent or none)."""

    def robot(self, demos: int) -> MixtureSpec:
        """All demonstrations of the known tasks, and `demos` of each novel one."""
        self.wanted.add("robot")
        known = DatasetSpec("known", "robot", EpisodesAt(self.out / "known"), weight=KNOWN, embodiment=EMBODIMENT)
        if not demos:
            return MixtureSpec((known,))
        chosen = EpisodesAt(self.out / "novel", EpisodeSelection(demos=demos))
        novel = DatasetSpec("demonstrations", "robot", chosen, weight=NOVEL, embodiment=EMBODIMENT)
        return MixtureSpec((known, novel))

    def tracked(self, demos: int, clips: Clips = "painted") -> MixtureSpec:
        """Clips with the robot's actions for how the hand moves."""
        return self._labelled(demos, clips, "track", TrackActions(self._folder(demos, clips) / "track"), EMBODIMENT)

    def true_actions(self, demos: int, clips: Clips = "painted") -> MixtureSpec:
        """Clips with the actions that were truly done, which simulation alone knows."""
        return self._labelled(demos, clips, "true", TrueActions(self._folder(demos, clips) / "true"), EMBODIMENT)

    def latent(self, demos: int, clips: Clips = "painted") -> MixtureSpec:
        """Clips with the latents of a latent action model that is trained on them."""
        return self._labelled(demos, clips, "latent", Latents(self._folder(demos, clips) / "latents"), LATENT)

    def unlabelled(self, demos: int, clips: Clips = "painted") -> MixtureSpec:
        """Clips for FLARE."""
        return self._labelled(demos, clips, "none", Unlabelled(), LATENT)

    def _labelled(self, demos: int, clips: Clips, word: str, label: Label, embodiment: str) -> MixtureSpec:
        self.needed.add((demos, clips, word))
        at = ClipsAt(self._corpus(demos, clips))
        return MixtureSpec((DatasetSpec(f"{clips}-{word}", "human", at, label, embodiment=embodiment),))

    def _folder(self, demos: int, clips: Clips) -> Path:
        return self.out / f"demos{demos}" / clips

    def _corpus(self, demos: int, clips: Clips) -> Path:
        return self._folder(demos, clips) / "corpus" if clips == "painted" else self._videos(clips) / "corpus"

    def _videos(self, clips: Clips) -> Path:
        return self.out / ("body" if clips == "body" else "human")

    PLACES: ClassVar = {"robot": ("known", "novel"), "human": ("human/video",)}

    def copies(self, budget: Budget) -> dict[str, Any]:
        from jobs.ablation.copying import copies

        return copies(self.out, self.out / "novel", self.tasks, budget, self.data.size, self.start_seed)

    def make(self) -> None:
        """Simulates, paints, labels, trains the latent action model: what is needed and not done yet."""
        import torch._dynamo  # noqa: F401 - as `Tiers.make`

        episode = EpisodeSettings(seed=self.data.seed, noise=self.data.robot_noise)
        robot_tracks = self.out / "robot-tracks"
        self._simulate("known", self.data.known_episodes, episode, tasks=self.known, tracks=robot_tracks)
        novel = 2 * self._most_demos + 4  # some fail, and some are held out
        self._simulate("novel", novel, episode, tracks=robot_tracks)
        kinds = {clips for _, clips, _ in self.needed}
        if kinds & {"painted", "as-is"}:
            self._make_tracked("human", episode, self.data.human_clips, "hand")
            self._ingest("robot", self.out / "known", self.out / "novel")
        if "body" in kinds:
            self._make_tracked("body", episode, (self.data.human_clips + 1) // 2, "robot_elsewhere")
        for demos in sorted({demos for demos, _, _ in self.needed}):
            if kinds & {"painted", "as-is"}:
                self._paint(demos)
            for clips, word in sorted({(clips, word) for count, clips, word in self.needed if count == demos}):
                self._label(demos, clips, word)

    def _make_tracked(self, name: str, episode: EpisodeSettings, clips: int, appearance: str) -> None:
        """As `_make_clips`, with the tracks of the corpus."""
        folder = self.out / name
        self._make_clips(name, episode, clips, appearance=appearance, tracks=folder / "tracks-of-video")
        self._track(folder / "corpus", folder / "tracks-of-video", folder / "tracks")

    def _track(self, corpus: Path, files: Path, out: Path) -> None:
        from jobs.commands import track

        settings = TrackSettings(source="files", files=files)
        track.run(track.TrackConfig(corpus=corpus, out=out, settings=settings), quiet=True)

    def _paint(self, demos: int) -> None:
        """The robot over the people: cut out of the demonstrations that this cell has, and of no others."""
        from jobs.commands import crosspaint

        folder = self.out / f"demos{demos}"
        self._track(self.out / "robot", self._tracks_of(demos), folder / "robot-tracks")
        crosspaint.run(
            crosspaint.CrosspaintConfig(
                corpus=self.out / "human" / "corpus",
                tracks=self.out / "human" / "tracks",
                out=self._corpus(demos, "painted"),
                paint=PaintSettings(robot=self.out / "robot", robot_tracks=folder / "robot-tracks"),
            ),
            quiet=True,
        )

    def _tracks_of(self, demos: int) -> Path:
        """The track files of the demonstrations of all known and `demos` of the novel tasks, in a folder of their own."""
        folder, files = self.out / f"demos{demos}" / "robot-files", self.out / "robot-tracks"
        chosen = [*sorted((files / "known").glob("*.npz"))]
        if demos:
            chosen += [files / "novel" / f"episode_{index:06d}.npz" for index in self._demonstrations(demos)]
        for path in chosen:
            place = folder / path.relative_to(files)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.hardlink_to(path)
        return folder

    def _demonstrations(self, demos: int) -> Sequence[int]:
        """Numbers of the episodes of novel tasks that a cell is shown."""
        from corpora.episodes.opening import open_episodes

        episodes = open_episodes(self.out / "novel", EpisodeSelection(demos=demos))
        return [episode.index for episode in episodes.episodes]

    def _label(self, demos: int, clips: Clips, word: str) -> None:
        folder, corpus = self._folder(demos, clips), self._corpus(demos, clips)
        if word == "latent":
            self._make_latents(corpus, folder)
        if word not in ("track", "true"):
            return
        from jobs.ablation.ceiling import write_true_actions
        from jobs.commands import label

        body = self.out / "body" / "tracks"
        config = label.LabelConfig(
            robot=self.out / "known",
            embodiment=EMBODIMENT,
            corpus=corpus,
            out=folder / word,
            image_size=self.data.size,
            cache=self.out / "cache",
        )
        if word == "true":
            write_true_actions(config, self._videos(clips) / "truth.parquet")
            return
        tracks = body if clips == "body" else self._corpus(demos, "painted") / "tracks"
        label.run(dataclasses.replace(config, tracks=tracks, robot_tracks=self.out / "robot-tracks"), quiet=True)
