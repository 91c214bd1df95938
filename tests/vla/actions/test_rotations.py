"""Rotations: against scipy, round trips (near pi and in gimbal lock too), 6D of rows, and the nearest of equal forms."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as ScipyRotation

from corpora.episodes.parts import NAMES_6D, ROTATION_WIDTH, RotationKind
from tests.builders.actions import rotation_angle
from vla.actions.rotations import (
    axis_angle_to_matrix,
    euler_to_matrix,
    from_matrix,
    matrix_to_axis_angle,
    matrix_to_euler,
    matrix_to_quaternion,
    matrix_to_rotation_6d,
    nearest_form,
    quaternion_to_matrix,
    relative_rotation,
    rotation_6d_to_matrix,
    to_matrix,
)

KINDS: list[RotationKind] = ["quaternion_xyzw", "quaternion_wxyz", "euler_xyz", "axis_angle"]


def matrices(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return ScipyRotation.random(int(np.prod(shape)), rng=seed).as_matrix().reshape(*shape, 3, 3)


def is_rotation(matrix: NDArray[np.float64]) -> bool:
    square = matrix @ np.swapaxes(matrix, -1, -2)
    return bool(np.allclose(square, np.eye(3), atol=1e-9) and np.allclose(np.linalg.det(matrix), 1))


def near_pi(count: int, gap: float) -> NDArray[np.float64]:
    axis = np.random.default_rng(1).normal(size=(count, 3))
    return axis / np.linalg.norm(axis, axis=-1, keepdims=True) * (np.pi - gap)


@pytest.mark.parametrize("kind", [*KINDS, "rotation_6d"])
def test_every_kind_comes_back_over_any_leading_axes(kind: RotationKind) -> None:
    given = matrices(4, 5, 3)
    values = from_matrix(kind, given)
    assert values.shape == (4, 5, 3, ROTATION_WIDTH[kind])
    np.testing.assert_allclose(to_matrix(kind, values), given, atol=1e-12)
    np.testing.assert_allclose(from_matrix(kind, to_matrix(kind, values)), values, atol=1e-9)


def test_each_kind_is_what_scipy_calls_it() -> None:
    given = matrices(200)
    scipy = ScipyRotation.from_matrix(given)
    quaternion = scipy.as_quat(canonical=True)
    np.testing.assert_allclose(matrix_to_quaternion(given, "xyzw"), quaternion, atol=1e-12)
    np.testing.assert_allclose(matrix_to_quaternion(given, "wxyz"), quaternion[:, [3, 0, 1, 2]], atol=1e-12)
    np.testing.assert_allclose(matrix_to_euler(given), scipy.as_euler("xyz"), atol=1e-9)
    np.testing.assert_allclose(matrix_to_axis_angle(given), scipy.as_rotvec(), atol=1e-12)
    np.testing.assert_allclose(quaternion_to_matrix(quaternion, "xyzw"), given, atol=1e-12)
    np.testing.assert_allclose(quaternion_to_matrix(-3 * quaternion[:, [3, 0, 1, 2]], "wxyz"), given, atol=1e-12)
    np.testing.assert_allclose(euler_to_matrix(scipy.as_euler("xyz")), given, atol=1e-12)
    np.testing.assert_allclose(axis_angle_to_matrix(scipy.as_rotvec()), given, atol=1e-12)


def test_roll_pitch_yaw_turns_about_the_fixed_axes_in_that_order() -> None:
    def about(axis: int, angle: float) -> NDArray[np.float64]:
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[j, i], turn[i, j] = np.sin(angle), -np.sin(angle)
        return turn

    roll, pitch, yaw = 0.3, -0.7, 2.0
    by_hand = about(2, yaw) @ about(1, pitch) @ about(0, roll)
    np.testing.assert_allclose(euler_to_matrix(np.array([roll, pitch, yaw])), by_hand, atol=1e-15)


@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("kind", KINDS)
def test_half_turns_come_back(kind: RotationKind, gap: float) -> None:
    given = axis_angle_to_matrix(near_pi(50, gap))
    back = to_matrix(kind, from_matrix(kind, given))
    assert rotation_angle(back, given).max() < 1e-7
    if kind == "axis_angle":
        assert np.linalg.norm(from_matrix(kind, given), axis=-1).max() <= np.pi + 1e-12


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2, np.pi / 2 - 1e-9, -np.pi / 2 + 1e-5])
def test_gimbal_lock_loses_the_angles_but_not_the_rotation(pitch: float) -> None:
    turns = np.random.default_rng(0).uniform(-3, 3, size=(50, 2))
    given = euler_to_matrix(np.stack([turns[:, 0], np.full(50, pitch), turns[:, 1]], -1))
    assert rotation_angle(euler_to_matrix(matrix_to_euler(given)), given).max() < 1e-6


def test_6d_is_the_first_two_rows() -> None:
    given = matrices(1)[0]
    by_name = {f"r{i + 1}{j + 1}": given[i, j] for i in range(3) for j in range(3)}
    assert matrix_to_rotation_6d(given).tolist() == [by_name[name] for name in NAMES_6D]
    many = matrices(6, 7)
    np.testing.assert_allclose(rotation_6d_to_matrix(matrix_to_rotation_6d(many)), many, atol=1e-12)


def test_6d_that_is_no_rotation_is_made_one_by_gram_schmidt() -> None:
    six = np.random.default_rng(0).normal(scale=3, size=(300, 6))
    made = rotation_6d_to_matrix(six)
    assert is_rotation(made)
    for row, matrix in zip(six, made, strict=True):  # Zhou et al., section B, one at a time
        b1 = row[:3] / np.linalg.norm(row[:3])
        b2 = row[3:] - np.dot(b1, row[3:]) * b1
        b2 /= np.linalg.norm(b2)
        np.testing.assert_allclose(matrix, np.stack([b1, b2, np.cross(b1, b2)]), atol=1e-12)
    np.testing.assert_allclose(rotation_6d_to_matrix(six * 5), made, atol=1e-12)


@pytest.mark.parametrize(
    "six",
    [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [1, 2, 3, 0, 0, 0],
        [1, 2, 3, 2, 4, 6],
        [1, 2, 3, -1, -2, -3],
        [1, 2, 3, 1, 2, 3 + 1e-7],
        [1e-20, 0, 0, 0, 1, 0],
        [1e8, 0, 0, 1e8, 1, 0],
    ],
)
def test_6d_of_nothing_still_makes_a_rotation(six: list[float]) -> None:
    assert is_rotation(rotation_6d_to_matrix(np.array(six, np.float64)))


def test_the_relative_rotation_is_seen_from_the_reference() -> None:
    reference, own = matrices(20, seed=1), matrices(20, seed=2)
    given = reference @ own
    np.testing.assert_allclose(relative_rotation(reference, given), own, atol=1e-12)
    slow = [
        (ScipyRotation.from_matrix(a).inv() * ScipyRotation.from_matrix(b)).as_matrix()
        for a, b in zip(reference, given, strict=True)
    ]
    np.testing.assert_allclose(relative_rotation(reference, given), slow, atol=1e-12)


def test_the_angle_between_rotations() -> None:
    one = matrices(100, seed=1)
    vector = near_pi(100, 0) / np.pi * np.linspace(1e-9, np.pi, 100)[:, None]
    angle = rotation_angle(one, one @ axis_angle_to_matrix(vector))
    np.testing.assert_allclose(angle, np.linspace(1e-9, np.pi, 100), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_form_is_the_same_rotation_and_never_farther(kind: RotationKind) -> None:
    rng = np.random.default_rng(0)
    values = from_matrix(kind, matrices(500))
    reference = rng.normal(scale=4, size=values.shape)
    near = nearest_form(kind, values, reference)
    assert rotation_angle(to_matrix(kind, near), to_matrix(kind, values)).max() < 1e-7
    before, after = (np.linalg.norm(form - reference, axis=-1) for form in (values, near))
    assert (after <= before + 1e-9).all()
    assert (after < before - 0.1).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_form_that_is_not_the_canonical_one_is_found_again(kind: RotationKind) -> None:
    """Unwrapped angles, an angle above pi, q and not -q: next to them, the very same numbers come back."""
    rng = np.random.default_rng(0)
    if kind == "euler_xyz":
        given = rng.uniform(-7, 7, size=(300, 3))
    elif kind == "axis_angle":
        given = near_pi(300, 0) / np.pi * rng.uniform(0.5, 9, size=(300, 1))
    else:
        given = rng.normal(size=(300, 4))
        given /= np.linalg.norm(given, axis=-1, keepdims=True)
    canonical = from_matrix(kind, to_matrix(kind, given))
    assert np.abs(canonical - given).max() > 1
    np.testing.assert_allclose(nearest_form(kind, canonical, given + 0.001), given, atol=1e-6)


def test_the_identity_beside_a_full_turn_is_that_full_turn() -> None:
    turn = np.array([0.0, 2 * np.pi, 0.0])
    np.testing.assert_allclose(nearest_form("axis_angle", np.zeros(3), turn), turn)
    np.testing.assert_allclose(nearest_form("axis_angle", np.zeros(3), np.zeros(3)), np.zeros(3))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_rotation_is_nan_and_harms_no_other(kind: RotationKind) -> None:
    good = from_matrix(kind, matrices(3))
    rows = good.copy()
    rows[1] = np.nan
    made = to_matrix(kind, rows)
    assert np.isnan(made[1]).all()
    np.testing.assert_array_equal(made[[0, 2]], to_matrix(kind, good)[[0, 2]])
    back = from_matrix(kind, made)
    assert np.isnan(back[1]).all()
    np.testing.assert_allclose(back[[0, 2]], good[[0, 2]], atol=1e-9)
    np.testing.assert_array_equal(nearest_form(kind, good, np.full_like(good, np.nan)), good)
    six = matrix_to_rotation_6d(made)
    again = rotation_6d_to_matrix(six)
    assert np.isnan(again[1]).all()
    np.testing.assert_allclose(again[[0, 2]], made[[0, 2]], atol=1e-12)


def test_a_quaternion_of_length_zero_is_nan() -> None:
    assert np.isnan(quaternion_to_matrix(np.zeros(4), "xyzw")).all()


def test_wrong_kinds_and_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="rotation 'euler_zyx' has no matrix: choose one of quaternion_xyzw,"):
        to_matrix("euler_zyx", np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rotation 'none' has no matrix"):
        from_matrix("none", np.eye(3))
    with pytest.raises(ValueError, match=r"rotation 'axis_angle' of shape \[2, 4\]: its last axis must be 3"):
        to_matrix("axis_angle", np.zeros((2, 4)))
