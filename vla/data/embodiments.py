"""Embodiments as a policy learns them from the datasets of a mixture: action spaces, and statistics of what is trained on."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.mixture.datasets import Frames, Numbers, SampleDataset
from corpora.mixture.labels import EmbodimentFacts
from vla.actions.layout import one_part
from vla.actions.rest import displacements
from vla.actions.space import ActionSpace
from vla.data.slots import check_said, said_of
from vla.embodiment import Embodiment
from vla.policy import Policy

log = logging.getLogger(__name__)

FIT_CHUNKS = 20_000
"""Chunks, drawn at random, that statistics of motion (delta, relative, per step) are made of; all others are of all frames."""

Opened = tuple[SampleDataset, NDArray[np.int64], NDArray[np.int64]]
"""A dataset, which of its samples are trained on, and which are held out."""


def learn_embodiments(opened: Sequence[Opened], policy: Policy, seed: int, start_from: Mapping[str, str]) -> None:
    """Embodiments and action spaces; datasets of one embodiment share statistics, made of what they train on. What comes
    with an action space of its own (pseudo-actions) follows the robot and has no part in its statistics."""
    by_name: dict[str, list[Opened]] = {}
    for item in opened:
        by_name.setdefault(item[0].spec.embodiment, []).append(item)
    for name, mine in by_name.items():
        if name in policy.embodiments and name in start_from:
            raise ValueError(
                f"--start-from {start_from[name]}: embodiment '{name}' is trained already and goes on from its own weights; "
                "leave it out, or give a new embodiment"
            )
        policy.add_embodiment(name, start_from=start_from.get(name))
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
        for data, _, _ in recorded:
            check_said(data.spec, known)
        if has.displacements is None:  # of an older giza
            names, seen = (has.state_names, has.action_names), (frames.states, frames.moved, frames.actions)
            has = replace(has, displacements=displacements(has.parts, *seen, names))
            policy.embodiments[name] = replace(known, action_space=has)
        return
    as_actions = said_of([data.spec for data, _, _ in recorded])
    representation: Any = as_actions.representation
    normalisation: Any = as_actions.normalisation
    state_names = facts.state_names or tuple(f"state.{dim}" for dim in range(state_dim))
    action_names = facts.action_names or tuple(f"action.{dim}" for dim in range(action_dim))
    try:
        parts = as_actions.parts or one_part(
            state_dim, action_dim, representation, normalisation, names=(state_names, action_names)
        )
        space = ActionSpace.fit(
            numbers.states,
            numbers.chunks,
            numbers.mask,
            parts=parts,
            frames=(frames.states, frames.actions),
            moved=frames.moved,
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
                f"dataset '{spec.name}': {found} {what} dimensions, but the policy has room for {room}; choose some of "
                f"them (--{what}, in a pyramid file {what} = [...]), or train a policy from scratch with "
                f"--model.max-{what}-dim {found} or more"
            )
    if space.constant:
        log.warning("embodiment '%s': these never move in the data: %s", name, ", ".join(space.constant))
    if space.displacements:
        moving = ", ".join(space.action_names[dim] for dim in space.displacements)
        log.info("embodiment '%s': at rest these actions are zero (displacements): %s", name, moving)
    policy.embodiments[name] = Embodiment(name, space, facts.step_s, facts.cameras)
    for data, _, _ in recorded:
        check_said(data.spec, policy.embodiments[name])


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
            f"{title} come without a state, which the robot's {spec.parts[0].representation} actions need; train the "
            "robot with absolute actions (--representation absolute, in a pyramid file representation = 'absolute')"
        )


def _numbers(recorded: Sequence[Opened], seed: int) -> tuple[Numbers, Frames]:
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
    rows = [data.frames(train.tolist()) for data, train, _ in recorded]
    states, moved = _joined([part.states for part in rows]), _joined([part.moved for part in rows])
    frames = Frames(states, np.concatenate([part.actions for part in rows]), moved)
    return Numbers(_joined([part.states for part in found]), chunks, masks), frames


def _joined(parts: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None
