"""What a robot is told that shall stand still, as its data show: an action may be a target or a displacement.

Names and widths do not tell: a hand's pose [7] and its displacement [7] are alike in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Still = Literal["state", "zero", "last"]
"""state: the action is a target in the state's coordinates, so the state holds still. zero: it is a displacement or a
velocity. last: it is neither, or the data do not tell (a gripper's command, a dimension that never moves): as before."""
STILL_TITLES: dict[Still, str] = {"state": "the state", "zero": "zero", "last": "the last action"}

TARGET_GAP = 0.25
"""A target's mean squared distance to the state, over the action's variance, is at most this: 0.01 to 0.17 for joint targets
that a robot follows at 20 to 30 Hz, 0.5 and more for grippers' commands, 1 and more for displacements."""
DISPLACEMENT_CORRELATION = 0.4
"""A displacement correlates at least so much with how the state then moves: 0.56 to 0.93 for hands at 5 to 20 Hz."""
_CONSTANT = 1e-6
"""A dimension whose deviation is below this part of the largest one's, or of its own mean, never moves."""


def still_rules(
    state: NDArray[np.floating[Any]] | None,
    moved: NDArray[np.floating[Any]] | None,
    action: NDArray[np.floating[Any]],
    candidates: Sequence[int | None],
) -> tuple[Still, ...]:
    """[Da]: how each dimension of the action holds still.

    state [N, Ds] and action [N, Da] of the same moments, moved [N, Ds]: from there to the next row, NaN where there is none;
    candidates [Da]: the dimension of the state that may hold the same quantity, or None.
    """
    rules: list[Still] = ["last"] * len(candidates)
    if state is None or not len(action):
        return tuple(rules)
    wide = action.astype(np.float64)
    deviation = wide.std(0)
    floor = _CONSTANT * np.maximum(np.abs(wide.mean(0)), deviation.max())
    for dim, source in enumerate(candidates):
        if source is not None and deviation[dim] > floor[dim]:
            rules[dim] = _rule(state, moved, wide[:, dim], source)
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


def describe_still(rules: Sequence[Still]) -> str:
    """E.g. "the state in 7 dimensions, the last action in 1"."""
    counts = {STILL_TITLES[rule]: list(rules).count(rule) for rule in STILL_TITLES}
    parts = [f"{title} in {count}" for title, count in counts.items() if count]
    return ", ".join([f"{parts[0]} {'dimension' if parts[0].endswith(' 1') else 'dimensions'}", *parts[1:]])
