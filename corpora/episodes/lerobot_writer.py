"""Writes LeRobot v3.0 datasets, episode by episode, so that a killed job loses at most the episode it was at.

    writer = LeRobotWriter(out, format)
    for episode in range(count):
        if not writer.is_staged(episode):
            with writer.episode(episode, "open the drawer") as record:
                record.add(image, {"action": action})
    writer.finish(count)

Episodes wait in `.staging`, each complete or absent; `finish` joins them (images are not encoded twice) and leaves

    data/chunk-000/file-000.parquet              rows of many episodes, a row group for each
    videos/{camera}/chunk-000/file-000.mp4       the same episodes one after the other
    meta/info.json, stats.json, tasks.parquet, episodes/chunk-000/file-000.parquet

The files depend on the episodes alone: not on when, in which order or in how many runs they were recorded.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.episodes.columns import arrow_type, table, tasks_table
from corpora.episodes.lerobot_stats import Stats, degenerate_dims, image_stats, merge_image_stats, vector_stats
from corpora.store.files import replacing
from corpora.store.told import listed
from corpora.video.encode import EpisodeVideo, join_videos
from corpora.video.encoding import VideoEncoding

BOOKKEEPING = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
FILES_IN_CHUNK = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"

_Rows = dict[str, NDArray[Any]]
"""Columns [N, D]."""
STAGING = ".staging"
_IMAGE_EVERY = 8
"""Every how many frames one is looked at for the image statistics."""


@dataclass(frozen=True)
class Feature:
    """A column of numbers."""

    names: tuple[str, ...]
    """One for each dimension; a name holds no "/"."""
    dtype: str = "float32"
    """float32, float64, int64 or bool."""
    info: Mapping[str, Any] | None = None
    """Facts for meta/info.json."""


@dataclass(frozen=True)
class LeRobotFormat:
    """What a dataset holds."""

    fps: int
    """Frames and rows a second."""
    camera: str
    """Video feature, "observation.images.<camera>"."""
    size: int
    """Height and width of the images, pixels."""
    features: Mapping[str, Feature]
    """Columns beside LeRobot's own."""
    robot_type: str
    """For meta/info.json."""
    encoding: VideoEncoding = field(default_factory=VideoEncoding)
    """Of the images."""
    data_file_mb: int = 100
    """Size at which a new data file begins."""
    video_file_mb: int = 200
    """Size at which a new video file begins."""

    def __post_init__(self) -> None:
        names = [self.camera, *self.features]
        wrong = [name for name in names if "/" in name or name in BOOKKEEPING]
        if wrong:
            raise ValueError(f"features {wrong}: a LeRobot feature's name holds no '/' and is none of {[*BOOKKEEPING]}")
        if self.fps < 1:
            raise ValueError(f"fps {self.fps}: must be a whole number of frames a second, at least 1")


class EpisodeRecord:
    """An episode that is being recorded: images go to the encoder at once, rows are kept."""

    def __init__(self, folder: Path, format: LeRobotFormat, task: str) -> None:
        self.task = task
        self.facts: dict[str, Any] = {}
        """Anything of JSON to remember about the episode; it stays out of the dataset (see `staged_facts`)."""
        self._folder = folder
        self._format = format
        self._video = EpisodeVideo(folder / "video.mp4", format.fps, format.encoding)
        self._rows: dict[str, list[NDArray[Any]]] = {name: [] for name in format.features}
        self._seen: list[NDArray[np.uint8]] = []

    def add(self, image: NDArray[np.uint8], row: Mapping[str, NDArray[Any] | bool]) -> None:
        """A frame, uint8 [size, size, 3], with one vector for each feature. Raises ValueError where they do not fit."""
        size = self._format.size
        if image.shape != (size, size, 3) or image.dtype != np.uint8:
            raise ValueError(f"image {image.dtype}{list(image.shape)}: must be uint8 [{size}, {size}, 3]")
        if set(row) != set(self._format.features):
            raise ValueError(f"row has {sorted(row)}: must have exactly {sorted(self._format.features)}")
        for name, feature in self._format.features.items():
            value = np.atleast_1d(np.asarray(row[name])).astype(feature.dtype)
            if value.shape != (len(feature.names),):
                raise ValueError(f"feature '{name}' is {list(value.shape)}: must be [{len(feature.names)}]")
            self._rows[name].append(value)
        if self._video.frames % _IMAGE_EVERY == 0:
            self._seen.append(image.copy())
        self._video.add(image)

    @property
    def frames(self) -> int:
        """Added so far."""
        return self._video.frames

    def _close(self) -> None:
        self._video.close()
        if self._video.frames == 0:
            raise ValueError(f"the episode '{self.task}' has no frame; a LeRobot episode has at least one")
        images = image_stats(np.stack(self._seen))
        facts = {"task": self.task, "length": self._video.frames, "pictures": images, "facts": self.facts}
        (self._folder / "facts.json").write_text(json.dumps(facts))
        with (self._folder / "rows.npz").open("wb") as out:
            arrays: dict[str, Any] = {name: np.stack(values) for name, values in self._rows.items()}
            np.savez(out, **arrays)


