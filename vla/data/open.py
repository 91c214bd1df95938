"""Opening a mixture for a policy: its datasets, what is held out of each, and the embodiments with their action spaces."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.frames import ClipFrames, open_clip_frames
from corpora.episodes.episode import EpisodeSelection
from corpora.episodes.frames import open_episode_frames
from corpora.episodes.opening import open_episodes
from corpora.episodes.parts import ActionPart
from corpora.held_out import hold_out
from corpora.mixture.datasets import ClipSamples, EpisodeSamples, Numbers, SampleDataset
from corpora.mixture.labels import EmbodimentFacts
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import ClipsAt, DatasetSpec, EpisodesAt
from corpora.mixture.views import Window
from vla.actions.layout import one_part
from vla.actions.space import ActionSpace
from vla.data.loader import TrainingDataset, split_samples
from vla.embodiment import Embodiment
from vla.policy import Policy

log = logging.getLogger(__name__)

FIT_CHUNKS = 20_000
"""Chunks, drawn at random, that statistics of motion (delta, relative, per step) are made of; all others are of all frames."""

Bar = Callable[[int, int], None]
Progress = Callable[[str], AbstractContextManager[Bar | None]]
"""Title -> a bar."""
Opened = tuple[SampleDataset, NDArray[np.int64], NDArray[np.int64]]
"""A dataset, which of its samples are trained on, and which are held out."""


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
    progress: Progress | None = None,
) -> list[TrainingDataset]:
    """The datasets with a weight; the policy learns their embodiments and action spaces.

    `held_out`: share of each dataset's episodes or videos that is held out; of a dataset whose episodes are chosen, some of
    the others; `held_out_episodes` (dataset -> "0:20" or "0,3,5") names them instead. `future_s`: seconds to FLARE's future;
    None: no future. `start_from`: a new embodiment -> the one whose weights it begins with. An embodiment that the policy
    knows keeps its statistics and weights. Raises ValueError for a dataset that does not fit the policy, naming it.
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
    _learn_embodiments(opened, policy, seed, start_from)
    return [
        TrainingDataset(
            data,
            train,
            out,
            policy.embodiment_id(data.spec.embodiment),
            policy.embodiments[data.spec.embodiment].action_space if data.spec.label.acts else None,
        )
        for data, train, out in opened
    ]


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
    for index, reason in episodes.faults:
        log.warning("dataset '%s': episode %d is left out: %s", spec.name, index, reason)
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
        names = hold_out([group[index] for index in indices], held_out, seed, trained=in_any_case)
        out = [index for index in indices if group[index] in names]
    frames = open_episode_frames(episodes, policy.config.image_size, cache=cache, progress=bar)
    for fault in frames.faults[:5]:
        log.warning("dataset '%s': %s", spec.name, fault)
    samples = EpisodeSamples(spec, episodes, frames, window, sorted({*chosen, *out}), keep_idle=selection.keep_idle)
    return samples, {group[index] for index in out}


def _clips(spec: DatasetSpec, frames: ClipFrames, window: Window, stride_s: float) -> SampleDataset:
    if not spec.label.acts and window.future_s is None:
        raise ValueError(
            f"label '{spec.label.words[0]}' has nothing to learn without FLARE: give --training.flare, or another label"
        )
    labels = spec.label.read(frames, spec.embodiment, window.horizon)
    return ClipSamples(spec, frames, window, labels, stride_s)


def _learn_embodiments(opened: Sequence[Opened], policy: Policy, seed: int, start_from: Mapping[str, str]) -> None:
    """Embodiments and action spaces; datasets of one embodiment share statistics, made of what they train on. What comes
    with an action space of its own (pseudo-actions) follows the robot and has no part in its statistics."""
    by_name: dict[str, list[Opened]] = {}
    for item in opened:
        by_name.setdefault(item[0].spec.embodiment, []).append(item)
    for name, mine in by_name.items():
        if name in policy.embodiments and name in start_from:
            log.warning("embodiment '%s' is trained already: it goes on from its own weights", name)
        policy.add_embodiment(name, start_from=None if name in policy.embodiments else start_from.get(name))
        acting = [(item, facts) for item in mine if (facts := item[0].embodiment()) is not None]
        recorded = [(item, facts) for item, facts in acting if facts.codec is None]
        following = [(item[0].spec.name, facts) for item, facts in acting if facts.codec is not None]
        if recorded:
            _learn_embodiment(name, [item for item, _ in recorded], recorded[0][1], policy, seed)
        elif (
            following and name not in policy.embodiments
        ):  # the robot itself comes later, in grounding: its labeller knows it
            first = following[0][1]
            assert first.codec is not None
            space = ActionSpace.from_json(dict(first.codec))
            policy.embodiments[name] = Embodiment(name, space, first.step_s, first.cameras)
        for dataset, facts in following:
            _check_labels(dataset, facts, policy.embodiments[name])


