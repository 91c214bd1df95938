"""Embodiments as a policy learns them from the datasets of a mixture: action spaces, and statistics of what is trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.episode import all_rows
from corpora.mixture.label_type import Actions
from corpora.mixture.labels import EmbodimentFacts
from corpora.mixture.spec import Frames, Numbers, SampleDataset
from vla.actions.layout import one_part
from vla.actions.rest import displacements
from vla.actions.space import ActionSpace
from vla.data.placed import placed
from vla.data.ranges import check_range, check_rest
from vla.data.slots import Placement, Slot, check_said, place, said_of
from vla.embodiment import Embodiment
from vla.policy import Policy

log = logging.getLogger(__name__)

FIT_CHUNKS = 20_000
"""Chunks, drawn at random, that statistics of motion (delta, relative, per step) are made of; all others are of all frames."""

Opened = tuple[SampleDataset, NDArray[np.int64], NDArray[np.int64]]
"""A dataset, which of its samples are trained on, and which are held out."""


@dataclass(frozen=True)
class _Member:
    """A dataset of an embodiment, in its slot."""

    data: SampleDataset
    train: NDArray[np.int64]
    facts: EmbodimentFacts
    placement: Placement

    @property
    def follows(self) -> bool:
        """It comes with an action space of its own, and has no part in the robot's statistics."""
        return self.facts.codec is not None

    @property
    def said(self) -> Actions:
        return self.data.spec.label.fitted_as


def learn_embodiments(
    opened: Sequence[Opened], policy: Policy, seed: int, start_from: Mapping[str, str], *, refit: bool = False
) -> list[SampleDataset]:
    """The policy learns embodiments and action spaces; returns the datasets as their slots have them.

    Datasets of one embodiment share statistics, made of what they train on. What comes with an action space of its own
    (pseudo-actions) follows the robot and has no part in its statistics. `refit`: of embodiments that the policy knows the
    statistics are made anew. Raises ValueError for a dataset that does not mean what its slot means, naming it.
    """
    found = [data for data, _, _ in opened]
    by_name: dict[str, list[int]] = {}
    for number, data in enumerate(found):
        by_name.setdefault(data.spec.embodiment, []).append(number)
    if refit and not by_name.keys() & policy.embodiments.keys():
        raise ValueError(
            "--refit: the policy knows none of these embodiments, whose statistics are made anyway; leave it out"
        )
    for name, mine in by_name.items():
        if name in policy.embodiments and name in start_from:
            raise ValueError(
                f"--start-from {start_from[name]}: embodiment '{name}' is trained already and goes on from its own weights; "
                "leave it out, or give a new embodiment"
            )
        policy.add_embodiment(name, start_from=start_from.get(name))
        acting = [(number, facts) for number in mine if (facts := found[number].embodiment()) is not None]
        acting.sort(key=lambda item: item[1].codec is not None)  # the robot itself says what its labels are
        if not acting:
            continue
        known = policy.embodiments.get(name)
        slot = Slot.new(name, [facts for _, facts in acting]) if known is None else Slot.of(known)
        members = [_member(found[number], opened[number][1], facts, slot) for number, facts in acting]
        policy.embodiments[name] = _learned(slot, members, known, policy, seed, refit)
        for (number, _), member in zip(acting, members, strict=True):
            found[number] = member.data
    return found


def _member(data: SampleDataset, train: NDArray[np.int64], facts: EmbodimentFacts, slot: Slot) -> _Member:
    with data.spec.errors_named():
        placement = place(facts, slot)
        return _Member(placed(data, placement, slot), train, facts, placement)


def _learned(
    slot: Slot, members: Sequence[_Member], known: Embodiment | None, policy: Policy, seed: int, refit: bool
) -> Embodiment:
    """The embodiment after these datasets have joined it; robots come before what follows them."""
    recorded = [member for member in members if not member.follows]
    old = known is not None and not (refit and recorded)
    if old:
        assert known is not None
        space = known.action_space
    elif recorded:
        with recorded[0].data.spec.errors_named():
            space = _fitted(slot, recorded, None if known is None else known.action_space, policy, seed)
    else:  # the robot itself comes later, in grounding: its labeller knows it
        space = ActionSpace.from_json(dict(members[0].facts.codec or {}))
    modality = None if known is None else known.modality
    made_by = slot.made_by or members[0].facts.made_by
    squared_by = slot.squared_by or next((one.facts.squared_by for one in members if one.facts.squared_by), "")
    learned = Embodiment(slot.name, space, slot.step_s, slot.cameras, modality, squared_by, made_by, slot.views)
    for member in members:
        with member.data.spec.errors_named():
            check_said(member.said, member.placement, learned)
            if member.facts.from_origin:
                _check_meaning(ActionSpace.from_json(dict(member.facts.codec or {})), learned)
            elif member.follows and space.needs_state:
                raise ValueError(
                    f"its pseudo-actions come without a state, which the robot's {space.parts[0].representation} actions need; "
                    "train the robot with absolute actions (--representation absolute, in a pyramid file representation = "
                    "'absolute'), or label hands as relative motion (giza label --tracks --hand)"
                )
            check_rest(learned, member.data.frames(member.train.tolist()), member.facts.step_s)
            if old or member.follows:
                numbers, frames = _numbers([member], seed)
                if member.facts.from_origin:
                    numbers = replace(numbers, states=space.origin(len(numbers.chunks)))
                check_range(learned, numbers, frames, may_move=member.follows)
    if space.displacements is None and recorded:  # of an older giza
        frames = _frames(recorded)
        names = space.state_names, space.action_names
        rest = displacements(space.parts, frames.states, frames.moved, frames.actions, names)
        learned = replace(learned, action_space=replace(space, displacements=rest))
    return learned


