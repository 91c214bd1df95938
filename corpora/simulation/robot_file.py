"""A robot's model, its joints in a dataset's state, and the camera that saw it, as a TOML file: what tells where the robot is in
each image (corpora/simulation/kinematics.py).

    model = "panda.xml"                 # MJCF or URDF, beside this file
    joints = ["joint1", "joint2"]       # of the model: one for each dimension of `state`, in its order
    state = ["observation.state", ...]  # parts, columns or dimensions ("0:7") of the dataset's state; left out: all
    unit = "rad"                        # or "deg"; of hinges. Slides are in metres
    tool = "grip"                       # site, or body, between the fingers
    bodies = ["link0", "hand"]          # what of the model is the robot; left out: all that hangs on a joint

    [camera]
    name = "observation.images.head"    # of the dataset; the last part is enough
    width = 640
    height = 480
    fx = 610.0                          # pixels of width x height, as OpenCV has them: centres at whole numbers
    fy = 610.0
    cx = 319.5
    cy = 239.5
    body = "hand"                       # what it is mounted on; left out: the model's world
    pose = [[1, 0, 0, 0.4], [0, -1, 0, 0.0], [0, 0, -1, 1.2]]   # camera (right, down, forward) to that body, metres: [3, 4]
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from corpora.store.decode import decode


@dataclass(frozen=True)
class CameraCalibration:
    """A pinhole camera, see the module."""

    name: str
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    pose: tuple[tuple[float, ...], ...]
    body: str = "world"

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1 or min(self.fx, self.fy) <= 0:
            raise ValueError(f"camera {self.name}: width, height, fx and fy must be above 0")
        found = np.array(self.pose, float) if len({len(row) for row in self.pose}) == 1 else np.zeros(0)
        if found.shape != (3, 4) or not np.isfinite(found).all():
            raise ValueError(f"camera {self.name}: pose must be 3 rows of 4 numbers, [rotation | position]")
        turn = found[:, :3]
        if np.abs(turn @ turn.T - np.eye(3)).max() > 0.01 or np.linalg.det(turn) < 0:
            raise ValueError(
                f"camera {self.name}: the first three columns of pose are no rotation; they are the camera's right, down and "
                "forward, seen from the body"
            )


@dataclass(frozen=True)
class RobotFile:
    """What the file says."""

    model: Path
    joints: tuple[str, ...]
    tool: str
    camera: CameraCalibration
    state: tuple[str, ...] = ()
    unit: Literal["rad", "deg"] = "rad"
    bodies: tuple[str, ...] = ()

    @staticmethod
    def read(path: Path) -> RobotFile:
        """Raises ValueError, naming the file, where it cannot be read, lacks something or has something of another kind."""
        try:
            values: dict[str, Any] = tomllib.loads(path.expanduser().read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"--robot '{path}': {error}") from error
        if isinstance(values.get("model"), str):
            values["model"] = str(path.expanduser().parent / values["model"])
        remedy = "corpora/simulation/robot_file.py shows such a file"
        return decode(RobotFile, values, what=f"--robot '{path}'", remedy=remedy)
