"""Opening the members of a pyramid for a policy: episodes and clips, what is held out, and the codec of each robot."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.frames import ClipFrames, open_clip_frames
from corpora.episodes.episode import EpisodeSelection
from corpora.episodes.frames import open_episode_frames
from corpora.episodes.opening import open_episodes
from corpora.episodes.parts import ActionPart
from corpora.mixture.datasets import ClipMember, LatentMember, Member, RobotMember
from corpora.mixture.pseudo_actions import PseudoActionMember
from corpora.mixture.spec import Pyramid, PyramidMember
from vla.actions.space import ActionCodec
from vla.actions.spec import ActionSpec
from vla.data.loader import TrainingMember, held_groups, split_samples
from vla.policy import ChunkPolicy, RobotFacts

log = logging.getLogger(__name__)

FIT_CHUNKS = 20_000
"""Chunks, drawn at random, that statistics are made of."""

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None] | None]]
"""Title -> a bar."""


def open_members(
    pyramid: Pyramid,
    policy: ChunkPolicy,
    *,
    seed: int,
    held_share: float = 0.1,
    held_episodes: Mapping[str, str] = MappingProxyType({}),
    future_s: float | None = None,
    stride_s: float = 0.0,
    cache: Path | None = None,
    start_from: Mapping[str, str] = MappingProxyType({}),
    progress: Progress | None = None,
) -> list[TrainingMember]:
    """The members with a weight, and the policy's slots and codecs for them.

    `held_share` of each member's episodes or videos is held out; of a dataset whose episodes are chosen, some of the
    others; `held_episodes` (member -> "0:20" or "0,3,5") names them instead. `start_from`: slot of a new robot -> slot
    whose weights it begins with. A robot that the policy knows keeps its statistics and weights. Raises ValueError for a
    member that does not fit the policy, naming it.
    """
    opened: list[tuple[PyramidMember, Member, NDArray[np.int64], NDArray[np.int64]]] = []
    for entry in pyramid.members:
        if entry.weight <= 0:
            continue
        with (progress or (lambda _: nullcontext()))(entry.name) as bar:
            try:
                if entry.dataset:
                    named = held_episodes.get(entry.name, "")
                    member, held = _episodes(entry, pyramid, policy, seed, held_share, named, future_s, cache, bar)
                else:
                    member = _clips(entry, pyramid, policy, future_s, stride_s, cache, bar)
                    held = held_groups(member.groups, held_share, seed)
            except ValueError as error:
                raise ValueError(f"member '{entry.name}': {error}") from error
        train, out = split_samples(member.groups, held)
        if not len(train):
            raise ValueError(
                f"member '{entry.name}': all of its {len(member)} samples are held out; it has one source only"
            )
        opened.append((entry, member, train, out))
    _learn_robots(opened, policy, seed, start_from)
    return [
        TrainingMember(
            member,
            train,
            held,
            entry.weight,
            policy.slot(entry.slot),
            policy.robots[entry.slot].codec if entry.label != "none" else None,
        )
        for entry, member, train, held in opened
    ]


def _history(policy: ChunkPolicy) -> tuple[float, ...]:
    return tuple(-age for age in policy.config.history_s)


def _episodes(
    entry: PyramidMember,
    pyramid: Pyramid,
    policy: ChunkPolicy,
    seed: int,
    held_share: float,
    held_episodes: str,
    future_s: float | None,
    cache: Path | None,
    bar: Callable[[int, int], None] | None,
) -> tuple[Member, set[str]]:
    """The member, with the episodes to hold out among its own."""
    selection = entry.selection
    episodes = open_episodes(pyramid.path(entry.dataset), selection.columns)
    for index, reason in episodes.faults:
        log.warning("member '%s': episode %d is left out: %s", entry.name, index, reason)
    usable = [episode for episode in episodes.episodes if selection.failures or episode.success is not False]
    if len(usable) < len(episodes):
        log.info("member '%s': %d failed episodes are left out", entry.name, len(episodes) - len(usable))
    indices = [episode.index for episode in usable]
    chosen = episodes.choose(selection)
    group = {episode.index: episode.group for episode in episodes.episodes}
    if held_episodes:
        out = episodes.choose(EpisodeSelection(held_episodes, failures=selection.failures))
        chosen = [index for index in chosen if index not in set(out)]
    elif len(chosen) < len(indices):
        others = [index for index in indices if index not in set(chosen)]
        count = max(1, round(held_share * len(indices))) if held_share else 0
        out = sorted(np.random.default_rng(seed).permutation(others)[:count].tolist())
    else:
        names = held_groups([group[index] for index in chosen], held_share, seed)
        out = [index for index in chosen if group[index] in names]
    frames = open_episode_frames(episodes, policy.config.image_size, cache=cache, progress=bar)
    for fault in frames.faults[:5]:
        log.warning("member '%s': %s", entry.name, fault)
    member = RobotMember(
        episodes,
        frames,
        name=entry.name,
        tier=entry.tier,
        embodiment=entry.slot,
        horizon=policy.config.horizon,
        future_s=future_s,
        history_s=_history(policy),
        episode_indices=sorted({*chosen, *out}),
    )
    return member, {group[index] for index in out}


def _clips(
    entry: PyramidMember,
    pyramid: Pyramid,
    policy: ChunkPolicy,
    future_s: float | None,
    stride_s: float,
    cache: Path | None,
    bar: Callable[[int, int], None] | None,
) -> Member:
    clips: ClipFrames = open_clip_frames(
        Corpus(pyramid.path(entry.corpus)), policy.config.image_size, cache=cache, progress=bar
    )
    if entry.label == "latent":
        return LatentMember(
            clips,
            pyramid.path(entry.latents),
            name=entry.name,
            tier=entry.tier,
            embodiment=entry.slot,
            horizon=policy.config.horizon,
            future_s=future_s,
            history_s=_history(policy),
            shuffle_latents_seed=entry.shuffle_latents_seed,
        )
    if entry.label == "none":
        if future_s is None:
            raise ValueError("label 'none' has nothing to learn without FLARE: give --training.flare, or another label")
        return ClipMember(
            clips,
            name=entry.name,
            tier=entry.tier,
            embodiment=entry.slot,
            horizon=policy.config.horizon,
            future_s=future_s,
            history_s=_history(policy),
            stride_s=stride_s,
        )
    if entry.label == "inverse-dynamics":
        return PseudoActionMember(
            clips,
            pyramid.path(entry.pseudo_actions),
            name=entry.name,
            tier=entry.tier,
            embodiment=entry.slot,
            horizon=policy.config.horizon,
            future_s=future_s,
            history_s=_history(policy),
        )
    raise ValueError(f"label '{entry.label}' is not one of a corpus")


def _learn_robots(
    opened: Sequence[tuple[PyramidMember, Member, NDArray[np.int64], NDArray[np.int64]]],
    policy: ChunkPolicy,
    seed: int,
    start_from: Mapping[str, str],
) -> None:
    """Slots and codecs; members of one slot share statistics, made of what they train on. Pseudo-actions follow their
    robot: they have no part in its statistics."""
    slots: dict[str, list[tuple[PyramidMember, Member, NDArray[np.int64]]]] = {}
    for entry, member, train, _ in opened:
        slots.setdefault(entry.slot, []).append((entry, member, train))
    for slot, mine in slots.items():
        if slot in policy.robots and slot in start_from:
            log.warning("embodiment '%s' is trained already: it goes on from its own weights", slot)
        policy.add_embodiment(slot, start_from=None if slot in policy.robots else start_from.get(slot))
        acting = [item for item in mine if item[0].label != "none"]
        if not acting:
            continue
        labelled = [member for _, member, _ in acting if isinstance(member, PseudoActionMember)]
        recorded = [item for item in acting if not isinstance(item[1], PseudoActionMember)]
        if recorded:
            _learn_robot(slot, recorded, policy, seed)
        elif slot not in policy.robots:  # the robot itself comes later, in grounding: its labeller knows it
            facts = labelled[0].facts
            codec = ActionCodec.from_json(facts.codec)
            policy.robots[slot] = RobotFacts(codec, facts.step_s, facts.cameras, slot)
        for member in labelled:
            _check_labels(member, policy.robots[slot])


def _learn_robot(
    slot: str, acting: Sequence[tuple[PyramidMember, Member, NDArray[np.int64]]], policy: ChunkPolicy, seed: int
) -> None:
    """Fits the slot's codec, or checks that members fit the one that it has."""
    entry, first, _ = acting[0]
    states, chunks, masks, groups = _numbers(acting, seed)
    state_dim = 0 if states is None else states.shape[1]
    known = policy.robots.get(slot)
    if known is not None:
        spec = known.codec.spec
        if (spec.state_dim, spec.action_dim) != (state_dim, chunks.shape[2]):
            raise ValueError(
                f"member '{entry.name}': {state_dim} state and {chunks.shape[2]} action dimensions, but this policy's "
                f"'{slot}' has {spec.state_dim} and {spec.action_dim}; give another embodiment"
            )
        if isinstance(first, RobotMember) and not math.isclose(first.step_s, known.step_s, rel_tol=0.01):
            raise ValueError(
                f"member '{entry.name}': its steps are {first.step_s:.4f} s apart, those of this policy's '{slot}' "
                f"{known.step_s:.4f} s; give another embodiment"
            )
        if entry.linear_base != spec.linear_base:
            has = "keeps its linear base" if spec.linear_base else "has no linear base, and gets none"
            log.warning("member '%s': this policy's '%s' %s; give another embodiment", entry.name, slot, has)
        return
    spec = ActionSpec.simple(
        state_dim,
        chunks.shape[2],
        "absolute" if entry.previous_action else entry.representation,  # type: ignore[arg-type]
        "mean_std" if entry.label == "latent" else entry.normalisation,  # type: ignore[arg-type]
        state_names=_names(first, "state", state_dim),
        action_names=_names(first, "action", chunks.shape[2]),
    )
    if entry.previous_action:  # an action is relative to the one before, not to where the robot is
        width = chunks.shape[2]
        part = ActionPart(
            "action",
            tuple(range(width)),
            tuple(range(state_dim - width, state_dim)),
            entry.representation,  # type: ignore[arg-type]
            normalisation=entry.normalisation,  # type: ignore[arg-type]
        )
        spec = dataclasses.replace(spec, parts=(part,))
    if entry.linear_base:
        if states is None:
            raise ValueError(f"member '{entry.name}': linear_base needs a state, and there is none; do without")
        spec = dataclasses.replace(spec, linear_base=True)
    codec = ActionCodec.fit(states, chunks[masks], (states, chunks, masks), spec, groups=groups)
    for what, found, room in (
        ("state", codec.state_dim, policy.config.max_state_dim),
        ("action", codec.action_dim, policy.config.max_action_dim),
    ):
        if found > room:
            raise ValueError(
                f"member '{entry.name}': {found} {what} dimensions, but the policy has room for {room}; give "
                f"--model.max-{what}-dim {found} or more, or choose some with {what} = [...]"
            )
    if codec.constant:
        log.warning("embodiment '%s': these never move in the data: %s", slot, ", ".join(codec.constant))
    step_s = first.step_s if isinstance(first, RobotMember) else 0.0
    policy.robots[slot] = RobotFacts(codec, step_s, tuple(first.cameras), slot)


