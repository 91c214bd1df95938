"""The last action as part of the state: what a robot was told before is known to it, and often leads where it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PREVIOUS = "previous."
"""Begins the names of what a state holds of the action before."""
LEAD = "lead."
"""Begins the names of how far that action led the state."""


def with_previous_action(
    state: NDArray[np.float32] | None,
    action: NDArray[np.float32],
    state_names: Sequence[str],
    action_names: Sequence[str],
    starts: Sequence[int],
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """States [R, Ds] with what rows before were told, and the names of the new states' dimensions.

    Appended are the lead (that action less the state, for names that both have; it is small beside either, and a network
    would have to learn to subtract them) and the action itself. `starts`: first rows of episodes, of which nothing is
    known before: the state stands in where it has the same name, else 0.
    """
    rows = np.asarray(starts, np.int64)
    before = np.concatenate([action[:1], action[:-1]])
    before[rows] = 0.0
    names = [name for name in action_names if name in state_names] if state is not None else []
    held = np.array([list(state_names).index(name) for name in names], np.int64)
    acted = np.array([list(action_names).index(name) for name in names], np.int64)
    parts: list[NDArray[np.float32]] = []
    if state is not None:
        parts.append(state)
        if names:
            before[np.ix_(rows, acted)] = state[np.ix_(rows, held)]
            parts.append(before[:, acted] - state[:, held])
    leads = tuple(f"{LEAD}{name}" for name in names)
    return np.concatenate([*parts, before], 1), (*state_names, *leads, *(f"{PREVIOUS}{name}" for name in action_names))
