"""Action codecs: exact round trips, and representations and statistics against slow references."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as ScipyRotation

from corpora.episodes.parts import Normalisation, Representation, RotationKind
from tests.builders.actions import (
    NORMALISATIONS,
    REPRESENTATIONS,
    ROTATIONS,
    H,
    fitted,
    hand_data,
    hand_parts,
    numbers,
    same_chunks,
    simple,
)
from vla.actions.chunks import represent
from vla.actions.layout import Parts, named, one_part
from vla.actions.rotations import from_matrix, to_matrix
from vla.actions.space import ActionSpace


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(("representation", "normalisation"), list(itertools.product(REPRESENTATIONS, NORMALISATIONS)))
def test_numbers_come_back(representation: Representation, normalisation: Normalisation, per_step: bool) -> None:
    space = simple(numbers(5, 5), representation, normalisation, per_step=per_step)
    _, _, (start, chunk, _) = numbers(5, 5, seed=9)
    encoded = space.encode_action(start, chunk)
    assert encoded.shape == (80, H, 5)
    assert encoded.dtype == np.float32
    decoded = space.decode_action(start, encoded)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, chunk, atol=1e-5)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(("kind", "representation"), list(itertools.product(ROTATIONS, REPRESENTATIONS)))
def test_hands_come_back(kind: RotationKind, representation: Representation, per_step: bool) -> None:
    parts = hand_parts(kind, representation, per_step=per_step)
    space = fitted(hand_data(parts), parts)
    _, _, (start, chunk, _) = hand_data(parts, seed=9)
    encoded = space.encode_action(start, chunk)
    assert encoded.shape == (80, H, space.encoded_action_dim)
    assert space.encoded_action_dim == 3 + 6 + 1
    same_chunks(parts, space.decode_action(start, encoded), chunk)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_state_and_action_may_write_a_rotation_differently(representation: Representation) -> None:
    parts = hand_parts("axis_angle", representation, state_kind="quaternion_wxyz")
    space = fitted(hand_data(parts), parts)
    _, _, (start, chunk, _) = hand_data(parts, seed=9)
    same_chunks(parts, space.decode_action(start, space.encode_action(start, chunk)), chunk)
    assert space.encoded_state_dim == 4 + 6


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("kind", ROTATIONS)
def test_small_motions_come_back_number_by_number(kind: RotationKind, representation: Representation) -> None:
    """A chunk that goes on from the state keeps its form, here across pi and with the sign that canonical forms do not have."""
    parts = hand_parts(kind, representation)
    space = fitted(hand_data(parts), parts)
    wrist = named(parts, "wrist")
    if kind == "euler_xyz":
        begin = np.array([3.1, 0.2, -3.12])
    elif kind == "axis_angle":
        begin = np.array([0.1, 3.1, -0.2])
    else:
        begin = -np.abs(np.array([0.5, 0.5, 0.5, 0.5]))
    path = begin + 0.06 * np.arange(H)[:, None] * np.array([1, 0.2, -1, 0.1])[: len(begin)]
    if kind.startswith("quaternion"):
        path /= np.linalg.norm(path, axis=-1, keepdims=True)
    _, _, (start, chunk, _) = hand_data(parts, seed=9)
    assert wrist.state_dims is not None
    start[:, list(wrist.state_dims)] = begin
    chunk[..., list(wrist.dims)] = path
    canonical = from_matrix(kind, to_matrix(kind, path))
    assert np.abs(canonical - path).max() > 0.9
    np.testing.assert_allclose(space.decode_action(start, space.encode_action(start, chunk)), chunk, atol=2e-5)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("kind", ROTATIONS)
def test_a_wrist_that_turns_on_and_on_is_not_unwound(kind: RotationKind, representation: Representation) -> None:
    """A full turn and more within a chunk, in steps of 1.2 rad: each step goes on from the one before, not from the state."""
    parts = hand_parts(kind, representation)
    space = fitted(hand_data(parts), parts)
    wrist = named(parts, "wrist")
    angle = 1.0 + 1.2 * np.arange(H + 1)
    if kind.startswith("quaternion"):
        half = np.stack([np.cos(angle / 2), 0 * angle, 0 * angle, np.sin(angle / 2)], -1)
        path = half if kind == "quaternion_wxyz" else half[:, [1, 2, 3, 0]]
    else:
        path = angle[:, None] * np.array([0, 0, 1])
    _, _, (start, chunk, _) = hand_data(parts, seed=9)
    assert wrist.state_dims is not None
    start[:, list(wrist.state_dims)], chunk[..., list(wrist.dims)] = path[0], path[1:]
    np.testing.assert_allclose(space.decode_action(start, space.encode_action(start, chunk)), chunk, atol=2e-5)


def test_what_the_numbers_mean() -> None:
    """By hand: one joint at 1, commanded to 2, 4, 4."""
    chunk = np.array([[[2.0], [4.0], [4.0]]])
    start = np.array([[1.0]])
    for representation, expected in (("absolute", [2, 4, 4]), ("relative", [1, 3, 3]), ("delta", [1, 2, 0])):
        parts = one_part(1, 1, representation, "none")  # type: ignore[arg-type]
        space = ActionSpace.fit(start, chunk, parts=parts, state_normalisation="none")
        assert space.encode_action(start, chunk)[0, :, 0].tolist() == expected


def slow_representation(
    parts: Parts, name: str, start: NDArray[np.float32], chunk: NDArray[np.float32]
) -> NDArray[np.float64]:
    """One part, one chunk [H, Da], step by step with scipy's rotations."""

    def turn(kind: RotationKind, values: NDArray[np.float32]) -> ScipyRotation:
        if kind == "quaternion_wxyz":
            return ScipyRotation.from_quat(values[[1, 2, 3, 0]])
        if kind == "quaternion_xyzw":
            return ScipyRotation.from_quat(values)
        return ScipyRotation.from_euler("xyz", values) if kind == "euler_xyz" else ScipyRotation.from_rotvec(values)

    part = named(parts, name)
    rows = []
    for h in range(len(chunk)):
        own = part if part.rotation != "none" else named(parts, part.frame) if part.frame else None
        base_turn = None
        if own is not None and own.state_dims is not None:
            base_turn = turn(own.rotation_of_state, start[list(own.state_dims)])
            if part.representation == "delta" and h > 0:
                base_turn = turn(own.rotation, chunk[h - 1, list(own.dims)])
        if part.rotation != "none":
            action = turn(part.rotation, chunk[h, list(part.dims)])
            if part.representation != "absolute":
                assert base_turn is not None
                action = base_turn.inv() * action
            rows.append(action.as_matrix()[:2].reshape(6))
            continue
        value = chunk[h, list(part.dims)].astype(np.float64)
        if part.representation != "absolute":
            assert part.state_dims is not None
            before = (
                chunk[h - 1, list(part.dims)]
                if part.representation == "delta" and h > 0
                else start[list(part.state_dims)]
            )
            value = value - before
            if part.frame:
                assert base_turn is not None
                value = base_turn.inv().apply(value)
        rows.append(value)
    return np.array(rows)


