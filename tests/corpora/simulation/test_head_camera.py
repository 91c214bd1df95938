"""The geometry of the simulated head camera; no GL is needed."""

from __future__ import annotations

import numpy as np
import pytest

from corpora.simulation.head_camera import head_camera_path, looking_at, rotation_matrix
from corpora.simulation.metaworld import HEAD_POSE, VIEW_DISTANCE_M
from tests.builders.cameras import plane_homography


def project(pose, motion: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Pinhole projection of world points [N, 3], written out: the slow reference of `plane_homography`."""
    position, rotation = pose.moved(motion)
    out = []
    for point in points:
        x, y, z = rotation.T @ (point - position)
        focal = 1 / np.tan(np.radians(pose.fovy_deg / 2))
        out.append((focal * x / -z, -focal * y / -z))
    return np.array(out)


def test_plane_homography_moves_points_as_projection_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.normal(0, 0.08, (2, 6))
        points = np.column_stack([rng.uniform(-0.3, 0.3, 12), rng.uniform(0.5, 0.9, 12), np.zeros(12)])
        before, after = project(HEAD_POSE, first, points), project(HEAD_POSE, second, points)
        moved = np.column_stack([before, np.ones(12)]) @ plane_homography(HEAD_POSE, first, second).T
        np.testing.assert_allclose(moved[:, :2] / moved[:, 2:], after, atol=1e-9)


def test_rotation_vector_turns_by_its_length_about_itself() -> None:
    vector = np.array([0.3, -0.2, 0.5])
    matrix = rotation_matrix(vector)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(matrix @ vector, vector, atol=1e-12)
    assert np.arccos((np.trace(matrix) - 1) / 2) == pytest.approx(np.linalg.norm(vector))
    np.testing.assert_allclose(rotation_matrix(np.zeros(3)), np.eye(3))


def test_looking_at_puts_the_target_in_the_middle_with_up_up() -> None:
    pose = looking_at((0.6, 0.1, 0.7), (0.0, 0.7, 0.2), 50)
    np.testing.assert_allclose(project(pose, np.zeros(6), np.array([[0.0, 0.7, 0.2]])), 0, atol=1e-12)
    above = project(pose, np.zeros(6), np.array([[0.0, 0.7, 0.3]]))[0]
    assert above[0] == pytest.approx(0, abs=1e-12) and above[1] < 0


@pytest.mark.parametrize("amplitude", [2.0, 6.0])
def test_the_image_moves_as_many_pixels_as_asked_for(amplitude: float) -> None:
    """Root mean square over paths, times and image points of the table, within half a second."""
    size, fps = 96, 80
    table = np.array([(x, y, 0.0) for x in (-0.2, 0.0, 0.2) for y in (0.55, 0.7, 0.85)])
    squares = []
    for seed in range(24):
        path = head_camera_path(np.random.default_rng(seed), 240, fps, amplitude, size, 50, VIEW_DISTANCE_M)
        for start in range(0, 200, 20):
            moved = project(HEAD_POSE, path[start + 40], table) - project(HEAD_POSE, path[start], table)
            squares.append((moved**2).sum(1).mean() * (size / 2) ** 2)
    assert np.sqrt(np.mean(squares)) == pytest.approx(amplitude, rel=0.2)


def test_head_paths_are_band_limited_and_mostly_turning() -> None:
    path = head_camera_path(np.random.default_rng(0), 80 * 60, 80, 4, 96, 50, 1.0)
    power = (np.abs(np.fft.rfft(path * np.hanning(len(path))[:, None], axis=0)) ** 2).sum(1)
    frequency = np.fft.rfftfreq(len(path), 1 / 80)
    assert power[(frequency > 0.2) & (frequency < 1.3)].sum() > 0.99 * power.sum()
    focal_px = 48 / np.tan(np.radians(25))
    turned, shifted = focal_px * path[:, 3:5].std(0), focal_px * path[:, :2].std(0)
    assert turned.min() > 1.5 * shifted.max()
    assert not head_camera_path(np.random.default_rng(0), 10, 80, 0, 96, 50, 1.0).any()
