"""Where parts lie: in a robot's raw action and state, and in what the policy sees of them.

raw state  [.., Ds]  rotations become 6D in place            encoded state   [.., Ds']
raw action [.., Da]  its parts, one after the other           encoded action  [.., Da'], Da' the sum of `part.width`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.parts import NAMES_6D, ActionPart, Normalisation, Representation, RotationKind
from vla.actions.names import in_state
from vla.actions.rotations import matrix_to_rotation_6d, to_matrix

Parts = Sequence[ActionPart]


def one_part(
    state_dim: int,
    action_dim: int,
    representation: Representation = "absolute",
    normalisation: Normalisation = "q01_q99",
    *,
    names: tuple[Sequence[str], Sequence[str]] | None = None,
) -> tuple[ActionPart]:
    """One part, 'action', without rotations. It lies in the state where the `names` of state and action say so; without
    names in the same places, where both are equally wide. Otherwise nothing says where, and delta and relative raise
    ValueError."""
    dims = tuple(range(action_dim))
    alike = dims if state_dim == action_dim else None
    if names is not None:
        found = in_state(names[1], names[0])
        alike = tuple(place for place in found if place is not None)
        if len(alike) < action_dim:
            alike = None
            lacking = [name for name, place in zip(names[1], found, strict=True) if place is None]
            if representation != "absolute":
                raise ValueError(
                    f"representation {representation}: the action's {', '.join(lacking)} is none of the state's "
                    f"{', '.join(names[0]) or 'numbers: it has none'}; say with action_parts (--action-parts FILE) which numbers "
                    "of the state each part of the action is counted from, or take absolute"
                )
    return (ActionPart("action", dims, alike, representation, normalisation=normalisation),)


def named(parts: Parts, name: str) -> ActionPart:
    """The part of that name. Raises KeyError where there is none."""
    return {part.name: part for part in parts}[name]


def check_parts(parts: Parts, state_dim: int, action_dim: int) -> None:
    """Raises ValueError unless every number of the action belongs to exactly one part, and parts fit the state."""
    names = [part.name for part in parts]
    if len(set(names)) != len(names):
        raise ValueError(f"action parts {names}: each name is given once")
    taken = sorted(dim for part in parts for dim in part.dims)
    if taken != list(range(action_dim)) or not taken:
        raise ValueError(
            f"action parts cover the dimensions {taken}: each of 0 to {action_dim - 1} belongs to exactly one part"
        )
    frames = {part.name for part in parts if part.turns and part.state_dims}
    for part in parts:
        dims = part.state_dims or ()
        if len(set(dims)) != len(dims) or any(not 0 <= dim < state_dim for dim in dims):
            raise ValueError(
                f"action part '{part.name}': state_dims {dims}; the state has dimensions 0 to {state_dim - 1}, "
                "and a part names each once"
            )
        if part.frame and part.frame not in frames:
            raise ValueError(
                f"action part '{part.name}': frame '{part.frame}' is no part with a rotation and state_dims; there are {names}"
            )
    groups = state_rotations(parts)
    owned = [dim for dims, _ in groups for dim in dims]
    if len(set(owned)) != len(owned):
        raise ValueError(
            f"state rotations {groups} overlap: one number of the state belongs to one rotation, written in one way"
        )


def state_rotations(parts: Parts) -> list[tuple[tuple[int, ...], RotationKind]]:
    """The rotations in the state: where each lies and how it is written. Parts may share one."""
    found = [(tuple(part.state_dims), part.rotation_of_state) for part in parts if part.state_dims and part.turns]
    return list(dict.fromkeys(found))


def state_columns(parts: Parts, names: Sequence[str]) -> list[tuple[str, bool]]:
    """(name, whether of a rotation) of each encoded state number, of the raw state's `names`; a rotation stands where its
    first number stood."""
    rotations = {dims[0]: dims for dims, _ in state_rotations(parts)}
    swallowed = {dim for dims in rotations.values() for dim in dims}
    columns: list[tuple[str, bool]] = []
    for dim, name in enumerate(names):
        if dim in rotations:
            columns += [(f"{name}.{entry}", True) for entry in NAMES_6D]
        elif dim not in swallowed:
            columns.append((name, False))
    return columns


def unroll_state(parts: Parts, state: NDArray[Any]) -> NDArray[np.float64]:
    """Raw states [.., Ds] with their rotations as 6D, not normalised."""
    rotations = {dims[0]: (dims, kind) for dims, kind in state_rotations(parts)}
    swallowed = {dim for dims, _ in rotations.values() for dim in dims}
    columns = [np.empty((*state.shape[:-1], 0), np.float64)]
    for dim in range(state.shape[-1]):
        if dim in rotations:
            dims, kind = rotations[dim]
            columns.append(matrix_to_rotation_6d(to_matrix(kind, state[..., list(dims)])))
        elif dim not in swallowed:
            columns.append(state[..., dim : dim + 1].astype(np.float64))
    return np.concatenate(columns, axis=-1)


def split(parts: Parts, numbers: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Part -> its numbers, of encoded chunks [.., H, Da']."""
    edges = np.cumsum([part.width for part in parts])[:-1]
    return dict(zip((part.name for part in parts), np.split(numbers, edges, axis=-1), strict=True))
