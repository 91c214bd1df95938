"""Rotations of robots as matrices, and back: quaternions, roll-pitch-yaw, axis-angle, and 6D for networks.

All functions take float arrays over any leading axes and answer in float64; angles are radians. A rotation that is none (NaN, a
quaternion of length zero) becomes a matrix of NaN, so that what is masked later needs no care here.

6D (Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", CVPR 2019) is here the first two ROWS of
the matrix, [r11 r12 r13 r21 r22 r23], as in pytorch3d and Isaac-GR00T. The paper itself writes the first two columns, which is
the 6D of the transposed matrix: numbers from such code are converted by transposing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as ScipyRotation

from corpora.episodes.parts import ROTATION_WIDTH, RotationKind

QuaternionOrder = Literal["xyzw", "wxyz"]
Floats = NDArray[np.float64]

_TINY = 1e-12
_PARALLEL = 1e-8
"""Two rows whose angle is below this (radians) span no plane."""


def quaternion_to_matrix(quaternion: NDArray[Any], order: QuaternionOrder) -> Floats:
    """[..., 4], of any length but 0, to [..., 3, 3]. `order` says where the real part w stands."""
    values = np.asarray(quaternion, np.float64)
    if order == "wxyz":
        values = np.roll(values, -1, axis=-1)
    usable = np.linalg.norm(values, axis=-1) > _TINY
    return _by_scipy(np.where(usable[..., None], values, np.nan), ScipyRotation.from_quat)


def matrix_to_quaternion(matrix: NDArray[Any], order: QuaternionOrder) -> Floats:
    """[..., 3, 3] to [..., 4] of length 1. Of q and -q, which are the same rotation, the one with w >= 0."""
    values = _from_scipy(matrix, 4, ScipyRotation.as_quat)
    values = np.where(values[..., 3:] < 0, -values, values)
    return np.roll(values, 1, axis=-1) if order == "wxyz" else values


def euler_to_matrix(angles: NDArray[Any]) -> Floats:
    """Roll, pitch, yaw [..., 3] to R = Rz(yaw) Ry(pitch) Rx(roll) [..., 3, 3]; URDF's rpy and scipy's "xyz"."""
    return _by_scipy(np.asarray(angles, np.float64), lambda rows: ScipyRotation.from_euler("xyz", rows))


def matrix_to_euler(matrix: NDArray[Any]) -> Floats:
    """[..., 3, 3] to roll and yaw in (-pi, pi] and pitch in [-pi/2, pi/2]; where pitch is +-pi/2, yaw is 0 (gimbal lock)."""
    m = np.asarray(matrix, np.float64)
    level = np.hypot(m[..., 0, 0], m[..., 1, 0])
    locked = level < 1e-7
    pitch = np.arctan2(-m[..., 2, 0], level)
    roll = np.where(locked, np.arctan2(-m[..., 1, 2], m[..., 1, 1]), np.arctan2(m[..., 2, 1], m[..., 2, 2]))
    yaw = np.where(locked, 0.0 * pitch, np.arctan2(m[..., 1, 0], m[..., 0, 0]))
    return np.stack([roll, pitch, yaw], axis=-1)


def axis_angle_to_matrix(vector: NDArray[Any]) -> Floats:
    """[..., 3], whose direction is the axis and whose length is the angle, to [..., 3, 3]."""
    return _by_scipy(np.asarray(vector, np.float64), ScipyRotation.from_rotvec)


def matrix_to_axis_angle(matrix: NDArray[Any]) -> Floats:
    """[..., 3, 3] to [..., 3] with an angle in [0, pi]."""
    return _from_scipy(matrix, 3, ScipyRotation.as_rotvec)


def matrix_to_rotation_6d(matrix: NDArray[Any]) -> Floats:
    """[..., 3, 3] to its first two rows, [..., 6]."""
    m = np.asarray(matrix, np.float64)
    return m[..., :2, :].reshape(*m.shape[:-2], 6)


def rotation_6d_to_matrix(six: NDArray[Any]) -> Floats:
    """Any six numbers [..., 6] to a rotation [..., 3, 3], by Gram-Schmidt (Zhou et al., section B, for rows).

    The first row keeps its direction, the second only what is perpendicular to it. Where a row is zero, or both are parallel,
    an arbitrary but fixed direction takes its place: whatever a network says, the answer is a rotation.
    """
    values = np.asarray(six, np.float64)
    first, second = values[..., :3], values[..., 3:]
    length = np.linalg.norm(first, axis=-1, keepdims=True)
    row1 = np.where(length > _TINY, first / np.maximum(length, _TINY), np.eye(3)[0])
    row1 = np.where(np.isnan(length), np.nan, row1)
    flat = second - (row1 * second).sum(-1, keepdims=True) * row1
    limit = np.maximum(_PARALLEL * np.linalg.norm(second, axis=-1, keepdims=True), _TINY)
    spare = np.eye(3)[np.abs(row1).argmin(-1)]  # the axis that is least parallel to the first row
    spare = spare - (row1 * spare).sum(-1, keepdims=True) * row1
    flat = np.where(np.linalg.norm(flat, axis=-1, keepdims=True) > limit, flat, spare + 0.0 * second)
    flat = flat / np.linalg.norm(flat, axis=-1, keepdims=True)
    # once more: where the rows were nearly parallel, the first pass leaves rounding that division has made large
    flat = flat - (row1 * flat).sum(-1, keepdims=True) * row1
    row2 = flat / np.linalg.norm(flat, axis=-1, keepdims=True)
    return np.stack([row1, row2, np.cross(row1, row2)], axis=-2)


def relative_rotation(reference: NDArray[Any], rotation: NDArray[Any]) -> Floats:
    """R_reference^T R_rotation [..., 3, 3]: the rotation as seen from the reference's own axes."""
    return np.swapaxes(np.asarray(reference, np.float64), -1, -2) @ np.asarray(rotation, np.float64)


