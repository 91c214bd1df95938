"""A head that carries the camera: smooth random paths, mostly turning with some translation, and their true geometry.

A camera motion is six numbers relative to where the still camera stands, in the still camera's own axes (x right,
y up, z towards the viewer): position x, y, z in metres, then a rotation vector in radians.

    world rotation = still rotation @ exp(rotation vector)        world position = still position + still rotation @ xyz
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

MOTION_NAMES = ("x_m", "y_m", "z_m", "rotation_x_rad", "rotation_y_rad", "rotation_z_rad")
GAP_S = 0.5
"""The amplitude is given as the image's motion over this time."""

_WAVES = 4
_BAND_HZ = (0.25, 1.2)
"""Where a head's slow turning has its energy; tremor is faster and below a pixel at these sizes."""
_SHARES = {"turn": 0.92, "translate": 0.34, "roll": 0.2}
"""How the image's motion (root mean square, in pixels) is shared out; the squares add up to one."""


@dataclass(frozen=True)
class CameraPose:
    """A pinhole camera that stands still."""

    position: tuple[float, float, float]
    """In the world, metres."""
    rotation: tuple[tuple[float, float, float], ...]
    """3 x 3, columns are the camera's x (right), y (up) and z (towards the viewer) in the world."""
    fovy_deg: float
    """Vertical field of view."""

    def moved(self, motion: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """World position [3] and rotation [3, 3] after a motion [6]."""
        rotation = np.array(self.rotation)
        return np.array(self.position) + rotation @ motion[:3], rotation @ rotation_matrix(motion[3:])


def looking_at(position: tuple[float, float, float], target: tuple[float, float, float], fovy_deg: float) -> CameraPose:
    """The upright camera at `position` that has `target` in the middle of its image."""
    forward = np.array(target) - np.array(position)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(right, forward), -forward], axis=1)
    return CameraPose(position, _rows(rotation), fovy_deg)


def head_camera_path(
    rng: np.random.Generator,
    frames: int,
    fps: float,
    amplitude_px: float,
    size: int,
    fovy_deg: float,
    distance_m: float,
) -> NDArray[np.float64]:
    """float64 [frames, 6]: band-limited random motion for a square image of `size` pixels.

    `amplitude_px`: root mean square over time of the image's motion within 0.5 s, for things `distance_m` away; 0
    stands still. Each coordinate is a sum of a few sines of random frequency and phase, its scale set in closed form.
    """
    path = np.zeros((frames, 6))
    if amplitude_px == 0:
        return path
    focal_px = size / 2 / math.tan(math.radians(fovy_deg) / 2)
    turn = amplitude_px * _SHARES["turn"] / math.sqrt(2) / focal_px
    translate = amplitude_px * _SHARES["translate"] / math.sqrt(2) * distance_m / focal_px
    # A roll moves a point in proportion to its distance from the centre, whose mean square over a square is size^2 / 6.
    roll = amplitude_px * _SHARES["roll"] / (size / math.sqrt(6))
    time_s = np.arange(frames) / fps
    for axis, scale in enumerate((translate, translate, translate, turn, turn, roll)):
        frequency = rng.uniform(*_BAND_HZ, _WAVES)
        phase = rng.uniform(0, 2 * math.pi, _WAVES)
        weight = rng.uniform(0.5, 1.0, _WAVES)
        # E over phase of (x(t + gap) - x(t))^2 = sum of weight^2 * 2 sin^2(pi f gap)
        change = math.sqrt(float((weight**2 * 2 * np.sin(math.pi * frequency * GAP_S) ** 2).sum()))
        path[:, axis] = scale / change * (weight * np.sin(2 * math.pi * frequency * time_s[:, None] + phase)).sum(1)
    return path


def rotation_matrix(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3, 3] from a rotation vector [3]."""
    return np.asarray(cv2.Rodrigues(np.asarray(vector, np.float64))[0], np.float64)


def _rows(matrix: NDArray[np.float64]) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(a), float(b), float(c)) for a, b, c in matrix)
