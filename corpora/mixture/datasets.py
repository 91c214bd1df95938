"""What a policy learns from, sample by sample: episodes of robots, and clips with labels or without.

    ... o-----o-----o-----o-----o-----o-----o ...     rows of one episode, or frames of one clip
        |     |     |  action chunk   |     |
      history now   +--k=0--k=1--k=2--+   future      all by time in seconds, none beyond the episode

Samples are neither normalised nor padded; images come from the shared table of `episode_frames` or `clip_frames`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from corpora.clips.frames import ClipFrames
from corpora.episodes.episode import PREVIOUS, Episodes
from corpora.mixture.labels import EmbodimentFacts, Labels, numbered
from corpora.mixture.spec import DatasetSpec
from corpora.mixture.views import ImageViews, Window
from corpora.store.frames import FrameTable
from corpora.store.told import listed
from corpora.video.nearest import rows_within


@dataclass(frozen=True)
class Sample:
    """One observation and what was done, or seen, after it. V cameras, T moments, S pixels, H steps."""

    images: NDArray[np.uint8]
    """[V, T, S, S, 3], oldest first; zeros where the mask is False."""
    image_mask: NDArray[np.bool_]
    """[V, T]; False where a camera failed, or before the beginning."""
    instruction: str
    """"" where there is none."""
    state: NDArray[np.float32] | None
    """[Ds], proprioception."""
    action: NDArray[np.float32] | None
    """[H, Da]; past the end the last action is repeated."""
    action_mask: NDArray[np.bool_]
    """[H]; False past the end, and throughout where there are no actions."""
    future: NDArray[np.uint8] | None
    """[V, S, S, 3]; None where it is not asked for, or lies past the end."""
    action_known: NDArray[np.bool_] | None = None
    """[Da]: dimensions of the action that are known, the same in all samples of a dataset; None: all."""
    before: NDArray[np.uint8] | None = None
    """[V, S, S, 3]: what the change to `future` is counted from; None: the newest of `images`. As a control the future is that
    of another clip, and this with it."""


@dataclass(frozen=True)
class Numbers:
    """M samples without their images."""

    states: NDArray[np.float32] | None
    """[M, Ds]."""
    chunks: NDArray[np.float32]
    """[M, H, Da]; of labels that are shorter than a chunk, only their own steps."""
    mask: NDArray[np.bool_]
    """[M, H]."""


@dataclass(frozen=True)
class Frames:
    """N rows of episodes, each once."""

    states: NDArray[np.float32] | None
    """[N, Ds]."""
    actions: NDArray[np.float32]
    """[N, Da]."""
    moved: NDArray[np.float32] | None
    """[N, Ds]: how the state moves until the next row; NaN at an episode's end. None without states."""


class SampleDataset(Protocol):
    """A set of samples of one tier and one embodiment."""

    spec: DatasetSpec
    cameras: tuple[str, ...]
    """[V]."""
    groups: list[str]
    """Episode or source video of each sample: the unit of hold-out."""
    texts: frozenset[str]
    """Instructions of its samples."""
    idle_rows: int
    """Moments that are no samples, because nothing moves yet in them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of [0, len)."""

    def numbers(self, indices: Sequence[int]) -> Numbers:
        """Of these samples. Raises ValueError where there are no actions."""

    def frames(self, indices: Sequence[int]) -> Frames:
        """The rows of the episodes of these samples, for statistics: chunks overlap, and would count most rows many times over.
        Raises ValueError where there are no actions."""

    def embodiment(self) -> EmbodimentFacts | None:
        """Whose actions these are; None: there are none to learn."""

    def at_step(self, step_s: float) -> SampleDataset:
        """The same, the steps of its chunks so far apart. Raises ValueError where its actions do not say what that is."""


