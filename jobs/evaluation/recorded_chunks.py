"""Recorded episodes as an open-loop evaluation needs them: the held-out moments with their pictures, and the training
episodes' numbers for the baselines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corpora.episodes.episode import PREVIOUS, Episodes
from corpora.episodes.frames import open_episode_frames
from corpora.episodes.opening import open_episodes
from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.episode_samples import EpisodeSamples, EpisodesAt, facts_of
from corpora.mixture.spec import DatasetSpec
from corpora.mixture.views import Window
from corpora.store.told import listed as listed_few
from corpora.video.nearest import rows_within
from jobs.evaluation.drawn import DrawnEpisode, write_episodes_sheet, write_film
from jobs.evaluation.open_loop import Baselines, Chunks, OpenLoopResult, compare
from jobs.evaluation.plots import error_figure, plot_trajectories
from jobs.evaluation.videos import FILMS
from vla.actions.names import places
from vla.actions.rest import held_by, matching_state_dims
from vla.data.placed import placed
from vla.data.ranges import check_range, check_rest
from vla.data.slots import Slot, place
from vla.noise import NoiseKey
from vla.policy import Policy
from vla.trained_on import Standing, TrainedOn

log = logging.getLogger(__name__)

FIT_CHUNKS = 20_000
"""Chunks of the training episodes, evenly spaced, behind the baselines."""


class RecordedEpisodes:
    """The held-out moments (every `every`-th row) of a dataset (LeRobot or RLDS), in the policy's dimensions.

    `selection`: what the policy is measured on; of cameras, state and action (those of `stored`, the policy's training on this
    dataset, where it names none) those of the policy's names are taken. `train_episodes`: behind the baselines, "0:20" or
    "3,5,8"; empty: all others. Raises ValueError for episodes or cameras there are not, and columns that are not the policy's.
    """

    def __init__(
        self,
        policy: Policy,
        embodiment: str,
        data: Path,
        selection: EpisodeSelection,
        *,
        train_episodes: str = "",
        stored: TrainedOn | None = None,
        every: int = 1,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        facts, config = policy.embodiment(embodiment), policy.config
        spec = facts.action_space
        previous = any(name.startswith(PREVIOUS) for name in spec.state_names)
        if selection.previous_action and not previous:
            raise ValueError("previous_action: the policy was trained without it; leave it out")
        columns = replace(selection.columns, previous_action=previous)
        if stored is not None:
            state, action = selection.state or stored.state, selection.action or stored.action
            columns = replace(columns, state=state, action=action)
        listed = open_episodes(data, columns)
        held = listed.choose(selection)
        if train_episodes:
            train = listed.choose(EpisodeSelection(train_episodes, failures=True))
        else:
            train = [index for index in listed.indices if index not in set(held)]
        both = sorted(set(train) & set(held))
        if both or not train:
            raise ValueError(
                f"episodes '{selection.episodes}' leave {'no' if not train else f'{listed_few(both)} also'} among the training "
                f"episodes of {len(listed)}: hold out some of them, not all, and give --train-episodes none of those"
            )
        self.chosen = tuple(held)
        """Episodes, as the dataset numbers them."""
        self.state_names, self.action_names = spec.state_names, spec.action_names
        slot, has = Slot.of(facts), facts_of(listed)
        recorded = DatasetSpec(str(data), "robot", EpisodesAt(data), embodiment=embodiment)
        with recorded.errors_named():
            placement = place(has, slot)
        seen = [has.cameras[where] for where in placement.cameras if where is not None]
        listed = listed.seen_by(seen)
        self._state, self._action = list(placement.state), list(placement.action)
        self.step_s = facts.step_s
        self.horizon = config.horizon
        self.held_by = matching_state_dims(self.state_names, self.action_names, held_by(spec.parts, self.state_names))
        self.train = self._numbers(listed, train)
        chosen = listed.take(held)
        frames = open_episode_frames(chosen, config.image_size, cache=cache, progress=progress)
        for said in filter(None, (listed.left_out, frames.lacking)):
            log.warning("data '%s': %s", data, said)
        samples = EpisodeSamples(
            recorded, chosen, frames, Window(config.horizon, history_s=tuple(-age for age in config.history_s))
        )
        with recorded.errors_named():
            self._samples = placed(samples, replace(placement, cameras=places(slot.cameras, seen)), slot)
            rows, some = range(len(samples)), range(0, len(samples), -(-len(samples) // FIT_CHUNKS))
            seen_rows = self._samples.frames(rows)
            check_rest(facts, seen_rows, has.step_s)
            check_range(facts, self._samples.numbers(some), seen_rows, may_move=True)
        self.episodes = chosen
        """Of `chosen`, seen by the policy's cameras."""
        begins = samples.rows
        looked = [begins[(begins >= episode.start) & (begins < episode.stop)] for episode in chosen.episodes]
        first = np.concatenate([np.arange(len(part)) % every == 0 for part in looked])
        self._indices = np.flatnonzero(first)
        self._rows = np.concatenate(
            [part - part_of.start for part, part_of in zip(looked, chosen.episodes, strict=True)]
        )[first]
        """Of its episode, of each held-out moment."""
        self.held = self._chunks(chosen, begins[first])

    def _numbers(self, episodes: Episodes, chosen: Sequence[int]) -> Chunks:
        wanted = set(chosen)
        rows = np.concatenate(
            [np.arange(episode.start, episode.stop) for episode in episodes.episodes if episode.index in wanted]
        )
        return self._chunks(episodes, rows[:: -(-len(rows) // FIT_CHUNKS)])

    def _chunks(self, episodes: Episodes, rows: NDArray[np.int64]) -> Chunks:
        """Of these rows of `episodes`, by time."""
        assert episodes.action is not None
        offsets = np.arange(-1, self.horizon) * self.step_s
        action = np.zeros((len(rows), self.horizon + 1, len(self._action)), np.float32)
        known = np.zeros(action.shape[:2], np.bool_)
        number = np.zeros(len(rows), np.int64)
        t_s = np.zeros(len(rows))
        for episode in episodes.episodes:
            mine = np.flatnonzero((rows >= episode.start) & (rows < episode.stop))
            t_s[mine] = episode.t_s[rows[mine] - episode.start]
            number[mine] = episode.index
            found, known[mine] = rows_within(episode.t_s, t_s[mine][:, None] + offsets, 1 / episodes.fps)
            action[mine] = episodes.action[episode.start + found][..., self._action]
        last = np.where(known[:, :1], action[:, 0], np.float32(np.nan))
        if episodes.state is None or not self._state:
            return Chunks(None, last, action[:, 1:], known[:, 1:], number, t_s)
        ends = np.asarray([episode.stop - 1 for episode in episodes.episodes])
        after = np.where(np.isin(rows, ends), rows, rows + 1)
        state = episodes.state[rows][:, self._state]
        moved = np.where((after > rows)[:, None], episodes.state[after][:, self._state] - state, np.float32(np.nan))
        return Chunks(state, last, action[:, 1:], known[:, 1:], number, t_s, moved)

    def predict(
        self,
        policy: Policy,
        embodiment: str,
        *,
        seed: int = 0,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """The policy's raw chunks [N, H, Da] at the held-out moments; noise is drawn from `seed`, the episode and
        the row, whichever others are predicted."""
        moments = zip(self.held.episode.tolist(), self._rows.tolist(), strict=True)
        keys = [NoiseKey(seed, ("episode", episode), row) for episode, row in moments]
        parts: list[NDArray[np.float32]] = []
        for first in range(0, len(self._indices), batch_size):
            rows = slice(first, first + batch_size)
            samples = [self._samples[int(index)] for index in self._indices[rows]]
            pictures = np.stack([sample.images for sample in samples]).transpose(0, 1, 2, 5, 3, 4)
            with torch.inference_mode():
                parts.append(
                    policy.act_batch(
                        torch.from_numpy(np.ascontiguousarray(pictures)),
                        torch.from_numpy(np.stack([sample.image_mask for sample in samples])),
                        [sample.instruction for sample in samples],
                        None if self.held.state is None else self.held.state[rows],
                        embodiment,
                        noise=keys[rows],
                    )
                )
            if progress is not None:
                progress(min(first + batch_size, len(self._indices)), len(self._indices))
        return np.concatenate(parts)


def measure_open_loop(
    policy: Policy,
    embodiment: str,
    recorded: RecordedEpisodes,
    out: Path,
    *,
    plots: int,
    seed: int,
    standing: Standing = "not known",
    progress: Callable[[int, int], None] | None = None,
) -> OpenLoopResult:
    """The policy beside the baselines on the held-out moments; draws the errors, and the first `plots` episodes, of which
    trajectories and films are kept for the page."""
    predicted = recorded.predict(policy, embodiment, seed=seed, progress=progress)
    baselines = Baselines(recorded.train, recorded.held_by, policy.embodiment(embodiment).action_space)
    methods: dict[str, NDArray[Any]] = {"policy": predicted, **baselines.predict(recorded.held)}
    names, rules = recorded.action_names, baselines.still_rules
    result = compare(methods, recorded.held, baselines.std, names, still_rules=rules, seed=seed)
    result = replace(result, standing=standing)
    error_figure(result).savefig(out / "open_loop_errors.png", dpi=100)
    shown = list(dict.fromkeys(recorded.held.episode[recorded.held.mask[:, 0]].tolist()))[:plots]
    instructions = {episode.index: episode.instruction for episode in recorded.episodes.episodes}
    for episode in shown:
        path = out / f"open_loop_episode_{episode:06d}.png"
        plot_trajectories(result, recorded.held, predicted, episode, recorded.step_s, path)
        DrawnEpisode.of(recorded.held, methods, episode, instructions[episode], recorded.step_s).save(out)
        write_film(out / FILMS, recorded.episodes, episode)
    write_episodes_sheet(out, shown, instructions, result)
    return replace(result, drawn=tuple(shown))
