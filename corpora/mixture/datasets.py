"""What a policy learns from, sample by sample: demonstrations of robots, clips with latent actions, clips alone.

    ... o-----o-----o-----o-----o-----o-----o ...     rows of one episode, or frames of one clip
        |     |     |  action chunk   |     |
      history now   +--k=0--k=1--k=2--+   future      all by time in seconds, none beyond the episode

Samples are neither normalised nor padded; pictures come from the shared table of `episode_frames` or `clip_frames`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from corpora.clips.frames import ClipFrames
from corpora.episodes.episode import Episodes
from corpora.mixture.labels import LatentColumn, LatentRows, read_latents, shuffle_over_clips
from corpora.mixture.views import PictureViews
from corpora.store.frames import FrameTable
from corpora.video.nearest import rows_within


@dataclass(frozen=True)
class Sample:
    """One observation and what was done, or seen, after it. V cameras, T moments, S pixels, H steps."""

    pictures: NDArray[np.uint8]
    """[V, T, S, S, 3], oldest first; zeros where the mask is False."""
    picture_mask: NDArray[np.bool_]
    """[V, T]; False where a camera failed, or before the beginning."""
    instruction: str
    """"" where there is none."""
    state: NDArray[np.float32] | None
    """[Ds]."""
    action: NDArray[np.float32] | None
    """[H, Da]; past the end the last action is repeated."""
    action_mask: NDArray[np.bool_]
    """[H]; False past the end, and throughout where there are no actions."""
    future: NDArray[np.uint8] | None
    """[V, S, S, 3]; None where it is not asked for, or lies past the end."""


class Member(Protocol):
    """A set of samples of one tier and one embodiment."""

    name: str
    tier: str
    """robot, synthetic, neural or human."""
    embodiment: str
    """The policy's slot."""
    cameras: tuple[str, ...]
    """[V]."""
    groups: list[str]
    """Episode or source video of each sample: the unit of hold-out."""

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample:
        """Sample `index` of [0, len)."""


class MemberSubset:
    """Some samples of a member, for instance those of the groups that are held out."""

    def __init__(self, member: Member, indices: Iterable[int], *, name: str | None = None) -> None:
        self.member, self.name = member, member.name if name is None else name
        self.tier, self.embodiment, self.cameras = member.tier, member.embodiment, member.cameras
        self.indices = np.asarray(list(indices), np.int64)
        self.groups = [member.groups[index] for index in self.indices.tolist()]

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int) -> Sample:
        """Sample `index` of [0, len)."""
        return self.member.sample(int(self.indices[index]))


