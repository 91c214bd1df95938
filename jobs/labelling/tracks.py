"""Labels by tracks: what the robot does when its tool moves as the tool of a track does, fitted on its demonstrations."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from corpora.agent.demonstrated import Demonstrated, Moments
from corpora.agent.motion import SHARES, ActionsOfMotion, courses
from corpora.agent.track import Untracked
from corpora.agent.track_file import TrackFile
from corpora.agent.tracks import Tracks
from corpora.clips.corpus import Corpus
from corpora.mixture.episode_samples import EpisodeSamples
from corpora.mixture.pseudo_actions import BY_TRACKS, ClipLabels, chunks_at
from corpora.store.files import digest_of, write_json
from corpora.store.told import listed
from corpora.text import one_form
from vla.embodiment import Embodiment

log = logging.getLogger(__name__)

FILE = "actions_of_motion.json"
FORMAT = 4
"""Raised when the same tracks would give other labels; 1 knew the whole motion of a chunk alone, not its course, 2 labelled motions
that are too small to tell, and 3 had no label for them."""
DONE = "action"
"""Feature of a simulated corpus: what was truly done."""


def dims_told(names: Sequence[str], words: Sequence[str]) -> NDArray[np.bool_]:
    """[Da]: dimensions of the action that a motion tells, those that none of `words` is in the name of. Raises ValueError for
    a word that is in no name, and where none is left."""
    if lacking := [word for word in words if not any(word in name for name in names)]:
        raise ValueError(
            f"--unknown {' '.join(lacking)}: in none of the names of the action ({', '.join(names)}); name the dimensions that "
            "a motion does not tell (grippers, hands), or give --unknown alone where it tells all"
        )
    told = np.array([not any(word in name for word in words) for name in names], np.bool_)
    if not told.any():
        raise ValueError(f"--unknown {' '.join(words)}: leaves no dimension of the action ({', '.join(names)})")
    return told


def motions_of_robot(
    samples: EpisodeSamples, folder: Path, gap_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[N, 3] and [N, C]: where the tool is at each sample and how it moves from there on (`courses`), by the track files of the
    episodes; NaN where it is not known. An episode without a file is named. Raises ValueError where nothing is known."""
    episodes = samples.episodes
    found = np.full((len(episodes.t_s), 3 * len(SHARES)), np.nan)
    places = np.full((len(episodes.t_s), 3), np.nan)
    lacking: list[str] = []
    for episode in episodes.episodes:
        try:
            file = TrackFile.read(folder / f"{episode.group}.npz")
        except Untracked as fault:
            lacking.append(str(fault))
            continue
        places[episode.start : episode.stop] = file.positions(episode.t_s)
        found[episode.start : episode.stop] = courses(episode.t_s, places[episode.start : episode.stop], gap_s)
    known = np.asarray(found[samples.rows], np.float64)
    if not np.isfinite(known).all(1).any():
        raise ValueError(
            f"--robot-tracks '{folder}': nothing in it tells how the tool of '{episodes.root}' moves within {gap_s:.2f} s "
            f"({listed(lacking, 2) or 'no position_m'}); it should hold {episodes.episodes[0].group}.npz and so on, with "
            "position_m, as giza simulate --tracks writes them"
        )
    if lacking:
        log.warning("robot '%s': %d episodes have no track: %s", episodes.root, len(lacking), listed(lacking, 3))
    return np.asarray(places[samples.rows], np.float64), known


def moments_of(
    samples: EpisodeSamples,
    rows: NDArray[np.int64],
    position_m: NDArray[np.float64],
    course_m: NDArray[np.float64],
) -> dict[str, Moments]:
    """Text of a task -> what the robot did in it, of those samples whose tool is known; failed episodes show nothing."""
    failed = {episode.group for episode in samples.episodes.episodes if episode.success is False}
    shows = np.array([samples.groups[row] not in failed for row in rows.tolist()], np.bool_)
    rows = rows[shows & np.isfinite(course_m[rows]).all(1)]
    named = samples.episodes.instructions
    texts = np.array([one_form(named[k]) for k in samples.episodes.instruction[samples.rows[rows]].tolist()])
    groups = np.array([samples.groups[row] for row in rows.tolist()])
    chunks = samples.numbers(rows.tolist()).chunks.astype(np.float32)
    every = Moments(position_m[rows], course_m[rows], chunks, np.unique(groups, return_inverse=True)[1])
    return {text: every.take(texts == text) for text in dict.fromkeys(texts.tolist())}