def _check_meaning(labelled: ActionSpace, slot: Embodiment) -> None:
    """Raises ValueError where hands were labelled as another robot's chunks than those of the slot."""
    made, has = (
        {part.name: f"{part.representation} {part.rotation}, frame '{part.frame}'" for part in space.parts}
        for space in (labelled, slot.action_space)
    )
    if made != has:
        name = next(name for name in {**made, **has} if made.get(name) != has.get(name))
        raise ValueError(
            f"its hands were labelled with the action part '{name}' as {made.get(name, 'none')}, and embodiment '{slot.name}' has "
            f"{has.get(name, 'none')}: label them again with that robot's --action-parts, or train it with theirs"
        )


def _fitted(slot: Slot, recorded: Sequence[_Member], old: ActionSpace | None, policy: Policy, seed: int) -> ActionSpace:
    """The action space of a slot, of the samples that are trained on; of the same meaning as the `old` one, where there is
    one. Raises ValueError where it has no room in the policy."""
    said = said_of([(member.said, member.placement) for member in recorded])
    numbers, frames = _numbers(recorded, seed)
    normalisation: Any = said.normalisation if old is None else old.state.kind
    representation: Any = said.representation
    names = slot.state_names, slot.action_names
    parts = said.parts if old is None else old.parts
    space = ActionSpace.fit(
        numbers.states,
        numbers.chunks,
        numbers.mask,
        parts=parts or one_part(len(names[0]), len(names[1]), representation, normalisation, names=names),
        frames=(frames.states, frames.actions),
        moved=frames.moved,
        state_normalisation=normalisation,
        state_names=slot.state_names,
        action_names=slot.action_names,
    )
    for what, found, room in (
        ("state", space.encoded_state_dim, policy.config.max_state_dim),
        ("action", space.encoded_action_dim, policy.config.max_action_dim),
    ):
        if found > room:
            raise ValueError(
                f"{found} {what} dimensions, but the policy has room for {room}; choose some of "
                f"them (--{what}, in a pyramid file {what} = [...]), or train a policy from scratch with "
                f"--model.max-{what}-dim {found} or more"
            )
    if space.constant:
        log.warning("embodiment '%s': these never move in the data: %s", slot.name, ", ".join(space.constant))
    if space.displacements:
        moving = ", ".join(space.action_names[dim] for dim in space.displacements)
        log.info("embodiment '%s': at rest these actions are zero (displacements): %s", slot.name, moving)
    return space


def _numbers(recorded: Sequence[_Member], seed: int) -> tuple[Numbers, Frames]:
    """Of M samples that are trained on; and of all of their frames, each once."""
    rng = np.random.default_rng(seed)
    found: list[Numbers] = []
    for member in recorded:
        some = np.sort(rng.permutation(member.train)[: FIT_CHUNKS // len(recorded)]).tolist()
        found.append(member.data.numbers(some))
    steps = {part.chunks.shape[1] for part in found}
    if len(steps) > 1:
        raise ValueError(
            f"datasets {', '.join(member.data.spec.name for member in recorded)} share an embodiment, but their chunks have "
            f"{sorted(steps)} steps: give them embodiments of their own"
        )
    chunks, masks = (np.concatenate([getattr(part, name) for part in found]) for name in ("chunks", "mask"))
    return Numbers(all_rows([part.states for part in found]), chunks, masks), _frames(recorded)


def _frames(recorded: Sequence[_Member]) -> Frames:
    rows = [member.data.frames(member.train.tolist()) for member in recorded]
    states, moved = all_rows([part.states for part in rows]), all_rows([part.moved for part in rows])
    return Frames(states, np.concatenate([part.actions for part in rows]), moved)
