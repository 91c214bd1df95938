"""Made robots: parts and data of numbers and of a hand that turns."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as ScipyRotation

from corpora.episodes.parts import ROTATION_WIDTH, ActionPart, Normalisation, Representation, RotationKind
from vla.actions.layout import Parts, named, one_part
from vla.actions.rotations import from_matrix, to_matrix
from vla.actions.space import ActionSpace

H = 7
REPRESENTATIONS: list[Representation] = ["absolute", "delta", "relative"]
ROTATIONS: list[RotationKind] = ["quaternion_xyzw", "quaternion_wxyz", "euler_xyz", "axis_angle"]
NORMALISATIONS: list[Normalisation] = ["min_max", "mean_std", "q01_q99", "none"]

Data = tuple[
    NDArray[np.float32], NDArray[np.float32], tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]
]


def numbers(state_dim: int, action_dim: int, *, count: int = 80, seed: int = 0) -> Data:
    """Random states and actions, and chunks whose ends are unknown now and then."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(3 * count, state_dim)).astype(np.float32)
    actions = rng.normal(size=(3 * count, action_dim)).astype(np.float32)
    start = rng.normal(size=(count, state_dim)).astype(np.float32)
    chunk = rng.normal(size=(count, H, action_dim)).astype(np.float32)
    mask = np.arange(H) < rng.integers(2, 2 * H, size=count)[:, None]
    return states, actions, (start, chunk, mask)


def hand_parts(
    kind: RotationKind,
    representation: Representation,
    *,
    per_step: bool = False,
    state_kind: RotationKind | None = None,
) -> tuple[ActionPart, ...]:
    """Action: gripper, rotation, position; state: position, something, rotation. The position turns with the hand. Nothing is
    cut, so that all comes back."""
    width, state_width = ROTATION_WIDTH[kind], ROTATION_WIDTH[state_kind or kind]
    turn, place = tuple(range(1, 1 + width)), tuple(range(1 + width, 4 + width))
    framed = "" if representation == "absolute" else "wrist"
    return (
        ActionPart("place", place, (0, 1, 2), representation, frame=framed, per_step=per_step, clip=0),
        ActionPart(
            "wrist", turn, tuple(range(4, 4 + state_width)), representation, kind, state_kind, per_step=per_step,
            normalisation="mean_std", clip=0,
        ),
        ActionPart("gripper", (0,), normalisation="min_max", clip=0),
    )  # fmt: skip


def hand_data(parts: Parts, *, count: int = 80, seed: int = 0) -> Data:
    """As `numbers`, but where a rotation is, any rotation stands in its canonical form."""
    wrist = named(parts, "wrist")
    state_dim, action_dim = max(wrist.state_dims or ()) + 1, sum(len(part.dims) for part in parts)
    states, actions, (start, chunk, mask) = numbers(state_dim, action_dim, count=count, seed=seed)
    for i, (array, dims, kind) in enumerate(
        (
            (states, wrist.state_dims, wrist.rotation_of_state),
            (actions, wrist.dims, wrist.rotation),
            (start, wrist.state_dims, wrist.rotation_of_state),
            (chunk, wrist.dims, wrist.rotation),
        )
    ):
        assert dims is not None
        size = int(np.prod(array.shape[:-1]))
        turns = ScipyRotation.random(size, rng=seed + i).as_matrix().reshape(*array.shape[:-1], 3, 3)
        array[..., list(dims)] = from_matrix(kind, turns)
    return states, actions, (start, chunk, mask)


def same_chunks(parts: Parts, first: NDArray[np.float32], second: NDArray[np.float32], atol: float = 1e-5) -> None:
    """Numbers to `atol`; rotations as rotations, in radians."""
    for part in parts:
        a, b = first[..., list(part.dims)], second[..., list(part.dims)]
        if part.rotation == "none":
            np.testing.assert_allclose(a, b, atol=atol)
        else:
            assert rotation_angle(to_matrix(part.rotation, a), to_matrix(part.rotation, b)).max() < atol


def fitted(data: Data, parts: Parts, **options: Any) -> ActionSpace:
    """The space of `data`, absolute parts from its frames."""
    states, actions, (start, chunk, mask) = data
    return ActionSpace.fit(start, chunk, mask, parts=parts, frames=(states, actions), **options)


def simple(
    data: Data, representation: Representation = "absolute", normalisation: Normalisation = "q01_q99", **options: Any
) -> ActionSpace:
    """The same with one part, which the state is normalised like; actions are not cut."""
    per_step = options.pop("per_step", False)
    parts = one_part(data[0].shape[1], data[1].shape[1], representation, normalisation)
    parts = (dataclasses.replace(parts[0], clip=0, per_step=per_step),)
    return fitted(data, parts, state_normalisation=normalisation, **options)


def rotation_angle(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Angle in [0, pi] between two rotations [..., 3, 3], precise for small angles: |A - B|_F = 2 sqrt(2) sin(angle / 2)."""
    apart = np.linalg.norm(np.asarray(first, np.float64) - np.asarray(second, np.float64), axis=(-2, -1))
    return 2 * np.arcsin(np.minimum(apart / np.sqrt(8), 1.0))
