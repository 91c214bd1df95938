"""What can be played: clips of a corpus, with the latents of each pair, and episodes of a robot dataset, with a policy's
predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus, StoredClip
from corpora.episodes.episode import Episode
from corpora.episodes.opening import open_episodes
from corpora.episodes.selection import ALL_EPISODES, EpisodeSelection
from lapa.latents import Latents

Kind = Literal["line", "heat", "code"]


@dataclass(frozen=True)
class Head:
    """One line of the list."""

    name: str
    group: str
    text: str
    seconds: float


@dataclass(frozen=True)
class Track:
    """Numbers over time."""

    title: str
    kind: Kind
    """line: a curve a dimension; heat: a row of colours a dimension; code: a number and its colour."""
    names: tuple[str, ...]
    """[D]."""
    t_s: NDArray[np.float64]
    """[T], seconds of the video, as it is played."""
    values: NDArray[Any]
    """[T, D]; NaN where nothing is known."""
    beneath: Track | None = None
    """The same dimensions as they were, to be drawn paler."""

    def to_json(self) -> dict[str, Any]:
        """NaN as null."""
        values = [[None if value != value else round(float(value), 5) for value in row] for row in self.values.tolist()]
        times = [round(float(t), 4) for t in self.t_s]
        beneath = None if self.beneath is None else self.beneath.to_json()
        told = {"title": self.title, "kind": self.kind, "names": list(self.names), "t_s": times, "values": values}
        return told | {"beneath": beneath}


@dataclass(frozen=True)
class Film:
    """A video of an item: the stretch [from_s, from_s + the item's seconds] of a file, or of bytes in memory."""

    camera: str
    source: Path | bytes
    from_s: float = 0.0
    aspect: float = 0.0
    """Width over height, where that is not the stored picture's."""


class Viewed(ABC):
    """A folder that can be played."""

    heads: Sequence[Head]

    @abstractmethod
    def tracks(self, number: int) -> list[Track]:
        """Of item `number`."""

    @abstractmethod
    def films(self, number: int) -> list[Film]:
        """Of item `number`, one a camera."""


class ViewedClips(Viewed):
    """Clips of a corpus in the order of its shards; `latents`: of that corpus. Raises ValueError where they are of another."""

    def __init__(self, corpus: Corpus, latents: Latents | None) -> None:
        corpus.expect_clips()
        if latents is not None:
            latents.check_of(corpus)
        self._corpus, self._latents = corpus, latents
        self._rows = sorted(corpus.clips, key=lambda row: (row.shard, row.index_in_shard))
        self.heads = [Head(row.clip_id, row.source, row.text, row.end_s - row.start_s) for row in self._rows]

    def films(self, number: int) -> list[Film]:
        row, stretched = self._rows[number], self._corpus.fit == "stretch"
        return [Film("video", self._stored(number).members["mp4"], aspect=row.width / row.height if stretched else 0.0)]

    def tracks(self, number: int) -> list[Track]:
        clip = self._stored(number)
        start_s = float(clip.t_s[0])
        found = []
        if (truth := clip.truth) is not None:
            for feature, values in truth.items():
                if feature != "t_s":
                    names = tuple(f"{feature.rpartition('.')[2]} {dim}" for dim in range(values.shape[1]))
                    found.append(Track(feature, "line", names, truth["t_s"] - start_s, values))
        camera = clip.camera
        known = np.where(camera["inlier_ratio"][:, None] > 0, camera["h"][:, [0, 1], [2, 2]], np.nan)
        names = ("camera right", "camera down")
        found.append(Track("motion of the camera", "line", names, clip.t_s[camera["first"]] - start_s, known))
        return [*self._of_latents(clip.row.clip_id, start_s), *found]

    def _of_latents(self, clip_id: str, start_s: float) -> list[Track]:
        if self._latents is None:
            return []
        try:
            sample = self._latents.read([clip_id])
        except ValueError:  # a clip without a pair
            return []
        t_s = sample.t_s - start_s
        dims = tuple(f"latent {dim}" for dim in range(sample.latent.shape[1]))
        found = [Track(f"latent, of pairs {np.median(sample.gap_s):.2g} s apart", "heat", dims, t_s, sample.latent)]
        if sample.codes is not None:
            names = tuple(f"code {place + 1}" for place in range(sample.codes.shape[1]))
            found.insert(0, Track("codes", "code", names, t_s, sample.codes))
        return found

    def _stored(self, number: int) -> StoredClip:
        return next(self._corpus.stored([self._rows[number].clip_id]))


class ViewedEpisodes(Viewed):
    """Episodes of a LeRobot dataset, the failed ones too; `policy`: whose chunks are drawn over the actions. Raises ValueError
    for a dataset whose images lie in its records (RLDS)."""

    def __init__(
        self, folder: Path, selection: EpisodeSelection = ALL_EPISODES, policy: str = "", embodiment: str = ""
    ) -> None:
        self._episodes = open_episodes(folder, selection)
        self._policy, self._embodiment, self._folder = policy, embodiment, folder
        if not any(episode.videos for episode in self._episodes.episodes):
            raise ValueError(
                f"'{folder}': its images lie in its records, not in videos; giza view plays LeRobot datasets"
            )
        self.heads = [
            Head(f"episode {episode.index}", _outcome(episode), episode.instruction, float(episode.t_s[-1]))
            for episode in self._episodes.episodes
        ]

    def films(self, number: int) -> list[Film]:
        videos = self._episodes.episodes[number].videos
        return [Film(camera, span.path, span.from_s) for camera, span in videos.items()]

    def tracks(self, number: int) -> list[Track]:
        found = []
        episode, episodes = self._episodes.episodes[number], self._episodes
        for title, names, values in (
            ("action", episodes.action_names, episode.action),
            ("state", episodes.state_names, episode.state),
        ):
            if values is not None:
                found.append(Track(title, "line", names, episode.t_s, values))
        return [*self._predicted(episode), *found]

    @cached_property
    def _acting(self) -> Any:
        from jobs.evaluation.acting import embodiment_of, load_acting

        policy, _ = load_acting(self._policy)
        return policy, embodiment_of(policy, self._embodiment)

    def _predicted(self, episode: Episode) -> list[Track]:
        """The policy's chunks, each from the picture at its beginning, one after another."""
        if not self._policy:
            return []
        from jobs.evaluation.recorded_chunks import RecordedEpisodes

        policy, robot = self._acting
        selection = EpisodeSelection(str(episode.index), failures=True)
        recorded = RecordedEpisodes(policy, robot, self._folder, selection, every=policy.config.horizon)
        chunks = recorded.predict(policy, robot)
        t_s = (recorded.held.t_s[:, None] + np.arange(recorded.horizon) * recorded.step_s).ravel()
        values = chunks.reshape(-1, chunks.shape[-1])
        inside = t_s <= float(episode.t_s[-1])
        names = tuple(recorded.action_names)
        columns = [self._episodes.action_names.index(name) for name in names if name in self._episodes.action_names]
        was = None
        if episode.action is not None and len(columns) == len(names):
            was = Track("action", "line", names, episode.t_s, episode.action[:, columns])
        return [Track("action, as the policy would; paler: as it was", "line", names, t_s[inside], values[inside], was)]


def _outcome(episode: Episode) -> str:
    return {True: "success", False: "failure", None: ""}[episode.success]


def open_viewed(
    folder: Path, latents: Path | None = None, corpus: Path | None = None, policy: str = "", embodiment: str = ""
) -> Viewed:
    """Of a corpus, latents (with their corpus) or a LeRobot dataset. Raises ValueError for another folder, and for what does not
    go with it."""
    from corpora.clips.corpus import SUMMARY as CORPUS
    from corpora.clips.parts import part_paths

    if (folder / CORPUS).is_file():
        if policy:
            raise ValueError(f"--policy '{policy}' beside a corpus: a policy acts on episodes; give a LeRobot dataset")
        return ViewedClips(Corpus(folder), None if latents is None else Latents(latents))
    if latents is not None:
        raise ValueError(
            f"--latents '{latents}' beside '{folder}', which is no corpus: give the corpus that they are of"
        )
    if (folder / "meta").is_dir():
        return ViewedEpisodes(folder, policy=policy, embodiment=embodiment)
    if part_paths(folder):
        found = Latents(folder)
        named = str(found.summary.get("corpus", ""))
        places = [corpus] if corpus else [Path(named), folder.parent / named]  # it was named from where extract was run
        place = next((each for each in places if (each / CORPUS).is_file()), None)
        if place is None:
            raise ValueError(f"latents '{folder}': their corpus '{corpus or named}' is not there; give --corpus")
        return ViewedClips(Corpus(place), found)
    raise ValueError(f"'{folder}' is no corpus, no latents and no LeRobot dataset: these can be viewed")