@pytest.mark.parametrize(("kind", "representation"), list(itertools.product(ROTATIONS, REPRESENTATIONS)))
def test_representations_and_statistics_against_slow_loops(kind: RotationKind, representation: Representation) -> None:
    """Every part of every chunk one step at a time; then the mean and spread of every step over the chunks that reach it."""
    parts = hand_parts(kind, representation, per_step=True)
    states, actions, (start, chunk, mask) = hand_data(parts, count=25)
    space = fitted((states, actions, (start, chunk, mask)), parts)
    for name in ("place", "wrist"):
        part = named(parts, name)
        slow = np.stack([slow_representation(parts, name, s, c) for s, c in zip(start, chunk, strict=True)])
        np.testing.assert_allclose(represent(parts, part, start, chunk), slow, atol=1e-12)
        statistics = space.actions[name].statistics
        for h, d in np.ndindex(H, part.width):
            seen = [float(slow[n, h, d]) for n in range(25) if mask[n, h]]
            mean = math.fsum(seen) / len(seen)
            assert statistics.count[h, d] == len(seen)
            assert statistics.mean[h, d] == pytest.approx(mean, abs=1e-12)
            assert statistics.std[h, d] == pytest.approx(
                math.sqrt(math.fsum((x - mean) ** 2 for x in seen) / len(seen)), abs=1e-9
            )
            assert (statistics.min[h, d], statistics.max[h, d]) == pytest.approx((min(seen), max(seen)), abs=1e-12)


@pytest.mark.parametrize("representation", ["delta", "relative"])
def test_statistics_over_all_steps_against_a_slow_loop(representation: Representation) -> None:
    parts = one_part(2, 2, representation)
    states, actions, (start, chunk, mask) = numbers(2, 2)
    mask[:, 3] &= np.arange(80) % 5 > 0  # holes: the delta after one is unknown as well
    statistics = fitted((states, actions, (start, chunk, mask)), parts).actions["action"].statistics
    for d in range(2):
        seen = []
        for n in range(80):
            for h in range(H):
                if not mask[n, h] or (representation == "delta" and h > 0 and not mask[n, h - 1]):
                    continue
                before = chunk[n, h - 1, d] if representation == "delta" and h > 0 else start[n, d]
                seen.append(float(chunk[n, h, d]) - float(before))
        assert statistics.count[d] == len(seen)
        assert statistics.mean[d] == pytest.approx(sum(seen) / len(seen), abs=1e-12)
        assert (statistics.q01[d], statistics.q99[d]) == pytest.approx(
            tuple(np.quantile(seen, [0.01, 0.99])), abs=1e-12
        )


def test_absolute_statistics_are_of_frames_and_not_of_chunks() -> None:
    """Chunks overlap and repeat the ends of episodes: counted by chunk, some frames would weigh more."""
    states, actions, chunks = numbers(2, 3)
    space = simple((states, actions, chunks))
    np.testing.assert_array_equal(space.actions["action"].statistics.mean, actions.astype(np.float64).mean(0))
    np.testing.assert_array_equal(space.state.statistics.max, states.max(0))
