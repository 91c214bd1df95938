"""Action chunks as the policy sees them before normalisation: absolute, delta or relative, rotations as 6D; and back.

With s the state at the chunk's beginning and x_1 .. x_H a part of the actions, and b the base that motion is counted from:

    relative  b_h = s                         delta  b_1 = s, b_h = x_(h-1)
    numbers   d_h = x_h - b_h                 rotations  D_h = B_h^T X_h, as 6D
    position in the hand's frame  d_h = B_h^T (x_h - b_h), B the base of the rotation that the part names as its frame
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.parts import ActionPart
from vla.actions.layout import Parts, named
from vla.actions.rotations import (
    from_matrix,
    matrix_to_rotation_6d,
    nearest_form,
    relative_rotation,
    rotation_6d_to_matrix,
    to_matrix,
)

Floats = NDArray[np.float64]


def represent(parts: Parts, part: ActionPart, state: NDArray[Any] | None, chunk: NDArray[Any]) -> Floats:
    """One part of raw chunks [..., H, Da] beside states [..., Ds], as float64 [..., H, part.width], not normalised.

    `state` may be None where the part is absolute. NaN, and quaternions of length zero, become NaN.
    """
    numbers = _of(chunk, part.dims)
    if part.turns:
        matrices = to_matrix(part.rotation, numbers)
        if part.needs_state:
            matrices = relative_rotation(_rotation_bases(part, part, state, matrices), matrices)
        return matrix_to_rotation_6d(matrices)
    if not part.needs_state:
        return numbers
    motion = numbers - MOTIONS[part.representation].bases(_start(part, part, state)[..., None, :], numbers, -2)
    if not part.frame:
        return motion
    frame = named(parts, part.frame)
    turned = to_matrix(frame.rotation, _of(chunk, frame.dims))
    return _turn(np.swapaxes(_rotation_bases(part, frame, state, turned), -1, -2), motion)


def restore(parts: Parts, state: NDArray[Any] | None, represented: Mapping[str, NDArray[Any]]) -> Floats:
    """The inverse of `represent` over all parts: raw chunks, float64 [..., H, Da].

    Rotations are written in the form that is nearest to the step before (the first to the state, where it is written alike).
    """
    rotations = {part.name: _restore_rotation(part, state, represented[part.name]) for part in parts if part.turns}
    leading = next(iter(represented.values())).shape[:-1]
    chunk = np.empty((*leading, sum(len(part.dims) for part in parts)), np.float64)
    for part in parts:
        if part.turns:
            chunk[..., list(part.dims)] = _written(part, state, rotations[part.name])
            continue
        numbers = np.asarray(represented[part.name], np.float64)
        if part.frame:
            bases = _rotation_bases(part, named(parts, part.frame), state, rotations[part.frame])
            numbers = _turn(bases, numbers)
        if part.needs_state:
            numbers = MOTIONS[part.representation].moved(_start(part, part, state), numbers)
        chunk[..., list(part.dims)] = numbers
    return chunk


def represented_steps(part: ActionPart, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Steps [..., H] at which the representation is known, where `mask` [..., H] says which actions are."""
    return MOTIONS[part.representation].known(mask) if part.needs_state else mask


class Relative:
    """Motion from the state at the chunk's beginning."""

    def bases(self, start: Floats, steps: Floats, axis: int) -> Floats:
        """b_1 .. b_H of steps x_1 .. x_H along `axis`, or what broadcasts to them; `start` has one step there."""
        return start

    def moved(self, start: Floats, motion: Floats) -> Floats:
        """x_1 .. x_H [..., H, d] of motion d_1 .. d_H from `start` [..., d]."""
        return start[..., None, :] + motion

    def turned(self, start: Floats, turns: Floats) -> Floats:
        """X_1 .. X_H [..., H, 3, 3] of turns D_1 .. D_H from `start` [..., 3, 3]."""
        return start[..., None, :, :] @ turns

    def known(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Steps [..., H] at which the motion is known, where `mask` says which actions are."""
        return mask


class Delta(Relative):
    """Motion from the step before."""

    def bases(self, start: Floats, steps: Floats, axis: int) -> Floats:
        shape = list(steps.shape)
        shape[axis] = 1
        earlier = np.delete(steps, -1, axis=axis)
        return np.concatenate([np.broadcast_to(start, shape), earlier], axis=axis)

    def moved(self, start: Floats, motion: Floats) -> Floats:
        return super().moved(start, np.cumsum(motion, axis=-2))

    def turned(self, start: Floats, turns: Floats) -> Floats:
        steps = []
        for h in range(turns.shape[-3]):
            start = start @ turns[..., h, :, :]
            steps.append(start)
        return np.stack(steps, axis=-3)

    def known(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        before = np.concatenate([np.ones_like(mask[..., :1]), mask[..., :-1]], axis=-1)
        return mask & before


MOTIONS: dict[str, Relative] = {"relative": Relative(), "delta": Delta()}
"""By `ActionPart.representation`; absolute actions are no motion."""


def _of(values: NDArray[Any], dims: Sequence[int]) -> Floats:
    return values[..., list(dims)].astype(np.float64)


def _turn(rotation: Floats, vectors: Floats) -> Floats:
    return (rotation @ vectors[..., None])[..., 0]


def _start(part: ActionPart, owner: ActionPart, state: NDArray[Any] | None) -> Floats:
    """The state's numbers of `owner` (the part itself, or its frame), [..., d]."""
    if state is None or owner.state_dims is None:
        raise ValueError(f"action part '{part.name}' is {part.representation}: it needs the state, and none is given")
    return _of(state, owner.state_dims)


def _rotation_bases(part: ActionPart, owner: ActionPart, state: NDArray[Any] | None, steps: Floats) -> Floats:
    """B_1 .. B_H of the rotations [..., H, 3, 3] of `owner`, as `part` counts them."""
    start = to_matrix(owner.rotation_of_state, _start(part, owner, state))
    return MOTIONS[part.representation].bases(start[..., None, :, :], steps, -3)


def _restore_rotation(part: ActionPart, state: NDArray[Any] | None, six: NDArray[Any]) -> Floats:
    """Matrices [..., H, 3, 3] of absolute, relative or delta 6D [..., H, 6]."""
    turns = rotation_6d_to_matrix(six)
    if not part.needs_state:
        return turns
    start = to_matrix(part.rotation_of_state, _start(part, part, state))
    return MOTIONS[part.representation].turned(start, turns)


def _written(part: ActionPart, state: NDArray[Any] | None, matrices: Floats) -> Floats:
    """Matrices [..., H, 3, 3] as the robot writes rotations, [..., H, d]."""
    values = from_matrix(part.rotation, matrices)
    before = None
    if state is not None and part.state_dims is not None and part.rotation_of_state == part.rotation:
        before = _of(state, part.state_dims)
    for h in range(values.shape[-2]):
        if before is not None:
            values[..., h, :] = nearest_form(part.rotation, values[..., h, :], before)
        before = values[..., h, :]
    return values