def _learn_embodiment(name: str, recorded: Sequence[Opened], facts: EmbodimentFacts, policy: Policy, seed: int) -> None:
    """Fits the action space, or checks that the datasets fit the one that there is. `facts`: of the first."""
    spec = recorded[0][0].spec
    numbers, frames = _numbers(recorded, seed)
    state_dim = 0 if numbers.states is None else numbers.states.shape[1]
    action_dim = numbers.chunks.shape[2]
    known = policy.embodiments.get(name)
    as_actions = spec.label.fitted_as
    if known is not None:
        has = known.action_space
        if (has.state_dim, has.action_dim) != (state_dim, action_dim):
            raise ValueError(
                f"dataset '{spec.name}': {state_dim} state and {action_dim} action dimensions, but this policy's '{name}' "
                f"has {has.state_dim} and {has.action_dim}; give another embodiment"
            )
        if facts.step_s and not math.isclose(facts.step_s, known.step_s, rel_tol=0.01):
            raise ValueError(
                f"dataset '{spec.name}': its steps are {facts.step_s:.4f} s apart, those of this policy's '{name}' "
                f"{known.step_s:.4f} s; give another embodiment"
            )
        return
    previous = isinstance(spec.data, EpisodesAt) and spec.data.selection.previous_action
    representation: Any = as_actions.representation
    normalisation: Any = as_actions.normalisation
    if as_actions.parts:
        parts = as_actions.parts
    elif previous:  # an action is relative to the one before, not to where the robot is
        last = range(state_dim - action_dim, state_dim)
        parts = (ActionPart("action", range(action_dim), last, representation, normalisation=normalisation),)
    else:
        parts = one_part(state_dim, action_dim, representation, normalisation)
    try:
        space = ActionSpace.fit(
            numbers.states,
            numbers.chunks,
            numbers.mask,
            parts=parts,
            frames=frames,
            state_normalisation=normalisation,
            state_names=facts.state_names,
            action_names=facts.action_names,
        )
    except ValueError as error:
        raise ValueError(f"dataset '{spec.name}': {error}") from error
    for what, found, room in (
        ("state", space.encoded_state_dim, policy.config.max_state_dim),
        ("action", space.encoded_action_dim, policy.config.max_action_dim),
    ):
        if found > room:
            raise ValueError(
                f"dataset '{spec.name}': {found} {what} dimensions, but the policy has room for {room}; give "
                f"--model.max-{what}-dim {found} or more, or choose some with {what} = [...]"
            )
    if space.constant:
        log.warning("embodiment '%s': these never move in the data: %s", name, ", ".join(space.constant))
    policy.embodiments[name] = Embodiment(name, space, facts.step_s, facts.cameras)


def _check_labels(dataset: str, facts: EmbodimentFacts, robot: Embodiment) -> None:
    """Raises ValueError where pseudo-actions are not this robot's actions."""
    title = f"dataset '{dataset}': its pseudo-actions"
    spec = robot.action_space
    if facts.action_names != spec.action_names:
        raise ValueError(
            f"{title} are {', '.join(facts.action_names)}, the robot's actions {', '.join(spec.action_names)}; label "
            "with the same --action"
        )
    if not math.isclose(facts.step_s, robot.step_s, rel_tol=0.01):
        raise ValueError(f"{title} are {facts.step_s:.4f} s apart, the robot's actions {robot.step_s:.4f} s")
    if spec.needs_state:
        raise ValueError(
            f"{title} come without a state, which the robot's {spec.parts[0].representation} actions need; give the "
            'robot\'s dataset representation = "absolute"'
        )


def _numbers(
    recorded: Sequence[Opened], seed: int
) -> tuple[Numbers, tuple[NDArray[np.float32] | None, NDArray[np.float32]]]:
    """Of M samples that are trained on; and of all of their frames, each once."""
    rng = np.random.default_rng(seed)
    found: list[Numbers] = []
    for data, train, _ in recorded:
        some = np.sort(rng.permutation(train)[: FIT_CHUNKS // len(recorded)]).tolist()
        found.append(data.numbers(some))
    widths = {part.chunks.shape[1:] for part in found}
    if len(widths) > 1:
        raise ValueError(
            f"datasets {', '.join(data.spec.name for data, _, _ in recorded)} share an embodiment, but their chunks are "
            f"{sorted(widths)} (steps, dimensions): give them embodiments of their own"
        )
    chunks, masks = (np.concatenate([getattr(part, name) for part in found]) for name in ("chunks", "mask"))
    states, actions = zip(*(data.frames(train.tolist()) for data, train, _ in recorded), strict=True)
    numbers = Numbers(_joined([part.states for part in found]), chunks, masks)
    return numbers, (_joined(states), np.concatenate(actions))


def _joined(parts: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None