def _nearest_quaternion(values: Floats, reference: Floats) -> Floats:
    return np.where((values * reference).sum(-1, keepdims=True) < 0, -values, values)


def _nearest_euler(values: Floats, reference: Floats) -> Floats:
    twin = np.stack([values[..., 0] + np.pi, np.pi - values[..., 1], values[..., 2] + np.pi], axis=-1)
    here, there = (form + 2 * np.pi * np.round((reference - form) / (2 * np.pi)) for form in (values, twin))
    nearer = np.linalg.norm(there - reference, axis=-1) < np.linalg.norm(here - reference, axis=-1) - 1e-9
    return np.where(nearer[..., None], there, here)


def _nearest_axis_angle(values: Floats, reference: Floats) -> Floats:
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    far = np.linalg.norm(reference, axis=-1, keepdims=True)
    # the identity has no axis of its own: any will do, so the reference's
    axis = np.where(length > _TINY, values / np.maximum(length, _TINY), reference / np.maximum(far, _TINY))
    turns = np.round(((reference - values) * axis).sum(-1, keepdims=True) / (2 * np.pi))
    return values + 2 * np.pi * turns * axis


@dataclass(frozen=True)
class _Form:
    """A way to write a rotation."""

    to_matrix: Callable[[NDArray[Any]], Floats]
    from_matrix: Callable[[NDArray[Any]], Floats]
    nearest: Callable[[Floats, Floats], Floats]
    """See `nearest_form`."""


def _quaternion(order: QuaternionOrder) -> _Form:
    to, back = partial(quaternion_to_matrix, order=order), partial(matrix_to_quaternion, order=order)
    return _Form(to, back, _nearest_quaternion)


_FORMS: dict[str, _Form] = {
    "quaternion_xyzw": _quaternion("xyzw"),
    "quaternion_wxyz": _quaternion("wxyz"),
    "euler_xyz": _Form(euler_to_matrix, matrix_to_euler, _nearest_euler),
    "axis_angle": _Form(axis_angle_to_matrix, matrix_to_axis_angle, _nearest_axis_angle),
    "rotation_6d": _Form(rotation_6d_to_matrix, matrix_to_rotation_6d, lambda values, reference: values),
}


def to_matrix(kind: RotationKind, values: NDArray[Any]) -> Floats:
    """[..., ROTATION_WIDTH[kind]] to [..., 3, 3]. Raises ValueError for a kind that is no rotation, or another width."""
    form, width = _form(kind), ROTATION_WIDTH[kind]
    if values.shape[-1:] != (width,):
        raise ValueError(f"rotation '{kind}' of shape {list(values.shape)}: its last axis must be {width}")
    return form.to_matrix(values)


def from_matrix(kind: RotationKind, matrix: NDArray[Any]) -> Floats:
    """[..., 3, 3] to [..., ROTATION_WIDTH[kind]], in the form that each function above names."""
    return _form(kind).from_matrix(matrix)


def nearest_form(kind: RotationKind, values: NDArray[Any], reference: NDArray[Any]) -> Floats:
    """The numbers nearest to `reference` [..., ROTATION_WIDTH[kind]] that are the same rotation as `values`, of the same shape.

    Quaternions change sign, angles turn by 2 pi, roll-pitch-yaw also by its twin (roll + pi, pi - pitch, yaw + pi). So a command
    next to a state of 3.1 rad reads 3.2 and not -3.08, and no controller that interpolates goes the long way round. Where the
    reference is NaN, `values` stay.
    """
    v, ref = np.broadcast_arrays(np.asarray(values, np.float64), np.asarray(reference, np.float64))
    return np.where(np.isfinite(ref).all(-1, keepdims=True), _form(kind).nearest(v, ref), v)


def _form(kind: str) -> _Form:
    if kind not in _FORMS:
        raise ValueError(f"rotation '{kind}' has no matrix: choose one of {', '.join(_FORMS)}")
    return _FORMS[kind]


def _by_scipy(values: Floats, build: Callable[[Floats], ScipyRotation]) -> Floats:
    """Rows that hold NaN are kept from scipy, which refuses some of them."""
    rows = values.reshape(-1, values.shape[-1])
    usable = np.isfinite(rows).all(-1)
    result = np.full((len(rows), 3, 3), np.nan)
    if usable.any():
        result[usable] = build(rows[usable]).as_matrix()
    return result.reshape(*values.shape[:-1], 3, 3)


def _from_scipy(matrix: NDArray[Any], width: int, read: Callable[[ScipyRotation], Floats]) -> Floats:
    matrices = np.asarray(matrix, np.float64)
    flat = matrices.reshape(-1, 3, 3)
    usable = np.isfinite(flat).all((-2, -1))
    result = np.full((len(flat), width), np.nan)
    if usable.any():
        result[usable] = read(ScipyRotation.from_matrix(flat[usable]))
    return result.reshape(*matrices.shape[:-2], width)
