"""A toy arm whose end effector goes, turns and opens as a person's hand did: the same way through two spaces, seen as the toy world's
block."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.spatial.transform import Rotation

from corpora.agent.track_file import TrackFile
from tests.builders.datasets import store_v2
from tests.builders.toy_world import CAMERA, FPS, SIZE, world

HAND = ("x", "y", "z", "qx", "qy", "qz", "qw")
PARTS = """
[[action_parts]]
name = "place"
dims = "0:3"
state_dims = "0:3"
representation = "{representation}"
{frame}
per_step = true
normalisation = "min_max"

[[action_parts]]
name = "wrist"
dims = "3:7"
state_dims = "3:7"
representation = "relative"
rotation = "quaternion_xyzw"
per_step = true
normalisation = "min_max"

[[action_parts]]
name = "gripper"
dims = [7]
"""
"""GR00T N1.7's end effector: state and action hold its place, its rotation and a gripper."""
ELSEWHERE = Rotation.from_rotvec([0.3, -0.5, 1.1])
"""How the space of the hand's tracks is turned."""


def way(seed: int, count: int) -> tuple[np.ndarray, Rotation, np.ndarray]:
    """Places [count + 1, 3], metres, rotations, and openings [count + 1] from 0 to 1."""
    rng, t = np.random.default_rng(seed), np.arange(count + 1) / FPS
    phase = rng.uniform(0, 6, 7)
    places = 0.2 * np.stack([np.sin((1 + 0.3 * k) * t + phase[k]) for k in range(3)], 1)
    turns = Rotation.from_rotvec(np.stack([0.8 * np.sin((0.7 + 0.4 * k) * t + phase[3 + k]) for k in range(3)], 1))
    return places, turns, 0.5 + 0.5 * np.sin(2 * t + phase[6])


def arm_robot(root: Path, seeds: Sequence[int], count: int) -> Path:
    """LeRobot v2.1; the action is where the end effector is a step later."""
    names = [*HAND, "gripper"]
    info = {
        "codebase_version": "v2.1",
        "fps": FPS,
        "robot_type": "arm",
        "chunks_size": 1000,
        "features": {
            CAMERA: {"dtype": "video", "shape": [SIZE, SIZE, 3]},
            "observation.state": {"dtype": "float32", "shape": [8], "names": names},
            "action": {"dtype": "float32", "shape": [8], "names": names},
        },
    }
    episodes = []
    for episode, seed in enumerate(seeds):
        places, turns, open_ = way(seed, count)
        hand = np.column_stack([places, turns.as_quat(), open_]).astype(np.float32)
        columns = {
            "timestamp": pa.array(np.arange(count) / FPS, pa.float32()),
            "episode_index": [episode] * count,
            "task_index": [0] * count,
            "observation.state": hand[:-1].tolist(),
            "action": hand[1:].tolist(),
        }
        episodes.append(("push", pa.table(columns), {CAMERA: list(world(seed, count)[0])}))
    store_v2(root, info, episodes, fps=FPS, options={"crf": "8"})
    (root / "meta" / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "push"}) + "\n")
    return root


def hand_file(
    path: Path, seed: int, count: int, first_s: float, unseen: Sequence[int] = (), known: Sequence[str] = ()
) -> None:
    """The same way by a person's hand, in a space that lies elsewhere; openings in centimetres. Of what may be left out it has
    the `known`; in the frames `unseen` nothing of it."""
    places, turns, open_ = way(seed, count)
    arrays = {
        "position_m": ELSEWHERE.apply(places[:count]) + np.array([1.0, 2.0, -3.0]),
        "turn_xyzw": (ELSEWHERE * turns[:count]).as_quat(),
        "opening": 2 + 6 * open_[:count],
    }
    for values in arrays.values():
        values[list(unseen)] = np.nan
    told = {name: arrays[name].astype(np.float32) for name in known}
    mask = np.ones((count, SIZE, SIZE), bool)
    TrackFile(first_s + np.arange(count) / FPS, mask, np.ones((count, 2), np.float32), told).write(path)