@dataclass(frozen=True)
class TrackLabeller:
    """Labels the clips of a corpus by their tracks."""

    kind: ClassVar[str] = BY_TRACKS

    facts: Embodiment
    model: ActionsOfMotion
    told: NDArray[np.bool_]
    """[Da]: dimensions that a motion tells; in the others stands the robot's mean."""
    shown: Demonstrated
    """What the robot did where a motion tells too little."""
    tracks: Tracks
    texts: dict[str, str]
    """Clip -> its task."""
    times: dict[str, NDArray[np.float64]]

    @classmethod
    def fitted(
        cls,
        facts: Embodiment,
        robot: tuple[EpisodeSamples, NDArray[np.int64], NDArray[np.int64]],
        robot_tracks: Path,
        unknown: Sequence[str],
        corpus: Corpus,
        tracks: Tracks,
        near: EpisodeSamples | None = None,
    ) -> tuple[TrackLabeller, dict[str, Any]]:
        """Of the robot's samples, those to fit on and those held out; and what was measured of it. A motion lasts as long as
        a chunk. `near`: further demonstrations, with track files beside the robot's. Raises ValueError where the robot's tool is
        not known or does not move, and as `dims_told`."""
        samples, train, held = robot
        told = dims_told(facts.action_space.action_names, unknown)
        horizon = samples.numbers(train[:1].tolist()).chunks.shape[1]
        gap_s = horizon * facts.step_s
        places, motion = motions_of_robot(samples, robot_tracks, gap_s)
        known = np.asarray(np.isfinite(motion).all(1))
        train, held = train[known[train]], held[known[held]]
        if not len(train):
            raise ValueError(f"--robot-tracks '{robot_tracks}': knows no position in the episodes to fit on")
        chunks = samples.numbers(train.tolist()).chunks
        model = ActionsOfMotion.fit(motion[train], chunks, gap_s=gap_s, told=told)
        more = (
            {} if near is None else moments_of(near, np.arange(len(near)), *motions_of_robot(near, robot_tracks, gap_s))
        )
        shown = Demonstrated.fit(moments_of(samples, train, places, motion), more, model.least_m, told)
        texts = {row.clip_id: one_form(row.text) for row in corpus.clips}
        labeller = cls(facts, model, told, shown, tracks, texts, corpus.times())
        fitted = {"pairs": len(train), "least_motion_m": model.least_m, "shown_within_m": shown.within_m}
        measured: dict[str, Any] = {"training": fitted, "held_out": {}, "truth": labeller.r2(corpus)}
        measured["frames_without"] = labeller.without()
        measured["frames_shown"] = sum(
            int(labeller._told(name, labeller._motion(name))[1].sum()) for name in labeller.times
        )
        if len(held):
            groups = {samples.groups[index] for index in held.tolist()}
            true = samples.numbers(held.tolist()).chunks
            measured["held_out"] = {"episodes": len(groups), **labeller.against(labeller.predict(motion[held]), true)}
        return labeller, measured

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, {"format": FORMAT, **self._values})

    @property
    def _values(self) -> dict[str, Any]:
        shown = {"within_m": self.shown.within_m, "moments": {text: m.digest for text, m in self.shown.moments.items()}}
        return {
            "robot": self.facts.to_json(),
            "model": self.model.to_json(),
            "told": self.told.tolist(),
            "shown": shown,
        }

    @property
    def identity(self) -> str:
        return digest_of(json.dumps(self._values), self.tracks.identity)[:16]

    @property
    def unknown(self) -> list[str]:
        """Names of the dimensions that a motion does not tell."""
        names = self.facts.action_space.action_names
        return [name for name, told in zip(names, self.told, strict=True) if not told]

    def predict(self, motion_m: NDArray[np.float64]) -> NDArray[np.float32]:
        """[M, C] -> [M, H, Da]."""
        found = self.model(motion_m)
        found[..., ~self.told] = self.model.mean_chunk[:, ~self.told]
        return found

    def chunks(self, clip_id: str) -> ClipLabels | None:
        """Of the frames in which the tool is seen and seen again a gap later, where it moved enough, or where a demonstration shows
        what is done there; None where there is none."""
        motion = self._motion(clip_id)
        tells, shown, chunks = self._told(clip_id, motion)
        if not (tells | shown).any():
            return None
        found = np.zeros((len(motion), *self.model.mean_chunk.shape), np.float32)
        found[tells] = self.predict(motion[tells])
        if shown.any():
            found[shown] = chunks
        frames = np.flatnonzero(tells | shown)
        return ClipLabels(clip_id, self.times[clip_id][frames], found[frames])

    def _told(
        self, clip_id: str, motion: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float32]]:
        """bool [T] where the motion tells the action, bool [T] where a demonstration does, and the latter's chunks."""
        tells = self.model.tells(motion)
        if clip_id not in self.tracks:
            return tells, np.zeros_like(tells), np.zeros((0, 0, 0), np.float32)
        slow = np.where(tells[:, None], np.nan, motion)
        return tells, *self.shown.at(self.texts[clip_id], self._positions(clip_id), slow)

    def without(self) -> dict[str, int]:
        """Why frames have no label -> how many."""
        counts: Counter[str] = Counter()
        for clip_id, t_s in self.times.items():
            if clip_id not in self.tracks:
                counts["clip without a track"] += len(t_s)
                continue
            there = np.isfinite(self._positions(clip_id)).all(1)
            counts["no position"] += int((~there).sum())
            motion = self._motion(clip_id)
            known = np.isfinite(motion).all(1)
            counts["none a gap later"] += int((there & ~known).sum())
            tells, shown, _ = self._told(clip_id, motion)
            counts["moves too little to tell"] += int((known & ~tells & ~shown).sum())
        return {reason: count for reason, count in counts.items() if count}

    def _positions(self, clip_id: str) -> NDArray[np.float32]:
        track = self.tracks[clip_id]
        return np.where(track.seen[:, None], track.position_m, np.float32(np.nan))

    def _motion(self, clip_id: str) -> NDArray[np.float64]:
        if clip_id not in self.tracks:
            return np.full((len(self.times[clip_id]), 3 * len(SHARES)), np.nan)
        return courses(self.times[clip_id], self._positions(clip_id), self.model.gap_s)

    def r2(self, corpus: Corpus) -> dict[str, Any]:
        """Of the labels of a simulated corpus to what was truly done; empty where the corpus does not know that."""
        if corpus.truth_features.get(DONE) != len(self.told):
            return {}
        found: list[NDArray[np.float32]] = []
        true: list[NDArray[np.float32]] = []
        horizon = len(self.model.mean_chunk)
        for clip_id, truth in corpus.truth(self.times).items():
            labels = self.chunks(clip_id)
            if labels is None:
                continue
            t_s, done = chunks_at(labels.t_s, truth["t_s"], truth[DONE], horizon, self.facts.step_s)
            whole = np.isfinite(done).all((1, 2))
            found.append(labels.action[np.isin(labels.t_s, t_s)][whole])
            true.append(done[whole])
        if not sum(map(len, true)):
            return {}
        clips = len([each for each in true if len(each)])
        return {"clips": clips, **self.against(np.concatenate(found), np.concatenate(true))}

    def against(self, found: NDArray[np.floating], true: NDArray[np.floating]) -> dict[str, Any]:
        """R2 of chunks [N, H, Da] and of what knows no motion, step by step and of a chunk's mean action."""
        still = self.predict(np.zeros((1, 3 * len(SHARES))))
        guesses = {"track": found, "mean": self.model.mean_chunk[None], "no_motion": still}
        return {
            "chunks": len(true),
            "r2": {name: r2(guess[..., self.told], true[..., self.told]) for name, guess in guesses.items()},
            "r2_of_chunk_mean": {
                name: r2(guess[..., self.told].mean(1), true[..., self.told].mean(1)) for name, guess in guesses.items()
            },
        }


def r2(found: NDArray[np.floating], true: NDArray[np.floating]) -> float | None:
    """Mean over the last axis' dimensions that vary of 1 - squared error / variance; None where none varies."""
    axes = tuple(range(true.ndim - 1))
    spread = np.square(true - true.mean(axes)).sum(axes, dtype=np.float64)
    error = np.square(true - found).sum(axes, dtype=np.float64)
    varies = spread > 0
    return float((1 - error[varies] / spread[varies]).mean()) if varies.any() else None
