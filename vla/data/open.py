"""Opening a mixture for a policy: its datasets, what is held out of each, and the embodiments with their action spaces."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType

from corpora.clips.corpus import Corpus
from corpora.clips.frames import ClipFrames, open_clip_frames
from corpora.episodes.episode import EpisodeSelection
from corpora.episodes.frames import open_episode_frames
from corpora.episodes.opening import open_episodes
from corpora.held_out import hold_out, hold_out_episodes
from corpora.mixture.datasets import ClipSamples, EpisodeSamples, SampleDataset
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import ClipsAt, DatasetSpec, EpisodesAt
from corpora.mixture.views import Window
from corpora.text import unread
from vla.data.embodiments import Opened, learn_embodiments
from vla.data.loader import TrainingDataset, split_samples
from vla.policy import Policy

log = logging.getLogger(__name__)

Bar = Callable[[int, int], None]
Progress = Callable[[str], AbstractContextManager[Bar | None]]
"""Title -> a bar."""


def open_mixture(
    mixture: MixtureSpec,
    policy: Policy,
    *,
    seed: int = 0,
    held_out: float = 0.1,
    held_out_episodes: Mapping[str, str] = MappingProxyType({}),
    future_s: float | None = None,
    stride_s: float = 0.0,
    cache: Path | None = None,
    start_from: Mapping[str, str] = MappingProxyType({}),
    refit: bool = False,
    progress: Progress | None = None,
) -> list[TrainingDataset]:
    """The datasets with a weight; the policy learns their embodiments and action spaces.

    `held_out`: share of each dataset's episodes or videos that is held out; of a dataset whose episodes are chosen, some of
    the others; `held_out_episodes` (dataset -> "0:20" or "0,3,5") names them instead. `future_s`: seconds to FLARE's future;
    None: no future. `start_from`: a new embodiment -> the one whose weights it begins with. An embodiment that the policy
    knows keeps its weights, and its statistics unless `refit`. Raises ValueError for a dataset that does not fit the policy, naming it.
    """
    window = Window(policy.config.horizon, history_s=tuple(-age for age in policy.config.history_s), future_s=future_s)
    opened: list[Opened] = []
    for spec in mixture.datasets:
        if spec.weight <= 0:
            continue
        with (progress or (lambda _: nullcontext()))(spec.name) as bar:
            try:
                match spec.data:
                    case EpisodesAt():
                        share, named = held_out, held_out_episodes.get(spec.name, "")
                        data, groups = _episodes(spec, spec.data, window, policy, seed, share, named, cache, bar)
                    case ClipsAt(corpus):
                        frames = open_clip_frames(Corpus(corpus), policy.config.image_size, cache=cache, progress=bar)
                        _warn(spec, frames.table.lacking)
                        data = _clips(spec, frames, window, stride_s)
                        groups = hold_out(data.groups, held_out, seed)
                    case _:
                        raise ValueError("it is only drawn: give it data, or weight = 0")
            except ValueError as error:
                raise ValueError(f"dataset '{spec.name}': {error}") from error
        train, out = split_samples(data.groups, groups)
        if not len(train):
            raise ValueError(
                f"dataset '{spec.name}': all of its {len(data)} samples are held out; it has one source only"
            )
        opened.append((data, train, out))
    in_slots = learn_embodiments(opened, policy, seed, start_from, refit=refit)
    _check_views(in_slots, policy)
    texts = {text for data, _, _ in opened for text in data.texts}
    for said in unread(texts, policy.read_text, "the policy"):
        log.warning("%s", said)
    return [
        TrainingDataset(
            data,
            train,
            out,
            policy.embodiment_id(data.spec.embodiment),
            policy.embodiments[data.spec.embodiment].action_space if data.spec.label.acts else None,
        )
        for data, (_, train, out) in zip(in_slots, opened, strict=True)
    ]


def _check_views(datasets: Sequence[SampleDataset], policy: Policy) -> None:
    """Raises ValueError where there is no place in the policy for all cameras of an embodiment, or for its history."""
    if policy.most_views is None:
        return
    cameras, frames = policy.most_views
    remedy = "train another recipe's policy" if cameras == 1 else "train from scratch with --model.small.{} {}"
    for data in datasets:
        if len(data.cameras) > cameras:
            raise ValueError(
                f"dataset '{data.spec.name}': embodiment '{data.spec.embodiment}' has {len(data.cameras)} cameras, those of all "
                f"its datasets together: {', '.join(data.cameras)}; the policy has places for {cameras}. Choose some (--cameras, "
                f"in a pyramid file cameras = [...]), or {remedy.format('cameras', len(data.cameras))}"
            )
    if (asked := len(policy.config.history_s)) > frames:
        raise ValueError(
            f"history_s {policy.config.history_s}: {asked} frames, and the policy has places for {frames}; give fewer "
            f"(--model.history-s), or {remedy.format('history', asked)}"
        )


def _episodes(
    spec: DatasetSpec,
    at: EpisodesAt,
    window: Window,
    policy: Policy,
    seed: int,
    held_out: float,
    held_out_episodes: str,
    cache: Path | None,
    bar: Bar | None,
) -> tuple[SampleDataset, set[str]]:
    """The samples, and the groups to hold out among them."""
    selection = at.selection
    episodes = open_episodes(at.folder, selection.columns)
    _warn(spec, episodes.left_out)
    usable = [episode for episode in episodes.episodes if selection.failures or episode.success is not False]
    if len(usable) < len(episodes):
        log.info("dataset '%s': %d failed episodes are left out", spec.name, len(episodes) - len(usable))
    indices = [episode.index for episode in usable]
    chosen = episodes.choose(selection)
    group = {episode.index: episode.group for episode in episodes.episodes}
    if held_out_episodes:
        out = episodes.choose(EpisodeSelection(held_out_episodes, failures=selection.failures))
        chosen = [index for index in chosen if index not in set(out)]
    else:
        in_any_case = [group[index] for index in chosen] if len(chosen) < len(indices) else []
        title = f"dataset '{spec.name}'"
        names = hold_out_episodes(usable, held_out, seed, trained=in_any_case, title=title)
        out = [index for index in indices if group[index] in names]
    tasks = [{episode.instruction for episode in usable if episode.index in set(some)} for some in (chosen, out)]
    if unlearned := sorted(tasks[1] - tasks[0]):
        log.warning(
            "dataset '%s': %d of the %d held-out instructions (such as '%s') have no episode that is trained on",
            spec.name,
            len(unlearned),
            len(tasks[1]),
            unlearned[0],
        )
    frames = open_episode_frames(episodes, policy.config.image_size, cache=cache, progress=bar)
    _warn(spec, frames.lacking)
    samples = EpisodeSamples(spec, episodes, frames, window, sorted({*chosen, *out}), keep_idle=selection.keep_idle)
    return samples, {group[index] for index in out}


def _warn(spec: DatasetSpec, said: str) -> None:
    if said:
        log.warning("dataset '%s': %s", spec.name, said)


def _clips(spec: DatasetSpec, frames: ClipFrames, window: Window, stride_s: float) -> SampleDataset:
    if not spec.label.acts and window.future_s is None:
        raise ValueError(
            f"label '{spec.label.words[0]}' has nothing to learn without FLARE: give --training.flare, or another label"
        )
    labels = spec.label.read(frames, spec.embodiment, window.horizon)
    return ClipSamples(spec, frames, window, labels, stride_s)