@dataclass(frozen=True)
class _Staged:
    """One complete episode of the staging area."""

    folder: Path
    index: int
    task: str
    length: int
    images: Stats
    record: dict[str, Any] = field(default_factory=dict)
    """Its row of meta/episodes, as it comes to be."""

    def rows(self) -> _Rows:
        with np.load(self.folder / "rows.npz") as arrays:
            return {name: arrays[name] for name in arrays.files}


class LeRobotWriter:
    """See the module. One process writes to one folder at a time."""

    def __init__(self, root: Path, format: LeRobotFormat) -> None:
        self.root = root
        self.format = format
        self._staging = root / STAGING

    def is_staged(self, episode: int) -> bool:
        return (self._folder(episode) / "facts.json").exists()

    def staged_facts(self, episode: int) -> dict[str, Any]:
        """What the recording put into `EpisodeRecord.facts`."""
        return json.loads((self._folder(episode) / "facts.json").read_text())["facts"]

    def write_truth(self, episodes: int, path: Path) -> None:
        """All features of the staged episodes 0 to `episodes` - 1 as one Parquet file: what `finish` may leave out.

        Columns: the features, timestamp, frame_index, episode_index. The file takes its place when it is complete.
        """
        schema = self._schema(self.format.features, ("timestamp", "frame_index", "episode_index"))
        with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as out:
            for number in range(episodes):
                episode = self._staged(number)
                rows = {**episode.rows(), **self._bookkeeping(episode, 0, 0)}
                out.write_table(table(rows, schema))

    @contextmanager
    def episode(self, episode: int, task: str) -> Iterator[EpisodeRecord]:
        """Records episode number `episode`; it counts as staged when the block ends without an error."""
        unfinished = self._staging / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        record = EpisodeRecord(unfinished, self.format, task)
        yield record
        record._close()
        os.replace(unfinished, self._folder(episode))

    def finish(self, episodes: int | Sequence[int], features: Sequence[str] | None = None) -> None:
        """Writes the dataset of episodes 0 to `episodes` - 1, or of these, numbered anew in their order; they must all be staged.
        May be repeated.

        `features`: write these alone of the format's features (none: images and instructions only).
        """
        numbers = range(episodes) if isinstance(episodes, int) else episodes
        missing = [number for number in numbers if not self.is_staged(number)]
        if missing or not len(numbers):
            raise ValueError(
                f"episodes {listed(missing)} of {len(numbers)} are not recorded yet; record all before finish"
            )
        staged = [replace(self._staged(number), index=index) for index, number in enumerate(numbers)]
        kept = self.format.features if features is None else {name: self.format.features[name] for name in features}
        tasks = {task: number for number, task in enumerate(dict.fromkeys(episode.task for episode in staged))}
        every = self._write_data(staged, kept, tasks)
        self._write_videos(staged)
        self._write_meta(staged, kept, tasks, every)

    def clear_staging(self) -> None:
        """Removes the staged episodes; the dataset stays."""
        shutil.rmtree(self._staging, ignore_errors=True)

    def _folder(self, episode: int) -> Path:
        return self._staging / f"episode_{episode:06d}"

    def _staged(self, episode: int) -> _Staged:
        folder = self._folder(episode)
        facts = json.loads((folder / "facts.json").read_text())
        return _Staged(folder, episode, facts["task"], facts["length"], facts["pictures"])

    def _write_data(self, staged: Sequence[_Staged], kept: Mapping[str, Feature], tasks: Mapping[str, int]) -> _Rows:
        """Returns every row of the dataset, for its statistics."""
        schema = self._schema(kept, tuple(BOOKKEEPING))
        all_rows: dict[str, list[NDArray[Any]]] = {}
        first = 0
        for place, together in _files(staged, "rows.npz", self.format.data_file_mb):
            with replacing(self.root / DATA_PATH.format(**place)) as path, pq.ParquetWriter(path, schema) as out:
                for episode in together:
                    rows = {name: values for name, values in episode.rows().items() if name in kept}
                    rows |= self._bookkeeping(episode, tasks[episode.task], first)
                    out.write_table(table(rows, schema))
                    stats = {name: vector_stats(values) for name, values in rows.items()}
                    stats[self.format.camera] = episode.images
                    episode.record.update(
                        {
                            "episode_index": episode.index,
                            "tasks": [episode.task],
                            "length": episode.length,
                            **under("data", place),
                            "dataset_from_index": first,
                            "dataset_to_index": first + episode.length,
                            **{f"stats/{name}/{kind}": n for name, found in stats.items() for kind, n in found.items()},
                        }
                    )
                    for name, values in rows.items():
                        all_rows.setdefault(name, []).append(values)
                    first += episode.length
        return {name: np.concatenate(values) for name, values in all_rows.items()}

    def _schema(self, features: Mapping[str, Feature], bookkeeping: Sequence[str]) -> pa.Schema:
        fields = [(name, arrow_type(feature.dtype, len(feature.names))) for name, feature in features.items()]
        return pa.schema([*fields, *((name, arrow_type(BOOKKEEPING[name], 1)) for name in bookkeeping)])

    def _bookkeeping(self, episode: _Staged, task_index: int, first: int) -> _Rows:
        frame = np.arange(episode.length)
        values = {
            "timestamp": frame / self.format.fps,
            "frame_index": frame,
            "episode_index": np.full(episode.length, episode.index),
            "index": first + frame,
            "task_index": np.full(episode.length, task_index),
        }
        return {name: values[name].astype(dtype)[:, None] for name, dtype in BOOKKEEPING.items()}

    def _write_videos(self, staged: Sequence[_Staged]) -> None:
        camera, fps = self.format.camera, self.format.fps
        for place, together in _files(staged, "video.mp4", self.format.video_file_mb):
            with replacing(self.root / VIDEO_PATH.format(video_key=camera, **place)) as path:
                counts = join_videos([episode.folder / "video.mp4" for episode in together], path, fps)
            start = 0
            for episode, count in zip(together, counts, strict=True):
                assert count == episode.length, "an episode has as many frames as rows"
                span = {"from_timestamp": start / fps, "to_timestamp": (start + count) / fps}
                episode.record.update(under(f"videos/{camera}", {**place, **span}))
                start += count

    def _write_meta(
        self, staged: Sequence[_Staged], kept: Mapping[str, Feature], tasks: Mapping[str, int], every: _Rows
    ) -> None:
        stats = {name: vector_stats(values) for name, values in every.items()}
        stats[self.format.camera] = merge_image_stats([episode.images for episode in staged])
        with replacing(self.root / "meta" / "stats.json") as path:
            path.write_text(json.dumps(stats, indent=2))
        with replacing(self.root / "meta" / "tasks.parquet") as path:
            pq.write_table(tasks_table(list(tasks)), path)
        place = {"chunk_index": 0, "file_index": 0}
        with replacing(self.root / EPISODES_PATH.format(**place)) as path:
            records = [episode.record | under("meta/episodes", place) for episode in staged]
            pq.write_table(pa.Table.from_pylist(records), path)
        with replacing(self.root / "meta" / "info.json") as path:
            path.write_text(json.dumps(self._info(staged, kept, len(tasks), stats), indent=2))

    def _info(
        self, staged: Sequence[_Staged], kept: Mapping[str, Feature], tasks: int, stats: Mapping[str, Stats]
    ) -> dict[str, Any]:
        format = self.format
        video = video_facts(format.size, format.size, format.fps)
        shape = [format.size, format.size, 3]
        features: dict[str, Any] = {
            format.camera: {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"], "info": video}
        }
        for name, feature in kept.items():
            features[name] = {"dtype": feature.dtype, "shape": [len(feature.names)], "names": list(feature.names)}
            if info := dict(feature.info or {}) | flagged(feature.dtype, stats[name]):
                features[name]["info"] = info
        features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in BOOKKEEPING.items()}
        return {
            "codebase_version": "v3.0",
            "robot_type": format.robot_type,
            "total_episodes": len(staged),
            "total_frames": sum(episode.length for episode in staged),
            "total_tasks": tasks,
            "chunks_size": FILES_IN_CHUNK,
            "data_files_size_in_mb": format.data_file_mb,
            "video_files_size_in_mb": format.video_file_mb,
            "fps": format.fps,
            "splits": {"train": f"0:{len(staged)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": features,
        }


def video_facts(height: int, width: int, fps: int) -> dict[str, Any]:
    """`info` of a video feature of H.264 that giza encoded."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }


def flagged(dtype: str, stats: Stats) -> dict[str, Any]:
    """For the `info` of a feature of real numbers in info.json: which of its dimensions no trainer should scale."""
    dims = degenerate_dims(stats) if dtype.startswith("float") else []
    return {"degenerate_dims": dims} if dims else {}


def under(folder: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """As meta/episodes names what lies in `folder`."""
    return {f"{folder}/{name}": value for name, value in values.items()}


def _files(staged: Sequence[_Staged], name: str, limit_mb: int) -> Iterator[tuple[dict[str, int], list[_Staged]]]:
    """Place and episodes of each file, which their files of this name make: a new one begins where the next would pass the
    limit."""
    files: list[list[_Staged]] = []
    used = 0
    for episode in staged:
        size = (episode.folder / name).stat().st_size
        if not files or used + size > limit_mb * 2**20:
            files.append([])
            used = 0
        files[-1].append(episode)
        used += size
    for number, together in enumerate(files):
        yield {"chunk_index": number // FILES_IN_CHUNK, "file_index": number % FILES_IN_CHUNK}, together
