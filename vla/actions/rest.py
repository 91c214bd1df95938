"""What leaves a robot at rest: an action may be a target, a displacement or a command, and names and widths do not say which
(a hand's pose [7] and its displacement [7] are alike in both). Its data do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.episode import LEAD, PREVIOUS
from corpora.episodes.parts import ActionPart
from vla.actions.rotations import from_matrix

Still = Literal["state", "zero", "last"]
"""state: the action is a target in the state's coordinates, so the state holds still. zero: it is a displacement or a
velocity. last: it is neither, or the data do not tell (a gripper's command, a dimension that never moves): as before."""

TARGET_GAP = 0.25
"""A target's mean squared distance to the state, over the action's variance, is at most this: 0.01 to 0.17 for joint targets
that a robot follows at 20 to 30 Hz, 0.5 and more for grippers' commands, 1 and more for displacements."""
DISPLACEMENT_CORRELATION = 0.4
"""A displacement correlates at least so much with how the state then moves: 0.56 to 0.93 for hands at 5 to 20 Hz."""
_CONSTANT = 1e-6
"""A dimension whose deviation is below this part of the largest one's, or of its own mean, never moves."""


def matching_state_dims(
    state_names: Sequence[str], action_names: Sequence[str], known: Mapping[int, int] | None = None
) -> list[int | None]:
    """For each dimension of the action the one of the state that may hold the same quantity: as `known` says, else the one
    of the same name, else the one in the same place where no other has it, else None."""
    place = {name: number for number, name in enumerate(state_names)}
    known = known or {}
    found = [known.get(dim, place.get(name)) for dim, name in enumerate(action_names)]
    # what a state remembers of the last action is that action, not where the robot is
    free = {dim for dim, name in enumerate(state_names) if not name.startswith((PREVIOUS, LEAD))} - set(found)
    return [dim if source is None and dim in free else source for dim, source in enumerate(found)]


def still_rules(
    state: NDArray[np.floating[Any]] | None,
    moved: NDArray[np.floating[Any]] | None,
    action: NDArray[np.floating[Any]],
    candidates: Sequence[int | None],
    displaced: Collection[int] | None = None,
) -> tuple[Still, ...]:
    """[Da]: how each dimension of the action holds still.

    state [N, Ds] and action [N, Da] of the same moments, moved [N, Ds]: from there to the next row, NaN where there is none;
    candidates [Da]: the dimension of the state that may hold the same quantity, or None. `displaced`: which dimensions are
    displacements, where the robot says so (`ActionSpace.displacements`): no other is then one; None: the data tell.
    """
    rules: list[Still] = ["zero" if displaced and dim in displaced else "last" for dim in range(len(candidates))]
    if state is None or not len(action):
        return tuple(rules)
    wide = action.astype(np.float64)
    deviation = wide.std(0)
    floor = _CONSTANT * np.maximum(np.abs(wide.mean(0)), deviation.max())
    for dim, source in enumerate(candidates):
        if rules[dim] == "last" and source is not None and deviation[dim] > floor[dim]:
            found = _rule(state, moved, wide[:, dim], source)
            rules[dim] = "last" if displaced is not None and found == "zero" else found
    return tuple(rules)


def _rule(
    state: NDArray[np.floating[Any]],
    moved: NDArray[np.floating[Any]] | None,
    action: NDArray[np.float64],
    source: int,
) -> Still:
    place = state[:, source].astype(np.float64)
    step = np.full(len(place), np.nan) if moved is None else moved[:, source].astype(np.float64)
    known = np.isfinite(step)
    after = place[known] + step[known]
    # the robot is at its target a little later: whichever of the two moments fits
    gaps = [np.square(action - place).mean(), *([np.square(action[known] - after).mean()] if known.any() else [])]
    if min(gaps) <= TARGET_GAP * action.var():
        return "state"
    # a gripper's command also goes with how the gripper moves, but more with where it then is
    goes = _correlation(action[known], step[known])
    if goes >= DISPLACEMENT_CORRELATION and goes > abs(_correlation(action[known], after)):
        return "zero"
    return "last"


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """0 where one of them never moves, or there are fewer than three values."""
    if len(one) < 3 or not one.std() or not other.std():
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def displacements(
    parts: Sequence[ActionPart],
    state: NDArray[np.floating[Any]] | None,
    moved: NDArray[np.floating[Any]] | None,
    action: NDArray[np.floating[Any]],
    names: tuple[Sequence[str], Sequence[str]],
) -> tuple[int, ...] | None:
    """Numbers of the action that leave the robot at rest as zero: what the parts say, else what the data do (see `still_rules`;
    `names` of the state and the action). None where neither says it of some part."""
    silent = [part for part in parts if part.displacement is None]
    rules: Sequence[Still] = ()
    if silent:
        if state is None or moved is None:
            return None
        whole = np.isfinite(action).all(1) & np.isfinite(state).all(1)
        candidates = matching_state_dims(*names, held_by(parts, names[0]))
        rules = still_rules(state[whole], moved[whole], action[whole], candidates)
    told = {dim for part in silent if not _no_turn(part).any() for dim in part.dims if rules[dim] == "zero"}
    return tuple(sorted(told | {dim for part in parts if part.displacement for dim in part.dims}))


def held_by(parts: Sequence[ActionPart], state_names: Sequence[str]) -> dict[int, int]:
    """Dimension of the action -> that of the state which may hold the same quantity, as the parts say. The one part of a robot
    without parts says so wherever the widths are equal, also of displacements."""
    found: dict[int, int] = {}
    for part in parts:
        remembered = any(state_names[dim].startswith(PREVIOUS) for dim in part.state_dims or ())
        if part.state_dims is not None and part.rotation == part.rotation_of_state and not remembered:
            found |= dict(zip(part.dims, part.state_dims, strict=True))
    return found


def resting(parts: Sequence[ActionPart], moving: Sequence[int], action: NDArray[Any]) -> NDArray[np.float32]:
    """The action [.., Da] with no displacement in the dimensions `moving`, all else as it is."""
    rest = np.array(action, np.float32)
    rest[..., list(moving)] = 0
    for part in parts:
        if set(part.dims) <= set(moving):
            rest[..., list(part.dims)] = _no_turn(part)
    return rest


def _no_turn(part: ActionPart) -> NDArray[np.float64]:
    """What leaves a displacement at rest: zeros, and of a rotation no turn, however that is written."""
    return from_matrix(part.rotation, np.eye(3)) if part.turns else np.zeros(len(part.dims))