def _check_labels(member: PseudoActionMember, robot: RobotFacts) -> None:
    """Raises ValueError where pseudo-actions are not this robot's actions."""
    facts, spec = member.facts, robot.codec.spec
    title = f"member '{member.name}': its pseudo-actions"
    if facts.action_names != spec.names_of_action:
        raise ValueError(
            f"{title} are {', '.join(facts.action_names)}, the robot's actions {', '.join(spec.names_of_action)}; label "
            "with the same --action"
        )
    if not math.isclose(facts.step_s, robot.step_s, rel_tol=0.01):
        raise ValueError(f"{title} are {facts.step_s:.4f} s apart, the robot's actions {robot.step_s:.4f} s")
    if spec.needs_state:
        raise ValueError(
            f"{title} come without a state, which the robot's {robot.codec.spec.parts[0].representation} actions need; "
            'give the robot\'s member representation = "absolute", without linear_base'
        )


def _names(member: Member, what: str, width: int) -> tuple[str, ...]:
    names = tuple(getattr(member.episodes, f"{what}_names")) if isinstance(member, RobotMember) else ()
    return names if len(names) == width and len(set(names)) == width else ()


def _numbers(
    acting: Sequence[tuple[PyramidMember, Member, NDArray[np.int64]]], seed: int
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32], NDArray[np.bool_], list[str]]:
    """States [M, Ds], chunks [M, H, Da], masks [M, H] and episodes [M] of samples that are trained on."""
    rng = np.random.default_rng(seed)
    states, chunks, masks = [], [], []
    groups: list[str] = []
    for _, member, train in acting:
        some = np.sort(rng.permutation(train)[: FIT_CHUNKS // len(acting)])
        if isinstance(member, RobotMember):
            state, chunk, mask = member.chunks(some.tolist())
            if state is not None:
                states.append(state)
        elif isinstance(member, LatentMember):
            chunk = member.latents()[some]
            mask = np.ones(chunk.shape[:2], np.bool_)
        else:
            continue
        chunks.append(chunk)
        masks.append(mask)
        groups += [member.groups[int(index)] for index in some]
    widths = {chunk.shape[1:] for chunk in chunks}
    if len(widths) > 1:
        raise ValueError(
            f"members {', '.join(entry.name for entry, _, _ in acting)} share an embodiment, but their chunks are "
            f"{sorted(widths)} (steps, dimensions): give them embodiments of their own"
        )
    return (np.concatenate(states) if states else None), np.concatenate(chunks), np.concatenate(masks), groups
