"""Episodes of a robot as samples of a policy: opened, held out, and one for each row.

Images come from the shared table of `episode_frames`.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.contents import contents_fingerprint
from corpora.episodes.episode import PREVIOUS, Episodes
from corpora.episodes.frames import open_episode_frames
from corpora.episodes.opening import dataset_fingerprint, is_dataset, open_episodes
from corpora.episodes.selection import ALL_DEMONSTRATIONS, EpisodeSelection, spans
from corpora.held_out import hold_out_episodes
from corpora.mixture.label_type import Count, Label, PolicyLimits, folder_faults
from corpora.mixture.labels import EmbodimentFacts, numbered
from corpora.mixture.spec import Data, DatasetSpec, Frames, Numbers, Opening, Origin, Sample, SampleDataset
from corpora.mixture.views import ImageViews, Window
from corpora.store.frames import FrameTable
from corpora.store.told import listed
from corpora.video.nearest import rows_within

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpisodesAt(Data):
    """Episodes of a robot: a LeRobot dataset, or an RLDS one (the folder of its features.json)."""

    key: ClassVar[str] = "dataset"

    folder: Path
    selection: EpisodeSelection = ALL_DEMONSTRATIONS

    def faults(self) -> list[str]:
        """What is wrong with it, all at once."""
        if is_dataset(self.folder):
            return []
        rlds = " (RLDS: features.json and dataset_info.json)"
        return folder_faults(self.key, self.folder, ("meta/info.json",), rlds)

    def count(self, label: Label, embodiment: str, limits: PolicyLimits) -> Count:
        """What there is of it, failures too, which training sorts out. Raises ValueError where it cannot be read."""
        data = open_episodes(self.folder, dataclasses.replace(self.selection, failures=True, previous_action=False))
        rows = [len(episode.t_s) for episode in data.episodes]
        state_dim = 0 if data.state is None else data.state.shape[1]
        action_dim = 0 if data.action is None else data.action.shape[1]
        idle = 0 if self.selection.keep_idle else sum(episode.idle for episode in data.episodes)
        found = Count(len(rows), sum(rows), sum(rows) / data.fps / 3600, sum(rows) - idle, action_dim=action_dim)
        found.dims = f"state {state_dim}, action {action_dim}"
        if label.acts and not action_dim:
            found.faults.append(f"label 'action', but {data.no_action}")
        for what, width, most in (
            ("state", state_dim, limits.max_state_dim),
            ("action", action_dim, limits.max_action_dim),
        ):
            if width > most:
                found.faults.append(
                    f"{what} of {width} dimensions, the policy takes at most {most}; choose parts of it, or a wider recipe"
                )
        return found

    def open(self, spec: DatasetSpec, opening: Opening) -> tuple[SampleDataset, set[str]]:
        selection = self.selection
        episodes = open_episodes(self.folder, selection.columns)
        spec.warn(episodes.left_out)
        usable = [episode for episode in episodes.episodes if selection.failures or episode.success is not False]
        if len(usable) < len(episodes):
            log.info("dataset '%s': %d failed episodes are left out", spec.name, len(episodes) - len(usable))
        indices = [episode.index for episode in usable]
        chosen = episodes.choose(selection)
        group = {episode.index: episode.group for episode in episodes.episodes}
        if opening.held_out_episodes:
            out = episodes.choose(EpisodeSelection(opening.held_out_episodes, failures=selection.failures))
            chosen = [index for index in chosen if index not in set(out)]
        else:
            in_any_case = [group[index] for index in chosen] if len(chosen) < len(indices) else []
            title = f"dataset '{spec.name}'"
            names = hold_out_episodes(usable, opening.held_out, opening.seed, trained=in_any_case, title=title)
            out = [index for index in indices if group[index] in names]
        tasks = [{episode.instruction for episode in usable if episode.index in set(some)} for some in (chosen, out)]
        if unlearned := sorted(tasks[1] - tasks[0]):
            spec.warn(
                f"{len(unlearned)} of the {len(tasks[1])} held-out instructions (such as '{unlearned[0]}') have no episode that "
                "is trained on"
            )
        taken = episodes.take(sorted({*chosen, *out}))
        frames = open_episode_frames(taken, opening.image_size, cache=opening.cache, progress=opening.progress)
        spec.warn(frames.lacking)
        samples = EpisodeSamples(spec, taken, frames, opening.window, keep_idle=selection.keep_idle)
        return samples, {group[index] for index in out}

    def fingerprint(self, label: Label) -> str:
        return dataset_fingerprint(self.folder)

    def contents_fingerprint(self) -> str:
        return contents_fingerprint(self.folder)

    def origin(self) -> Origin:
        """With the columns that were chosen."""
        name, chosen = self.folder.expanduser().resolve().name, self.selection
        fingerprint = dataset_fingerprint(self.folder)
        return Origin("episodes", name, fingerprint, chosen.cameras, chosen.state, chosen.action)


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
        no_rows = np.zeros(0, np.int64)
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
        self._rows, self._runs, self._futures = (np.concatenate([no_rows, *part]) for part in (rows, runs, futures))
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

    def named(self, groups: Iterable[str]) -> tuple[str, ...]:
        """Their numbers in the dataset, as "0:3" and "7"."""
        number = {episode.group: episode.index for episode in self.episodes.episodes}
        return spans(number[group] for group in groups)

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
