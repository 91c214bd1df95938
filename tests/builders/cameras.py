"""Ground truth of camera motion, and whether there is a GL library to render with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from corpora.simulation.gl import require_offscreen_gl
from corpora.simulation.head_camera import CameraPose
from corpora.video.camera import CameraMotion, TrackedFrame, measure_tracked


def offscreen_gl_available() -> bool:
    """Whether `require_offscreen_gl` would succeed."""
    try:
        require_offscreen_gl()
    except ValueError:
        return False
    return True


def measure_camera_motion(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> CameraMotion:
    """As `measure_tracked`, of two frames."""
    return measure_tracked(TrackedFrame(first), TrackedFrame(second))


def plane_homography(pose: CameraPose, first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3, 3] in image coordinates [-1, 1] (x right, y down): where points of Meta-World's table top (z = 0) move in the image, from
    camera motion `first` [6] to camera motion `second` [6].
    """
    position_1, rotation_1 = pose.moved(first)
    position_2, rotation_2 = pose.moved(second)
    turn = rotation_2.T @ rotation_1
    shift = rotation_2.T @ (position_1 - position_2)
    plane = rotation_1.T @ np.array((0.0, 0.0, 1.0))
    distance = -float(position_1[2])
    focal = 1 / math.tan(math.radians(pose.fovy_deg) / 2)
    # From camera axes (y up, z back) to the image (y down): x = focal X / -Z, y = focal -Y / -Z.
    project = np.diag([focal, -focal, -1.0])
    h = project @ (turn + np.outer(shift, plane) / distance) @ np.linalg.inv(project)
    return h / h[2, 2]
