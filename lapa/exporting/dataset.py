"""A corpus and its latents as a LeRobot v3.0 dataset: an episode a clip, the action of each row the latent of its frame.

Episodes are staged one by one (`corpora.episodes.lerobot_writer`), so that a killed export loses at most the one it was at.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import DAMAGE, Corpus, StoredClip
from corpora.clips.manifest import ClipRow
from corpora.episodes.lerobot_writer import Feature, LeRobotFormat, LeRobotWriter
from corpora.store.files import machine_trouble
from corpora.video.encoding import VideoEncoding
from corpora.video.nearest import nearest_rows
from corpora.video.probe import describe
from lapa.exporting.licences import Licences
from lapa.exporting.plan import Plan, told_left
from lapa.exporting.rows import ClipLatents, Left, Stretch, latents_by_clip
from lapa.exporting.settings import LatentRows
from lapa.foreign.exported import CODES, GAP, TIME
from lapa.latents import Latents

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised when the same settings would give other files."""
CAMERA, STATE, ACTION = "observation.images.clip", "observation.state", "action"
ROBOT = "latent"
"""The dataset's robot_type."""
NO_STATE = 2
"""Numbers of a state that is not known. Not one: lerobot gives features of one number without their axis, and ACT then fails."""
WIDEST = 32
"""Dimensions of an action that pi0, SmolVLA and GR00T N1.5 have room for."""
Progress = Callable[[int, int], None]
"""Called with (clips done, of how many)."""


@dataclasses.dataclass(frozen=True)
class Written:
    """A dataset of latents: its episodes' facts, and the clips that gave none."""

    episodes: list[dict[str, Any]]
    left: dict[str, Left]


def write_latents_dataset(
    corpus: Corpus,
    latents: Latents,
    plan: Plan,
    rows: LatentRows,
    out: Path,
    licences: Licences,
    encoding: VideoEncoding,
    progress: Progress = lambda done, total: None,
) -> Written:
    """Writes what is missing of the dataset at `out`.

    A clip that does not decode gives no episode, is told and counted. Raises ValueError where clips are not of one size, and where
    none decodes.
    """
    clips = {row.clip_id: row for row in corpus.clips}
    sizes = {clips[clip].size for clip in plan.by_clip}
    if len(sizes) > 1:
        raise ValueError(f"clips of {sorted(sizes)} px: one dataset has images of one size; ingest all with one --size")
    writer = LeRobotWriter(out, _format(corpus, plan, rows, sizes.pop(), encoding))
    left: dict[str, Left] = dict(plan.left)
    progress(0, len(plan.by_clip))
    for done, (stored, found) in enumerate(_pairs(corpus, latents, plan, rows), 1):
        first, episodes = plan.by_clip[found.clip_id]
        missing = [number for number in range(len(episodes)) if not writer.is_staged(first + number)]
        try:
            if missing:
                source = _Source.of(stored, found, rows)
                for number in missing:
                    _stage(writer, first + number, source, episodes[number], licences)
        except Left as why:
            left[found.clip_id] = why
        progress(done, len(plan.by_clip))
    # in the order of the plan; those of clips that do not decode are not among them
    staged = [number for number in range(plan.episodes) if writer.is_staged(number)]
    if not staged:
        raise ValueError(f"no clip of {corpus} can be exported: {told_left(left)}")
    writer.finish(staged)
    if left:
        log.warning("%d of %d clips give no episode: %s", len(left), len(corpus.clips), told_left(left))
    if plan.width > WIDEST:
        log.warning("actions of %d dimensions: pi0, SmolVLA and GR00T N1.5 have room for %d", plan.width, WIDEST)
    facts = [{"episode_index": index, **writer.staged_facts(number)} for index, number in enumerate(staged)]
    return Written(facts, left)