class EpisodeSamples:
    """A sample for each row of the chosen episodes that at least one camera saw.

    `frames`: `open_episode_frames` of these episodes. Step k of a sample at time t is the action nearest to t + k
    window.step_s (default: 1 / fps, every row). `chosen`: episodes, as the dataset numbers them; default all. `keep_idle`:
    also the rows in which nothing moves yet. Raises ValueError for episodes there are not, a table of other episodes, and
    where no sample is left.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        episodes: Episodes,
        frames: FrameTable,
        window: Window,
        chosen: Collection[int] | None = None,
        *,
        keep_idle: bool = True,
    ) -> None:
        if len(frames) != len(episodes.t_s) or frames.cameras != episodes.cameras:
            raise ValueError(
                f"the images are {len(frames)} rows of {frames.cameras}, the episodes {len(episodes.t_s)} of "
                f"{episodes.cameras}: make them with open_episode_frames of the same episodes"
            )
        self.spec, self.episodes, self.cameras = spec, episodes, episodes.cameras
        self.step_s = window.step_s or 1 / episodes.fps
        self._views = ImageViews(frames, episodes.t_s, window, 1 / episodes.fps)
        self._offsets = np.arange(window.horizon) * self.step_s
        wanted = set(episodes.indices if chosen is None else chosen)
        if lacking := sorted(wanted - set(episodes.indices)):
            raise ValueError(
                f"dataset '{spec.name}': episodes {listed(lacking)} are not among the {len(episodes)} usable ones"
            )
        rows, runs, futures, self.groups = [], [], [], []
        self._bounds: list[tuple[int, int]] = []
        self.idle_rows = 0
        for episode in episodes.episodes:
            if episode.index not in wanted:
                continue
            found = episode.start + np.flatnonzero(frames.valid[episode.start : episode.stop].any(1))
            if not keep_idle:
                self.idle_rows += episode.idle
                found = found[found >= episode.start + episode.idle]
            rows.append(found)
            futures.append(self._views.futures(found, episode.start, episode.stop))
            runs.append(np.full(len(found), len(self._bounds), np.int32))
            self._bounds.append((episode.start, episode.stop))
            self.groups += [episode.group] * len(found)
        chosen_ones = [episode for episode in episodes.episodes if episode.index in wanted]
        self.texts = frozenset(text for episode in chosen_ones for text in episode.instructions)
        self._rows, self._runs, self._futures = _joined(rows), _joined(runs), _joined(futures)
        if not len(self._rows):
            raise ValueError(f"dataset '{spec.name}' has no sample: none of its {len(wanted)} episodes has an image")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row, episodes = int(self._rows[index]), self.episodes
        start, stop = self._bounds[self._runs[index]]
        images, mask = self._views.around(row, start, stop)
        action, action_mask = self._chunk(row, start, stop)
        return Sample(
            images,
            mask,
            episodes.instructions[episodes.instruction[row]],
            None if episodes.state is None else episodes.state[row].copy(),
            action,
            action_mask,
            self._views.shown(int(self._futures[index])),
        )

    @property
    def rows(self) -> NDArray[np.int64]:
        """[N], rows of the episodes' arrays at which samples begin."""
        return self._rows

    @property
    def has_future(self) -> NDArray[np.bool_]:
        """[N], which samples have one."""
        return self._futures >= 0

    def numbers(self, indices: Sequence[int]) -> Numbers:
        """Of these samples. Raises ValueError where the dataset has no actions."""
        if self.episodes.action is None:
            raise ValueError(self.episodes.no_action)
        rows = self._rows[np.asarray(indices, np.int64)]
        bounds = [self._bounds[self._runs[index]] for index in indices]
        found = [self._chunk(int(row), start, stop) for row, (start, stop) in zip(rows, bounds, strict=True)]
        actions = [action for action, _ in found if action is not None]
        state = None if self.episodes.state is None else self.episodes.state[rows]
        return Numbers(state, np.stack(actions), np.stack([mask for _, mask in found]))

    def frames(self, indices: Sequence[int]) -> Frames:
        """All rows of these samples' episodes. Raises ValueError where the dataset has no actions."""
        episodes = self.episodes
        if episodes.action is None:
            raise ValueError(episodes.no_action)
        runs = np.unique(self._runs[np.asarray(indices, np.int64)])
        rows = np.concatenate([np.arange(*self._bounds[run]) for run in runs.tolist()])
        if episodes.state is None:
            return Frames(None, episodes.action[rows], None)
        return Frames(episodes.state[rows], episodes.action[rows], self.moved(rows))

    def moved(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[N, Ds]: how the state moves from these rows of the episodes' arrays to the next; NaN at an episode's end."""
        state = self.episodes.state
        assert state is not None
        found = np.full((len(rows), state.shape[1]), np.nan, np.float32)
        follows = np.flatnonzero(~np.isin(rows, [stop - 1 for _, stop in self._bounds]))
        found[follows] = state[rows[follows] + 1] - state[rows[follows]]
        return found

    def embodiment(self) -> EmbodimentFacts | None:
        """The robot, in the steps of the chunks."""
        return replace(facts_of(self.episodes), step_s=self.step_s) if self.spec.label.acts else None

    def at_step(self, step_s: float) -> EpisodeSamples:
        """The same, the steps of its chunks so far apart. Raises ValueError where the state holds the action of the row before,
        which is another step's."""
        if any(name.startswith(PREVIOUS) for name in self.episodes.state_names):
            raise ValueError(
                f"its rows are {1 / self.episodes.fps:.4f} s apart and are to be read every {step_s:.4f} s, but its state holds "
                "the action of the row before; leave previous_action out, or give another embodiment"
            )
        found = copy.copy(self)
        found.step_s, found._offsets = step_s, np.arange(len(self._offsets)) * step_s
        return found

    def _chunk(self, row: int, start: int, stop: int) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_]]:
        """[H, Da] and [H]."""
        episodes = self.episodes
        if episodes.action is None:
            return None, np.zeros(len(self._offsets), np.bool_)
        t_s = episodes.t_s[start:stop]
        found, near = rows_within(t_s, episodes.t_s[row] + self._offsets, 1 / episodes.fps)
        return episodes.action[start + found], near


