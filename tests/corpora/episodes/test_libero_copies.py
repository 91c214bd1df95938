"""The published LeRobot copies of LIBERO, as miniatures: their layouts are read, and a policy is grounded on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs
from corpora.episodes.frames import open_episode_frames
from corpora.episodes.opening import open_episodes
from corpora.episodes.selection import EpisodeSelection
from jobs.evaluation.libero import plan_of
from tests.builders.exports import png
from vla.checkpoint import load_policy
from vla.recipes import recipe_named

LENGTHS = (14, 11)
TASKS = ("put the bowl on the plate", "open the top drawer of the cabinet")
V2 = ("v2.0", ("image", "wrist_image"), "state", "actions")
"""physical-intelligence/libero."""
V3 = ("v3.0", ("observation.images.image", "observation.images.image2"), "observation.state", "action")
"""HuggingFaceVLA/libero and lerobot/libero: images in the Parquet files as well, fps a float, names that do not count."""


def shown(episode: int, row: int, camera: int) -> np.ndarray:
    image = np.full((32, 32, 3), 20, np.uint8)
    image[:16, :16] = (40 * episode + 4 * row, 100, 200 * camera)
    return image


def rows(episode: int, cameras: tuple[str, ...], state: str, action: str, first: int) -> pa.Table:
    length, rng = LENGTHS[episode], np.random.default_rng(episode)
    columns = {
        name: pa.array([{"bytes": png(shown(episode, row, number)), "path": f"{row}.png"} for row in range(length)])
        for number, name in enumerate(cameras)
    }
    columns |= {
        name: pa.array(rng.uniform(-1, 1, (length, width)).astype(np.float32).tolist(), pa.list_(pa.float32(), width))
        for name, width in ((state, 8), (action, 7))
    }
    frame = np.arange(length)
    columns |= {"timestamp": pa.array((frame / 10).astype(np.float32)), "frame_index": pa.array(frame)}
    columns |= {"index": pa.array(first + frame)}
    columns |= {name: pa.array(np.full(length, episode)) for name in ("episode_index", "task_index")}
    return pa.table(columns)


def copy(root: Path, version: str, cameras: tuple[str, ...], state: str, action: str) -> Path:
    v3 = version == "v3.0"
    (root / "meta").mkdir(parents=True)
    picture = {"dtype": "image", "shape": [256, 256, 3], "names": ["height", "width", "channel"]}
    features: dict = {name: dict(picture) for name in cameras}
    features |= {state: {"dtype": "float32", "shape": [8], "names": ["state"]}}
    features |= {action: {"dtype": "float32", "shape": [7], "names": ["actions"]}}
    features |= {"timestamp": {"dtype": "float32", "shape": [1], "names": None}}
    numbers = ("frame_index", "episode_index", "index", "task_index")
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in numbers}
    where = (
        "chunk-{chunk_index:03d}/file-{file_index:03d}"
        if v3
        else "chunk-{episode_chunk:03d}/episode_{episode_index:06d}"
    )
    info = {
        "codebase_version": version,
        "robot_type": "panda",
        "total_episodes": 2,
        "total_frames": sum(LENGTHS),
        "total_tasks": 2,
        "chunks_size": 1000,
        "fps": 10.0 if v3 else 10,
        "splits": {"train": "0:2"},
        "data_path": f"data/{where}.parquet",
        "video_path": f"videos/{{video_key}}/{where}.mp4" if v3 else None,
        "features": features,
    }
    (root / "meta" / "info.json").write_text(json.dumps(info))
    tables = [rows(episode, cameras, state, action, sum(LENGTHS[:episode])) for episode in (0, 1)]
    data = root / "data" / "chunk-000"
    data.mkdir(parents=True)
    if not v3:
        lines = [{"episode_index": n, "tasks": [task], "length": LENGTHS[n]} for n, task in enumerate(TASKS)]
        (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        named = [{"task_index": n, "task": task} for n, task in enumerate(TASKS)]
        (root / "meta" / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in named))
        for episode, table in enumerate(tables):
            pq.write_table(table, data / f"episode_{episode:06d}.parquet")
        return root
    pq.write_table(pa.concat_tables(tables[::-1]), data / "file-000.parquet")  # episodes in any order
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    listed = [
        {"episode_index": n, "tasks": [task], "length": LENGTHS[n], "data/chunk_index": 0, "data/file_index": 0}
        for n, task in enumerate(TASKS)
    ]
    pq.write_table(pa.Table.from_pylist(listed), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    pq.write_table(pa.table({"task_index": [0, 1], "task": list(TASKS)}), root / "meta" / "tasks.parquet")
    return root


@pytest.mark.parametrize("layout", [V2, V3])
def test_a_published_copy_is_read_and_grounded_on(tmp_path: Path, layout: tuple) -> None:
    root = copy(tmp_path / "libero", *layout)
    episodes = open_episodes(root, EpisodeSelection())
    assert [each.instruction for each in episodes.episodes] == list(TASKS) and not episodes.faults
    assert episodes.cameras == layout[1] and episodes.state is not None and episodes.state.shape == (25, 8)
    assert episodes.action is not None and episodes.action.shape == (25, 7)
    frames = open_episode_frames(episodes, 32, cache=tmp_path / "cache")
    wanted = [[shown(n, row, camera) for camera in (0, 1)] for n in (0, 1) for row in range(LENGTHS[n])]
    np.testing.assert_array_equal(np.asarray(frames.images), np.stack(wanted))
    assert not frames.faults
    debug = recipe_named("debug")
    made = {"embodiment": "franka", "recipe": "debug", "cache": tmp_path / "cache", "steps": 2, "model": debug.policy}
    jobs.ground(data=root, out=tmp_path / "run", training=debug.training, **made)
    plan = plan_of(load_policy(str(tmp_path / "run")), "franka")
    assert list(plan["cameras"].values()) == ["agentview", "robot0_eye_in_hand"] and plan["step_s"] == 0.1


def test_an_image_that_cannot_be_read_costs_its_row_alone(tmp_path: Path) -> None:
    root = copy(tmp_path / "libero", *V2)
    path = root / "data" / "chunk-000" / "episode_000001.parquet"
    table = pq.read_table(path)
    spoilt = table.column("image").to_pylist()
    spoilt[3] = {"bytes": b"no image", "path": None}
    pq.write_table(table.set_column(table.column_names.index("image"), "image", pa.array(spoilt)), path)
    frames = open_episode_frames(open_episodes(root, EpisodeSelection()), 32, cache=tmp_path / "cache")
    (fault,) = frames.faults
    assert (fault.camera, fault.rows) == ("image", 1) and "cannot be read" in fault.reason
    assert frames.valid[14 + 3].tolist() == [False, True] and frames.valid.sum() == 49
