"""LeRobot datasets v2.0, v2.1 and v3.0: episodes as video sources, their states and actions as ground truth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.sources.source import Source
from corpora.store.files import stamp_of

_BOOKKEEPING = frozenset({"timestamp", "frame_index", "episode_index", "index", "task_index"})
_EDGE_S = 1e-4


@dataclass(frozen=True)
class LeRobotDataset:
    """A dataset's metadata and the cameras that are read of it."""

    root: Path
    name: str
    """As shown to people, and the beginning of each episode's group."""
    info: dict[str, Any]
    """meta/info.json."""
    cameras: tuple[str, ...]
    """Features of type video, for instance "observation.images.top"."""

    @property
    def chunk_size(self) -> int:
        """Episodes in a chunk (v2)."""
        return int(self.info.get("chunks_size") or 1000)

    @property
    def tier(self) -> str:
        """Tier "robot" where there are actions, else "human"."""
        return "robot" if "action" in self.info.get("features", {}) else "human"

    @property
    def embodiment(self) -> str:
        """The robot's type, as the dataset calls it."""
        return str(self.info.get("robot_type") or "")

    def group(self, episode: int) -> str:
        """The unit of hold-out."""
        return f"{self.name}/episode_{episode:06d}"


@dataclass(frozen=True)
class LeRobotEpisode:
    """Where an episode lies."""

    index: int
    text: str
    """The first of its tasks."""
    data: str
    """Path of the Parquet file below the root."""
    videos: dict[str, tuple[str, float, float | None]]
    """Camera -> (path below the root, from, to in seconds of that file; to None: its end)."""


def read_lerobot(root: Path, name: str, *, cameras: Sequence[str] = ()) -> Iterator[Source]:
    """One source for each episode and camera, in that order. Raises ValueError for a camera the dataset lacks.

    What is wrong with the dataset itself (unreadable metadata, files that are missing) is a source with a fault.
    """
    stamp = stamp_of(root / "meta" / "info.json")

    def fault(suffix: str, reason: str, detail: str) -> Source:
        title = f"{name}/{suffix}" if suffix else name
        return Source(name=title, group=name, path=str(root), stamp=stamp, fault=reason, fault_detail=detail)

    try:
        info = json.loads((root / "meta" / "info.json").read_text("utf-8"))
        features = info["features"]
        known = [key for key, feature in features.items() if feature.get("dtype") == "video"]
        version = str(info.get("codebase_version", "")).lstrip("v")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        yield fault("", "unreadable", f"meta/info.json: {type(error).__name__}: {error}")
        return
    chosen = _choose(known, cameras, name)
    if not chosen:
        yield fault("", "no_video_stream", "the dataset has no feature of type video")
        return
    if version[:1] not in ("2", "3"):
        yield fault(
            "", "unsupported", f"LeRobot codebase_version '{info.get('codebase_version')}'; 2.0, 2.1 and 3.0 are read"
        )
        return
    present = []
    for camera in chosen:
        if has_videos(root, camera):
            present.append(camera)
        else:
            yield fault(camera, "missing_file", "the dataset names this camera but holds no video of it")
    dataset = LeRobotDataset(root, name, info, tuple(present))
    try:
        for episode in list_episodes(dataset):
            yield from _sources(dataset, episode)
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        yield fault("", "unreadable", f"meta: {type(error).__name__}: {error}")


def _choose(known: Sequence[str], wanted: Sequence[str], name: str) -> list[str]:
    """The cameras asked for, by full name ("observation.images.top") or last part ("top"); all where none is named."""
    if not wanted:
        return list(known)
    chosen = [camera for camera in known if camera in wanted or camera.rpartition(".")[2] in wanted]
    if not chosen:
        raise ValueError(f"cameras {list(wanted)}: dataset '{name}' has none of them; it has {list(known)}")
    return chosen


def has_videos(root: Path, camera: str) -> bool:
    """Whether a dataset holds any file of this camera; info.json may name one that it does not ship."""
    folders = [*root.glob(f"videos/{camera}"), *root.glob(f"videos/chunk-*/{camera}")]
    return any(next(folder.rglob("*"), None) is not None for folder in folders)


def list_episodes(dataset: LeRobotDataset) -> Iterator[LeRobotEpisode]:
    """Episodes in the order of the metadata. Raises OSError, KeyError, ValueError, TypeError or pa.ArrowException where
    the metadata is damaged."""
    version = str(dataset.info.get("codebase_version", "")).lstrip("v")
    return _episodes_v2(dataset) if version.startswith("2") else _episodes_v3(dataset)