class ClipSamples:
    """Clips: a sample for each label, its steps those of a chunk; without labels one for each frame that has a future.

    `stride_s`: without labels, frames of a clip begin samples at least this far apart; 0: every frame. Beyond a label's
    steps, its last is repeated and masked. Raises ValueError for a stride below 0, where a label has more steps than
    the chunk, and where no sample is left.
    """

    def __init__(
        self, spec: DatasetSpec, clips: ClipFrames, window: Window, labels: Labels | None = None, stride_s: float = 0.0
    ) -> None:
        if not stride_s >= 0:
            raise ValueError(f"stride_s {stride_s}: must be 0 (every frame) or more seconds")
        self.spec, self.cameras, self.horizon = spec, clips.table.cameras, window.horizon
        self._clips, self._labels, self.idle_rows = clips, labels, 0
        self._before: NDArray[np.int64] | None = None
        self.texts = frozenset(row.text for row in clips.rows)
        self._views = ImageViews(clips.table, clips.t_s, window)
        if labels is None:
            self._rows, self._runs, self._futures = self._seen(stride_s)
            if (order := spec.label.order(self._runs, clips)) is not None:
                self._futures, self._before = self._futures[order], self._rows[order]
            lacking = f"no clip shows anything {window.future_s} s after a frame"
        else:
            steps = labels.values.shape[1]
            if steps > window.horizon:
                raise ValueError(
                    f"dataset '{spec.name}': labels of {steps} tokens do not fit a horizon of {window.horizon} steps; "
                    "choose a longer horizon, or a model of fewer"
                )
            self._rows, self._runs = labels.rows, labels.runs
            self._futures = np.full(len(self._rows), -1)
            for run in np.unique(self._runs).tolist():
                self._futures[self._runs == run] = self._views.futures(
                    self._rows[self._runs == run], *self._bounds(run)
                )
            lacking = "the labels are of none of these clips"
        if not len(self._rows):
            raise ValueError(f"dataset '{spec.name}' has no sample: {lacking}")
        self.groups = [clips.rows[run].group for run in self._runs.tolist()]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        run = int(self._runs[index])
        images, mask = self._views.around(int(self._rows[index]), *self._bounds(run))
        action, action_mask, known = None, np.zeros(self.horizon, np.bool_), None
        if self._labels is not None:
            known = self._labels.known
            label = self._labels.values[index]
            action = label[np.minimum(np.arange(self.horizon), len(label) - 1)]
            action_mask[: len(label)] = True
        future = self._views.shown(int(self._futures[index]))
        before = None if self._before is None else self._views.shown(int(self._before[index]))
        return Sample(images, mask, self._clips.rows[run].text, None, action, action_mask, future, known, before)

    def numbers(self, indices: Sequence[int]) -> Numbers:
        """The labels of these samples. Raises ValueError where there are none."""
        chunks = self._chunks(indices)
        return Numbers(None, chunks, np.ones(chunks.shape[:2], np.bool_))

    def frames(self, indices: Sequence[int]) -> Frames:
        """Each step of each of these labels. Raises ValueError where there are none."""
        chunks = self._chunks(indices)
        return Frames(None, chunks.reshape(-1, chunks.shape[2]), None)

    def embodiment(self) -> EmbodimentFacts | None:
        """As the labels say; None without them."""
        if self._labels is None:
            return None
        facts = self._labels.facts
        names, cameras = facts.action_names or numbered("action", self._labels.values.shape[2]), facts.cameras
        cameras, view = cameras[: len(self.cameras)], self._clips.view
        views = {} if view is None else dict.fromkeys(cameras, view)
        return replace(facts, cameras=cameras, action_names=names, squared_by=self._clips.squared_by, views=views)

    def at_step(self, step_s: float) -> ClipSamples:
        """Labels have the steps that they were made with: raises ValueError."""
        raise ValueError(f"its labels are not {step_s:.4f} s apart: make them again for a robot of that rate")

    def _chunks(self, indices: Sequence[int]) -> NDArray[np.float32]:
        if self._labels is None:
            raise ValueError(f"dataset '{self.spec.name}' has no actions")
        return self._labels.values[np.asarray(indices, np.int64)]

    def _bounds(self, run: int) -> tuple[int, int]:
        return int(self._clips.starts[run]), int(self._clips.starts[run + 1])

    def _seen(self, stride_s: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Rows, clips and futures of the frames that have a future."""
        rows, runs, futures = [], [], []
        for run in range(len(self._clips.rows)):
            start, stop = self._bounds(run)
            found = start + _spaced(self._clips.t_s[start:stop], stride_s)
            found = found[self._clips.table.valid[found].any(1)]
            future = self._views.futures(found, start, stop)
            rows.append(found[future >= 0])
            futures.append(future[future >= 0])
            runs.append(np.full(len(rows[-1]), run, np.int32))
        return _joined(rows), _joined(runs), _joined(futures)


def _spaced(t_s: NDArray[np.float64], stride_s: float) -> NDArray[np.int64]:
    """Frames at least `stride_s` apart."""
    kept: list[int] = []
    for index, time in enumerate(t_s.tolist()):
        if not kept or time - t_s[kept[-1]] >= stride_s - 1e-6:
            kept.append(index)
    return np.asarray(kept, np.int64)


def _joined(parts: Sequence[NDArray[np.generic]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def facts_of(episodes: Episodes) -> EmbodimentFacts:
    """The robot, with its names where they are unique, else numbers; its steps are the rows."""
    state_names = _unique("state", episodes.state_names, episodes.state)
    action_names = _unique("action", episodes.action_names, episodes.action)
    names = state_names, action_names
    return EmbodimentFacts(episodes.cameras, 1 / episodes.fps, *names, "stretch", views=episodes.views)


def _unique(kind: str, names: tuple[str, ...], values: NDArray[np.float32] | None) -> tuple[str, ...]:
    """The names, where there is one for each dimension and none is given twice; else numbers."""
    width = 0 if values is None else values.shape[1]
    return tuple(names) if len(set(names)) == len(names) == width else numbered(kind, width)