class RobotMember:
    """A sample for each row of the chosen episodes that at least one camera saw.

    `frames`: `open_episode_frames` of these episodes. `horizon`, `step_s`: step k of a sample at time t is the action
    nearest to t + k step_s (default: 1 / fps, every row). `future_s`: the future's distance; None: no future.
    `history_s`: moments of the pictures, seconds relative to t. `episode_indices`: as the dataset numbers them; default
    all. `drop_last`: only samples whose whole chunk lies within the episode. Raises ValueError for a setting that makes
    no sense, episodes there are not, a table of other episodes, and where no sample is left.
    """

    def __init__(
        self,
        episodes: Episodes,
        frames: FrameTable,
        *,
        name: str,
        embodiment: str,
        horizon: int,
        tier: str = "robot",
        step_s: float | None = None,
        future_s: float | None = None,
        history_s: Sequence[float] = (0.0,),
        episode_indices: Collection[int] | None = None,
        drop_last: bool = False,
    ) -> None:
        _check_horizon(horizon)
        if step_s is not None and not step_s > 0:
            raise ValueError(f"step_s {step_s}: must be above 0 seconds")
        if len(frames) != len(episodes.t_s) or frames.cameras != episodes.cameras:
            raise ValueError(
                f"the pictures are {len(frames)} rows of {frames.cameras}, the episodes {len(episodes.t_s)} of "
                f"{episodes.cameras}: make them with open_episode_frames of the same episodes"
            )
        self.name, self.tier, self.embodiment = name, tier, embodiment
        self.episodes, self.cameras, self.horizon = episodes, episodes.cameras, horizon
        self.step_s = 1 / episodes.fps if step_s is None else float(step_s)
        self._views = PictureViews(frames, episodes.t_s, history_s, future_s, 1 / episodes.fps)
        self._offsets = np.arange(horizon) * self.step_s
        wanted = set(episodes.indices if episode_indices is None else episode_indices)
        lacking = sorted(wanted - set(episodes.indices))
        if lacking:
            raise ValueError(f"member '{name}': episodes {lacking[:8]} are not among the {len(episodes)} usable ones")
        rows, runs, futures, self.groups = [], [], [], []
        self._bounds: list[tuple[int, int]] = []
        for episode in episodes.episodes:
            if episode.index not in wanted:
                continue
            found = episode.start + np.flatnonzero(frames.valid[episode.start : episode.stop].any(1))
            if drop_last:
                reach = episode.t_s[found - episode.start] + self._offsets[-1]
                found = found[rows_within(episode.t_s, reach, 1 / episodes.fps)[1]]
            rows.append(found)
            futures.append(self._views.futures(found, episode.start, episode.stop))
            runs.append(np.full(len(found), len(self._bounds), np.int32))
            self._bounds.append((episode.start, episode.stop))
            self.groups += [episode.group] * len(found)
        self._rows, self._runs, self._futures = _joined(rows), _joined(runs), _joined(futures)
        if not len(self._rows):
            raise ValueError(f"member '{name}' has no sample: {len(wanted)} episodes, horizon {horizon}, {drop_last=}")

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, index: int) -> Sample:
        """Sample `index` of [0, len)."""
        row, episodes = int(self._rows[index]), self.episodes
        start, stop = self._bounds[self._runs[index]]
        pictures, mask = self._views.around(row, start, stop)
        action, action_mask = self._chunk(row, start, stop)
        state = None if episodes.state is None else episodes.state[row].copy()
        future = self._futures[index]
        return Sample(
            pictures,
            mask,
            episodes.instructions[episodes.instruction[row]],
            state,
            action,
            action_mask,
            None if future < 0 else self._views.table.pictures[future].copy(),
        )

    @property
    def moments(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """[N], rows of the episodes' arrays at which samples begin, and which of them have a future."""
        return self._rows, self._futures >= 0

    def rows(self) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """States [N, Ds] and actions [N, Da] of all samples' moments, for statistics."""
        state, action = self.episodes.state, self.episodes.action
        return None if state is None else state[self._rows], None if action is None else action[self._rows]

    def chunks(
        self, indices: Sequence[int]
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32], NDArray[np.bool_]]:
        """States [M, Ds], actions [M, H, Da] and mask [M, H] of these samples, without pictures. Raises ValueError where
        the dataset has no actions."""
        if self.episodes.action is None:
            raise ValueError(f"member '{self.name}' has no actions")
        rows = self._rows[np.asarray(indices, np.int64)]
        bounds = [self._bounds[self._runs[index]] for index in indices]
        found = [self._chunk(int(row), start, stop) for row, (start, stop) in zip(rows, bounds, strict=True)]
        state = None if self.episodes.state is None else self.episodes.state[rows]
        actions = [action for action, _ in found if action is not None]
        return state, np.stack(actions), np.stack([mask for _, mask in found])

    def _chunk(self, row: int, start: int, stop: int) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_]]:
        """[H, Da] and [H]."""
        episodes = self.episodes
        if episodes.action is None:
            return None, np.zeros(self.horizon, np.bool_)
        t_s = episodes.t_s[start:stop]
        found, near = rows_within(t_s, episodes.t_s[row] + self._offsets, 1 / episodes.fps)
        return episodes.action[start + found], near


class ClipMember:
    """Clips without actions: each frame that has a future, for alignment with it.

    `future_s`: its distance. `stride_s`: frames of a clip begin samples at least this far apart; 0: every frame.
    `groups`: only clips of these sources. `state_dim`: width of a state of zeros; None: no state. Raises ValueError for
    a setting that makes no sense, and where no sample is left.
    """

    def __init__(
        self,
        clips: ClipFrames,
        *,
        name: str,
        embodiment: str,
        horizon: int,
        future_s: float,
        tier: str = "human",
        history_s: Sequence[float] = (0.0,),
        stride_s: float = 0.0,
        groups: Collection[str] | None = None,
        state_dim: int | None = None,
    ) -> None:
        _check_horizon(horizon)
        if not stride_s >= 0:
            raise ValueError(f"stride_s {stride_s}: must be 0 (every frame) or more seconds")
        self.name, self.tier, self.embodiment = name, tier, embodiment
        self.cameras, self.horizon = clips.table.cameras, horizon
        self._clips, self._state_dim = clips, state_dim
        self._views = PictureViews(clips.table, clips.t_s, history_s, future_s)
        rows, runs, futures = [], [], []
        for run in chosen_clips(clips, groups):
            start, stop = int(clips.starts[run]), int(clips.starts[run + 1])
            found = start + _spaced(clips.t_s[start:stop], stride_s)
            found = found[clips.table.valid[found].any(1)]
            future = self._views.futures(found, start, stop)
            rows.append(found[future >= 0])
            futures.append(future[future >= 0])
            runs.append(np.full(len(rows[-1]), run, np.int32))
        self._rows, self._runs, self._futures = _joined(rows), _joined(runs), _joined(futures)
        self.groups = [clips.rows[run].group for run in self._runs.tolist()]
        if not len(self._rows):
            raise ValueError(f"member '{name}' has no sample: no clip shows anything {future_s} s after a frame")

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, index: int) -> Sample:
        """Sample `index` of [0, len)."""
        return self._seen(index, None, np.zeros(self.horizon, np.bool_))

    def _seen(self, index: int, action: NDArray[np.float32] | None, action_mask: NDArray[np.bool_]) -> Sample:
        run, future = int(self._runs[index]), int(self._futures[index])
        pictures, mask = self._views.around(
            int(self._rows[index]), int(self._clips.starts[run]), int(self._clips.starts[run + 1])
        )
        return Sample(
            pictures,
            mask,
            self._clips.rows[run].text,
            None if self._state_dim is None else np.zeros(self._state_dim, np.float32),
            action,
            action_mask,
            None if future < 0 else self._views.table.pictures[future].copy(),
        )


