"""A toy world whose action is visible: a block moves over a still texture, and the action is how far it moves a step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from corpora.agent.track_file import TrackFile
from corpora.clips.manifest import ClipRow
from tests.builders.corpora import clip_members, sliding_camera, store_clips
from tests.builders.datasets import store_v2
from tests.builders.videos import textured

SIZE = 48
SIDE = 12
FPS = 10
CAMERA = "observation.images.top"
HOLD = 12
"""Steps for which the block keeps its speed."""


def world(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames uint8 [count, SIZE, SIZE, 3], positions [count, 2] and actions [count, 2], pixels a step."""
    rng = np.random.default_rng(seed)
    back = textured(SIZE, SIZE, 7)
    position, speed = rng.uniform(8, SIZE - SIDE - 8, 2), np.zeros(2)
    frames, positions = [], []
    for step in range(count + 1):
        if step % HOLD == 0:
            speed = rng.uniform(-1.5, 1.5, 2)
        image = back.copy()
        y, x = np.round(position).astype(int)
        image[y : y + SIDE, x : x + SIDE] = (240, 210, 40)
        frames.append(image)
        positions.append(position)
        position = np.clip(position + speed, 0, SIZE - SIDE)
    places = np.stack(positions)
    return np.stack(frames[:count]), places[:count].astype(np.float32), np.diff(places, axis=0).astype(np.float32)


def toy_robot(root: Path, seeds: Sequence[int], count: int = 90, gripper: bool = False) -> Path:
    """LeRobot v2.1 with an episode for each seed; a `gripper` opens and closes whatever the block does."""
    info = {
        "codebase_version": "v2.1",
        "fps": FPS,
        "robot_type": "block",
        "chunks_size": 1000,
        "features": {
            CAMERA: {"dtype": "video", "shape": [SIZE, SIZE, 3]},
            "observation.state": {"dtype": "float32", "shape": [2], "names": ["y", "x"]},
            "action": {"dtype": "float32", "shape": [2 + gripper], "names": ["dy", "dx", "gripper"][: 2 + gripper]},
        },
    }
    episodes = []
    for episode, seed in enumerate(seeds):
        frames, state, action = world(seed, count)
        if gripper:
            action = np.column_stack([action, np.sign(np.cos(np.arange(count)))]).astype(np.float32)
        columns = {
            "timestamp": pa.array(np.arange(count) / FPS, pa.float32()),
            "episode_index": [episode] * count,
            "task_index": [0] * count,
            "observation.state": state.tolist(),
            "action": action.tolist(),
        }
        episodes.append(("push", pa.table(columns), {CAMERA: list(frames)}))
    store_v2(root, info, episodes, fps=FPS, options={"crf": "8"})
    (root / "meta" / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "push"}) + "\n")
    return root


def toy_corpus(root: Path, seeds: Sequence[int], count: int = 40, truth: bool = False) -> Path:
    """An ingested corpus of the same world at the same rate, a clip for each seed, one shard for each two clips or so; with
    `truth` it knows the actions of a robot with a gripper."""

    def clip(seed: int) -> tuple[ClipRow, dict[str, bytes]]:
        frames, _, action = world(seed, count)
        row = ClipRow(
            f"{seed:016x}", f"clip{seed}.mp4", f"clip{seed}", start_s=3.0, end_s=3.0 + count / FPS, fps=FPS,
            frames=count, width=SIZE, height=SIZE, size=SIZE, embodiment="hand", kept=True,
        )  # fmt: skip
        done = {"action": np.column_stack([action, np.zeros(count)])} if truth else None
        return row, clip_members(frames, 3.0 + np.arange(count) / FPS, sliding_camera(0), crf=8, truth=done)

    known = {"truth_features": {"action": 3}} if truth else {}
    return store_clips(root, map(clip, seeds), shard_mb=0.05, **known)


def toy_tracks(path: Path, seed: int, count: int, first_s: float = 0.0, unseen: Sequence[int] = ()) -> None:
    """Where the block of a seed is, as an npz file: a centimetre a pixel, in a plane; in the frames `unseen` it is not."""
    places = world(seed, count)[1]
    mask = np.zeros((count, SIZE, SIZE), bool)
    for frame, (y, x) in enumerate(np.round(places).astype(int)):
        mask[frame, y : y + SIDE, x : x + SIDE] = frame not in unseen
    point = places[:, ::-1] + SIDE / 2
    point[list(unseen)] = np.nan
    position = np.column_stack([places / 100, np.ones(count)]).astype(np.float32)
    TrackFile(first_s + np.arange(count) / FPS, mask, point.astype(np.float32), {"position_m": position}).write(path)