def _format(corpus: Corpus, plan: Plan, rows: LatentRows, size: int, encoding: VideoEncoding) -> LeRobotFormat:
    states = corpus.truth_features[rows.state] if rows.state else NO_STATE
    features = {
        STATE: Feature(
            tuple(f"state_{number}" if rows.state else f"none_{number}" for number in range(states)),
            info={"of": rows.state or "nothing: no state is known of this video, and this is always 0"},
        ),
        ACTION: Feature(
            tuple(f"{rows.vector}_{number}" for number in range(plan.width)),
            info={"of": "latent action from this frame to the one latent.gap_s later"},
        ),
        TIME: Feature(("seconds",), "float64", info={"of": "time of this frame in its source video, seconds"}),
        GAP: Feature(("seconds",), "float64", info={"of": "from this frame to the pair's second, seconds"}),
    }
    if plan.codes:
        features[CODES] = Feature(tuple(f"code_{number}" for number in range(plan.codes)), "int64")
    return LeRobotFormat(plan.fps, CAMERA, size, features, ROBOT, encoding)


def _pairs(corpus: Corpus, latents: Latents, plan: Plan, rows: LatentRows) -> Iterator[tuple[StoredClip, ClipLatents]]:
    """The clips that give episodes with their latents, clip after clip; both lie in the order of the shards."""
    waiting: dict[str, ClipLatents] = {}
    of_clips = (found for found in latents_by_clip(latents, rows.vector) if found.clip_id in plan.by_clip)
    for stored in corpus.stored(plan.by_clip):
        while stored.row.clip_id not in waiting:
            found = next(of_clips)
            waiting[found.clip_id] = found
        yield stored, waiting.pop(stored.row.clip_id)


@dataclasses.dataclass(frozen=True)
class _Source:
    """A decoded clip with its latents."""

    row: ClipRow
    latents: ClipLatents
    frames: NDArray[np.uint8]
    """[P, H, W, 3]: of each pair the first."""
    state: NDArray[np.float32]
    """[P, Ds]."""

    @staticmethod
    def of(stored: StoredClip, found: ClipLatents, rows: LatentRows) -> _Source:
        """Raises Left where the clip does not decode, or holds no such state."""
        try:
            t_s = stored.t_s
            step = float(np.median(np.diff(t_s))) if len(t_s) > 1 else 0.0
            places, near = nearest_rows(t_s, found.t_s, 0.25 * step + 1e-3)
            if not near.all():
                raise ValueError("no frame at some of its latents' times: extract them again with giza extract")
            shown, of_pair = np.unique(places, return_inverse=True)
            frames = stored.frames(set(shown.tolist()))[of_pair]
            truth = stored.truth if rows.state else None
        except DAMAGE as error:
            if machine_trouble(error):
                raise
            raise Left("damaged", describe(error)) from error
        state = np.zeros((len(found.t_s), NO_STATE), np.float32) if not rows.state else _state(truth, found, rows.state)
        return _Source(stored.row, found, frames, state)


def _state(truth: dict[str, NDArray[Any]] | None, found: ClipLatents, name: str) -> NDArray[np.float32]:
    if truth is None or name not in truth:
        raise Left("no_state", f"it holds no {name}")
    apart = float(np.median(np.diff(truth["t_s"]))) if len(truth["t_s"]) > 1 else 0.0
    at, near = nearest_rows(truth["t_s"], found.t_s, apart)
    state = np.asarray(truth[name][at], np.float32)
    if not near.all() or not np.isfinite(state).all():
        raise Left("no_state", f"{name} is not known at all of its frames")
    return state


def _stage(writer: LeRobotWriter, number: int, source: _Source, stretch: Stretch, licences: Licences) -> None:
    row, found = source.row, source.latents
    with writer.episode(number, row.text) as record:
        for pair in stretch.chosen.tolist():
            values: dict[str, Any] = {
                STATE: source.state[pair],
                ACTION: found.vector[pair],
                TIME: found.t_s[pair],
                GAP: found.gap_s[pair],
            }
            if found.codes.shape[1]:
                values[CODES] = found.codes[pair]
            record.add(source.frames[pair], values)
        record.facts = {
            "clip_id": row.clip_id,
            "source": row.source,
            "group": row.group,
            "content_hash": row.content_hash,
            "start_s": round(stretch.start_s, 6),
            "rows": len(stretch.chosen),
            "time_off_s": round(stretch.off_s, 6),
            "tier": row.tier,
            "embodiment": row.embodiment,
            "licence": licences.of(row.source),
        }