class LabelledClipMember(ClipMember):
    """Clips of which some frames have a label of `found`: a sample for each, its steps those of a chunk.

    Beyond the label's steps, those of the chunk are zero and masked. Without a `future_s`, or past the end, the future is
    None. Raises ValueError where a label has more steps than the chunk, and where there is none.
    """

    def __init__(
        self,
        clips: ClipFrames,
        found: LatentRows,
        *,
        name: str,
        embodiment: str,
        horizon: int,
        tier: str,
        future_s: float | None,
        history_s: Sequence[float],
        state_dim: int | None = None,
    ) -> None:
        _check_horizon(horizon)
        self.name, self.tier, self.embodiment = name, tier, embodiment
        self.cameras, self.horizon = clips.table.cameras, horizon
        self._clips, self._state_dim = clips, state_dim
        self._views = PictureViews(clips.table, clips.t_s, history_s, future_s)
        if found.values.shape[1] > horizon:
            raise ValueError(
                f"member '{name}': labels of {found.values.shape[1]} tokens do not fit a horizon of {horizon} steps; "
                "choose a longer horizon, or a model of fewer"
            )
        self._rows, self._runs, self._labels = found.rows, found.runs, found.values
        if not len(self._rows):
            raise ValueError(f"member '{name}' has no sample: the labels are of none of these clips")
        self._futures = np.full(len(self._rows), -1)
        for run in np.unique(self._runs).tolist():
            of_run = self._runs == run
            self._futures[of_run] = self._views.futures(
                self._rows[of_run], int(clips.starts[run]), int(clips.starts[run + 1])
            )
        self.groups = [clips.rows[run].group for run in self._runs.tolist()]

    def sample(self, index: int) -> Sample:
        """Sample `index` of [0, len)."""
        label = self._labels[index]
        action = np.zeros((self.horizon, label.shape[1]), np.float32)
        action[: len(label)] = label
        return self._seen(index, action, np.arange(self.horizon) < len(label))

    def labels(self) -> NDArray[np.float32]:
        """[N, steps, dim] of all samples, for statistics."""
        return self._labels


class LatentMember(LabelledClipMember):
    """Clips with the latent actions of `giza extract`: a sample for each latent, its tokens the steps of a chunk.

    `latents`: folder of the extraction, of the same corpus. `tokens`: of a latent; None: as the latent action model's
    configuration says. `column`: "latent" (before quantisation) or "quantized". `groups`: only clips of these sources.
    `shuffle_latents_seed`: control, every frame gets a latent of another clip. Raises ValueError where latents and clips
    do not fit each other, and as `LabelledClipMember`.
    """

    def __init__(
        self,
        clips: ClipFrames,
        latents: str | Path,
        *,
        name: str,
        horizon: int,
        embodiment: str = "latent",
        tier: str = "human",
        tokens: int | None = None,
        column: LatentColumn = "latent",
        future_s: float | None = None,
        history_s: Sequence[float] = (0.0,),
        groups: Collection[str] | None = None,
        state_dim: int | None = None,
        shuffle_latents_seed: int | None = None,
    ) -> None:
        found = read_latents(Path(latents), clips, chosen_clips(clips, groups), tokens=tokens, column=column)
        if shuffle_latents_seed is not None and len(found.rows):
            found = shuffle_over_clips(found, shuffle_latents_seed)
        super().__init__(
            clips,
            found,
            name=name,
            embodiment=embodiment,
            horizon=horizon,
            tier=tier,
            future_s=future_s,
            history_s=history_s,
            state_dim=state_dim,
        )

    def latents(self) -> NDArray[np.float32]:
        """[N, tokens, dim] of all samples, for statistics."""
        return self.labels()


def _check_horizon(horizon: int) -> None:
    if horizon < 1:
        raise ValueError(f"horizon {horizon}: a chunk has at least 1 step")


def chosen_clips(clips: ClipFrames, groups: Collection[str] | None) -> list[int]:
    """The clips of these sources (None: all), indices into `clips.rows`."""
    wanted = None if groups is None else set(groups)
    return [index for index, row in enumerate(clips.rows) if wanted is None or row.group in wanted]


def _spaced(t_s: NDArray[np.float64], stride_s: float) -> NDArray[np.int64]:
    """Frames at least `stride_s` apart."""
    kept: list[int] = []
    for index, time in enumerate(t_s.tolist()):
        if not kept or time - t_s[kept[-1]] >= stride_s - 1e-6:
            kept.append(index)
    return np.asarray(kept, np.int64)


def _joined(parts: Sequence[NDArray[np.generic]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
