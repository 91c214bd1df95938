"""Small LeRobot datasets and WebDataset tars made on the fly."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpora.episodes.episode import Episodes
from corpora.episodes.opening import open_episodes
from corpora.episodes.selection import EpisodeSelection
from tests.builders.videos import numbered_frame, write_video

FPS = 15
CAMERAS = ("observation.images.head", "observation.images.side")
LENGTHS = (30, 45)
TASKS = ("pick the cup", "place the cup")
ONE_TASK = ("pick the cup",) * 2
"""One of its episodes can be held out."""


def without_states(root: Path) -> Path:
    """The LeRobot dataset at `root`, its states taken off the list of features."""
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    del info["features"]["observation.state"]
    path.write_text(json.dumps(info))
    return root


def opened(root: Path, *, indices: Iterable[int] | None = None, **choices: Any) -> Episodes:
    """All episodes of a dataset, failed ones too, or those of these `indices`."""
    choices = {name: tuple(value) if isinstance(value, list) else value for name, value in choices.items()}
    episodes = open_episodes(root, EpisodeSelection(failures=True, **choices))
    return episodes if indices is None else episodes.take(indices)


def truth_of(episode: int) -> dict[str, np.ndarray]:
    """State [N, 3] and action [N, 2] of an episode: smooth and different for each."""
    time = np.arange(LENGTHS[episode]) / FPS
    state = np.stack([np.sin(time + episode), np.cos(time), time], 1)
    return {"observation.state": state.astype(np.float32), "action": np.stack([time, -time], 1).astype(np.float32)}


def frames_of(episode: int, camera: int) -> list[np.ndarray]:
    return [numbered_frame(i, seed=10 * episode + camera) for i in range(LENGTHS[episode])]


def _table(episodes: list[int], truth: Callable[[int], dict[str, np.ndarray]] = truth_of) -> pa.Table:
    columns: dict[str, list] = {
        name: [] for name in ("timestamp", "frame_index", "episode_index", "index", "task_index")
    }
    features: dict[str, list] = {"observation.state": [], "action": []}
    for episode in episodes:
        start = sum(LENGTHS[:episode])
        for frame in range(LENGTHS[episode]):
            values = (frame / FPS, frame, episode, start + frame, episode)
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
        for name, values in truth(episode).items():
            features[name] += [row.tolist() for row in values]
    table = pa.table({**columns, **features})
    return table.set_column(0, "timestamp", pa.array(columns["timestamp"], pa.float32()))


def _info(version: str, actions: bool) -> dict:
    features = {camera: {"dtype": "video", "shape": [96, 160, 3]} for camera in CAMERAS}
    features["observation.state"] = {"dtype": "float32", "shape": [3]}
    if actions:
        features["action"] = {"dtype": "float32", "shape": [2]}
    return {
        "codebase_version": version,
        "fps": FPS,
        "robot_type": "two_link",
        "chunks_size": 1000,
        "features": features,
    }


def lerobot_v2(
    root: Path,
    version: str = "v2.1",
    *,
    actions: bool = True,
    truth: Callable[[int], dict[str, np.ndarray]] = truth_of,
) -> Path:
    tables = [_table([episode], truth) for episode in range(len(LENGTHS))]
    episodes = [
        (
            TASKS[episode],
            table if actions else table.drop_columns(["action"]),
            {camera: frames_of(episode, number) for number, camera in enumerate(CAMERAS)},
        )
        for episode, table in enumerate(tables)
    ]
    return store_v2(root, _info(version, actions), episodes, fps=FPS)


def store_v2(
    root: Path, info: dict, episodes: Iterable[tuple[str, pa.Table, dict[str, list[np.ndarray]]]], **video: Any
) -> Path:
    """LeRobot v2.1 of these episodes: the task, the rows, and what each camera saw. `video`: of `write_video`."""
    (root / "meta").mkdir(parents=True)
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    (root / "meta" / "info.json").write_text(json.dumps(info))
    lines = []
    for episode, (task, table, seen) in enumerate(episodes):
        lines.append(json.dumps({"episode_index": episode, "tasks": [task], "length": table.num_rows}) + "\n")
        data = root / info["data_path"].format(episode_chunk=0, episode_index=episode)
        data.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, data)
        for camera, frames in seen.items():
            path = root / info["video_path"].format(episode_chunk=0, video_key=camera, episode_index=episode)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, frames, **video)
    (root / "meta" / "episodes.jsonl").write_text("".join(lines))
    return root


def lerobot_v3(root: Path, *, tasks: Sequence[str] = TASKS) -> Path:
    """Both episodes in one Parquet file and, for each camera, one mp4."""
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    info = _info("v3.0", True)
    info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (root / "meta" / "info.json").write_text(json.dumps(info))
    data = root / info["data_path"].format(chunk_index=0, file_index=0)
    data.parent.mkdir(parents=True)
    pq.write_table(_table([0, 1]), data)
    rows = []
    for episode, length in enumerate(LENGTHS):
        row = {"episode_index": episode, "tasks": [tasks[episode]], "length": length}
        row |= {"data/chunk_index": 0, "data/file_index": 0}
        for camera in CAMERAS:
            start = sum(LENGTHS[:episode]) / FPS
            span = {"from_timestamp": start, "to_timestamp": start + length / FPS}
            row |= {
                f"videos/{camera}/{name}": value for name, value in {"chunk_index": 0, "file_index": 0, **span}.items()
            }
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    for number, camera in enumerate(CAMERAS):
        path = root / info["video_path"].format(video_key=camera, chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        write_video(path, [*frames_of(0, number), *frames_of(1, number)], fps=FPS, gop=12)
    return root


def change_column(path: Path, name: str, values: Sequence[Any], *, rename: str = "") -> None:
    """Replaces (or adds) a column of a Parquet file."""
    table = pq.read_table(path)
    if name in table.column_names:
        table = table.drop_columns([name])
    pq.write_table(table.append_column(rename or name, pa.array(values)), path)


def webdataset(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