def _episodes_v2(dataset: LeRobotDataset) -> Iterator[LeRobotEpisode]:
    info = dataset.info
    with (dataset.root / "meta" / "episodes.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                continue
            record = json.loads(line)
            index = int(record["episode_index"])
            place = {"episode_chunk": index // dataset.chunk_size, "episode_index": index}
            videos: dict[str, tuple[str, float, float | None]] = {
                camera: (info["video_path"].format(video_key=camera, **place), 0.0, None) for camera in dataset.cameras
            }
            yield LeRobotEpisode(index, _first_task(record), info["data_path"].format(**place), videos)


def _episodes_v3(dataset: LeRobotDataset) -> Iterator[LeRobotEpisode]:
    info = dataset.info
    wanted = ["episode_index", "tasks", "data/chunk_index", "data/file_index"]
    for camera in dataset.cameras:
        wanted += [
            f"videos/{camera}/{part}" for part in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        ]
    for path in sorted((dataset.root / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
        with pq.ParquetFile(path) as file:
            columns = [column for column in wanted if column in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=512, columns=columns):
                for record in batch.to_pylist():
                    yield _episode_v3(record, info, dataset.cameras)


def _episode_v3(record: dict[str, Any], info: dict[str, Any], cameras: Sequence[str]) -> LeRobotEpisode:
    videos: dict[str, tuple[str, float, float | None]] = {}
    for camera in cameras:
        part = {name: record[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index")}
        span = record[f"videos/{camera}/from_timestamp"], record[f"videos/{camera}/to_timestamp"]
        videos[camera] = (info["video_path"].format(video_key=camera, **part), float(span[0]), float(span[1]))
    place = {"chunk_index": record["data/chunk_index"], "file_index": record["data/file_index"]}
    return LeRobotEpisode(int(record["episode_index"]), _first_task(record), info["data_path"].format(**place), videos)


def _first_task(record: dict[str, Any]) -> str:
    tasks = record.get("tasks")
    if isinstance(tasks, str):
        return tasks
    return str(tasks[0]) if tasks else ""


def _sources(dataset: LeRobotDataset, episode: LeRobotEpisode) -> Iterator[Source]:
    group = dataset.group(episode.index)
    data = dataset.root / episode.data
    for camera, (relative, start, end) in episode.videos.items():
        path = dataset.root / relative
        missing = not path.exists()
        yield Source(
            name=f"{group}/{camera}",
            group=group,
            path=str(path),
            stamp=stamp_of(path),
            selector=f"{camera}/{episode.index}",
            start_s=start,
            end_s=end,
            origin_s=start,
            text=episode.text,
            tier=dataset.tier,
            embodiment=dataset.embodiment,
            truth_path=str(data) if data.exists() else "",
            truth_episode=episode.index,
            fault="missing_file" if missing else "",
            fault_detail=relative if missing else "",
        )


def read_truth(path: str, episode: int) -> dict[str, NDArray[Any]]:
    """t_s float64 [N] (from the episode's beginning) and float32 [N, D] for each numeric feature of one episode.

    Raises ValueError where the file has no such episode or no timestamps.
    """
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if _is_numeric(file.schema_arrow.field(name).type)]
        if "timestamp" not in names:
            raise ValueError(f"{path} has no column 'timestamp'")
        filters = [("episode_index", "=", episode)] if "episode_index" in names else None
    table = pq.read_table(path, columns=names, filters=filters)
    if table.num_rows == 0:
        raise ValueError(f"{path} holds no row of episode {episode}")
    truth: dict[str, NDArray[Any]] = {"t_s": column_array(table.column("timestamp"), np.float64)[:, 0]}
    for name in names:
        if name not in _BOOKKEEPING and not name.startswith("annotation."):
            truth[name] = column_array(table.column(name), np.float32)
    order = np.argsort(truth["t_s"], kind="stable")
    return {name: values[order] for name, values in truth.items()}


def cut_truth(truth: dict[str, NDArray[Any]], start_s: float, end_s: float) -> dict[str, NDArray[Any]]:
    """The rows in [start_s, end_s)."""
    inside = (truth["t_s"] >= start_s - _EDGE_S) & (truth["t_s"] < end_s - _EDGE_S)
    return {name: values[inside] for name, values in truth.items()}


def truth_digest(truth: dict[str, NDArray[Any]]) -> str:
    """Names what is known in the middle of a clip: equal for copies of an episode, different for two that look alike."""
    count = len(truth["t_s"])
    if count == 0:
        return ""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(set(truth) - {"t_s"}):
        digest.update(name.encode())
        digest.update(np.round(truth[name][count // 2].astype(np.float64), 4).tobytes())
    return digest.hexdigest()


def _is_numeric(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def column_array(column: pa.ChunkedArray, dtype: type) -> NDArray[Any]:
    """[N, D], whatever the nesting of the column's lists. Raises ValueError for rows of different lengths or without a
    list; a missing number is NaN."""
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or _is_fixed(values.type):
        lengths = pc.unique(pc.list_value_length(values))
        if values.null_count or len(lengths) > 1:
            raise ValueError(f"rows of different lengths: {lengths.to_pylist()[:4]}")
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False)).astype(dtype).reshape(len(column), -1)


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))
