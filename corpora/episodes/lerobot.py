"""LeRobot datasets v2.0, v2.1 and v3.0: what they hold, and where an episode lies.

dataset = LeRobotDataset.open("recordings/pick")
for place in dataset.all_episodes(dataset.cameras):
    print(place.index, place.text, place.data, place.videos)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpora.episodes.episode import VideoSpan
from corpora.episodes.lerobot_layout import any_video, file_of, first_video, why_missing
from corpora.store.files import json_lines, machine_trouble, read_json, text_of
from corpora.video.probe import describe, pixel_format
from corpora.video.view import View

IS_DEPTH = (
    "depth maps, which are distances and no colours, and are passed over; whoever names them with --cameras has them"
)
PAINTED = "giza.painted"
"""Key of a camera's feature in info.json: its view, and which episodes are not of it."""
_DISTANCES = re.compile(r"gray(12|14|16|f)")
"""How FFmpeg calls pixels of a number each, of more than any screen shows."""
_FILE, _SPAN = ("chunk_index", "file_index"), ("from_timestamp", "to_timestamp")
DAMAGE = (OSError, KeyError, ValueError, TypeError, AttributeError, pa.ArrowException)
"""What reading damaged files raises; see `machine_trouble` for what is none."""


class DatasetFault(ValueError):
    """A dataset that cannot be read at all."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """unreadable or unsupported."""


@dataclass(frozen=True)
class EpisodePlace:
    """Where an episode lies."""

    index: int
    text: str
    """The first of its tasks; "" where there is none."""
    data: Path | None
    """Parquet file of its rows, perhaps among those of others; None where the metadata does not say."""
    videos: dict[str, VideoSpan]
    """Camera -> the stretch of a file that shows it."""
    length: int
    """Rows that it should have; 0 where the dataset does not say."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """Camera, or "data", whose place the metadata does not tell -> why."""


@dataclass(frozen=True)
class LeRobotDataset:
    """A dataset's metadata."""

    root: Path
    name: str
    """As shown to people, and the beginning of each episode's group."""
    info: Mapping[str, Any]
    """meta/info.json."""

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether `folder` is a LeRobot dataset."""
        return os.path.isfile(folder / "meta" / "info.json")  # where it may not be looked at, there is none

    @staticmethod
    def open(root: Path, name: str = "") -> LeRobotDataset:
        """`name`: default the folder's. Raises DatasetFault where info.json is missing, damaged or of another version, OSError
        where the machine cannot read it now."""
        path = root / "meta" / "info.json"
        if not path.is_file():
            raise DatasetFault("unreadable", f"'{root}' is not a LeRobot dataset: it has no meta/info.json")
        try:
            info = json.loads(path.read_text("utf-8"))
            version = str(info.get("codebase_version", ""))
            if not all(isinstance(feature, dict) for feature in info["features"].values()):
                raise ValueError("features")
        except DAMAGE as error:
            if machine_trouble(error):
                raise
            raise DatasetFault(
                "unreadable", f"{path} cannot be read ({describe(error)}); restore it from where the data came"
            ) from error
        if version.lstrip("v")[:1] not in ("2", "3"):
            raise DatasetFault(
                "unsupported",
                f"'{root}' is of LeRobot version '{version}'; 2.0, 2.1 and 3.0 are read: convert it with LeRobot's own tool",
            )
        return LeRobotDataset(root, name or root.resolve().name, info)

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        return dict(self.info["features"])

    @property
    def robot_type(self) -> str:
        """As the dataset calls it."""
        return str(self.info.get("robot_type") or "")

    @property
    def fps(self) -> float:
        """Rows a second. Raises DatasetFault where it is no number above 0."""
        fps = self.info.get("fps")
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not fps > 0:
            path = self.root / "meta" / "info.json"
            raise DatasetFault(
                "unreadable", f"{path} cannot be read (fps {fps!r}); restore it from where the data came"
            )
        return float(fps)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Features of type video, for instance "observation.images.top", depth maps among them."""
        return tuple(key for key, feature in self.features.items() if feature.get("dtype") == "video")

    @property
    def images(self) -> tuple[str, ...]:
        """Features of type image, whose pictures lie in the data files themselves; `giza export` makes them video."""
        return tuple(key for key, feature in self.features.items() if feature.get("dtype") == "image")

    def is_depth(self, camera: str) -> bool:
        """Whether its videos hold distances and no colours: LeRobot has spelled it in more than one way, and where it says
        nothing, one grey of 12 bits or more is no picture. Raises ValueError as `holds`."""
        feature = self.features[camera]
        told = [
            facts for facts in (feature, feature.get("info"), feature.get("video_info")) if isinstance(facts, Mapping)
        ]
        if any(bool(facts.get(flag)) for facts in told for flag in ("is_depth_map", "video.is_depth_map")):
            return True
        formats = [str(facts[key]) for facts in told for key in ("pix_fmt", "video.pix_fmt") if facts.get(key)]
        if not formats:
            video = any_video(self.root, self.info, camera)
            formats = [] if video is None else [pixel_format(video)]
        return any(_DISTANCES.match(found) for found in formats)

    def view(self, camera: str) -> View | None:
        """How `giza crosspaint` painted its video; None where it did not. Raises ValueError where that cannot be told."""
        path, feature = self.root / "meta" / "info.json", self.features[camera]
        if PAINTED in feature:
            return View.from_json(feature[PAINTED]["view"], what=f"{path}: {camera}")
        before = read_json(self.root / "crosspaint.json") or {}
        if before.get("camera") == camera:
            raise ValueError(
                f"'{self.root}' was painted by an earlier giza, which did not say in its metadata how; run giza crosspaint again"
            )
        return None

    def unpainted(self, camera: str) -> dict[int, str]:
        """Episodes of a painted camera that are as they were -> why."""
        told = self.features[camera].get(PAINTED, {}).get("unpainted_episodes", {})
        return {int(episode): str(reason) for episode, reason in told.items()}

    def holds(self, camera: str) -> bool:
        """Whether there is any file of this camera; info.json may name one that the dataset does not ship. Raises ValueError
        where info.json does not say where."""
        return any_video(self.root, self.info, camera) is not None

    def lacks(self, camera: str) -> str:
        """Why `holds` is false."""
        return why_missing(self.root, first_video(self.root, self.info, camera))

    def group(self, episode: int) -> str:
        """The unit of hold-out."""
        return f"{self.name}/episode_{episode:06d}"

    def tasks(self) -> dict[int, str]:
        """task_index -> text, of tasks.jsonl (v2) or tasks.parquet (v3); empty where there is neither. Raises ValueError
        for a damaged one, OSError as `open`."""
        lines, table = self.root / "meta" / "tasks.jsonl", self.root / "meta" / "tasks.parquet"
        try:
            if lines.is_file():
                return {int(record["task_index"]): text_of(record["task"]) for _, record in json_lines(lines)}
            if table.is_file():
                columns = pq.read_table(table).to_pydict()
                numbers = columns.pop("task_index")
                texts = next(values for values in columns.values() if any(isinstance(text, str) for text in values))
                return {int(number): text_of(text) for number, text in zip(numbers, texts, strict=True)}
        except (*DAMAGE, StopIteration) as error:
            if machine_trouble(error):
                raise
            raise ValueError(
                f"the tasks of dataset '{self.root}' cannot be read ({describe(error)}); restore meta/"
            ) from error
        return {}

    def episodes(self, cameras: Sequence[str], damaged: list[str]) -> Iterator[EpisodePlace]:
        """In the order of the metadata. What of it cannot be read is told in `damaged`, file by file with the remedy, and the
        rest is read. Raises ValueError where info.json does not say where files lie, and OSError as `open`."""
        for camera in cameras:
            first_video(self.root, self.info, camera)
        self._data({"chunk_index": 0, "episode_index": 0, "file_index": 0})
        v2 = str(self.info["codebase_version"]).lstrip("v").startswith("2")
        listed = (self.root / "meta" / "episodes").glob("chunk-*/file-*.parquet")
        for path in [self.root / "meta" / "episodes.jsonl"] if v2 else sorted(listed):
            try:
                yield from self._episodes_v2(path, cameras) if v2 else self._episodes_v3(path, cameras)
            except DAMAGE as error:
                if machine_trouble(error):
                    raise
                damaged.append(
                    f"{path.relative_to(self.root)} cannot be read ({describe(error)}), nor the episodes that it lists, or those "
                    "from there on; restore it from where the data came"
                )

    def all_episodes(self, cameras: Sequence[str]) -> list[EpisodePlace]:
        """Raises ValueError where some of the metadata cannot be read, for who must not miss any."""
        damaged: list[str] = []
        found = list(self.episodes(cameras, damaged))
        if damaged:
            raise ValueError(f"dataset '{self.root}': {damaged[0]}")
        return found

    def _episodes_v2(self, path: Path, cameras: Sequence[str]) -> Iterator[EpisodePlace]:
        in_chunk = int(self.info.get("chunks_size") or 1000)
        for _, record in json_lines(path):
            index = int(record["episode_index"])
            place = {"chunk_index": index // in_chunk, "episode_index": index}
            videos = {camera: VideoSpan(self._video(camera, place), 0.0, None) for camera in cameras}
            yield EpisodePlace(index, _first_task(record), self._data(place), videos, _length(record))

    def _episodes_v3(self, path: Path, cameras: Sequence[str]) -> Iterator[EpisodePlace]:
        wanted = {"episode_index", "tasks", "length", *(f"data/{key}" for key in _FILE)}
        wanted |= {f"videos/{camera}/{key}" for camera in cameras for key in (*_FILE, *_SPAN)}
        with pq.ParquetFile(path) as file:
            columns = [column for column in file.schema_arrow.names if column in wanted]
            for batch in file.iter_batches(batch_size=512, columns=columns):
                for record in batch.to_pylist():
                    yield self._place_v3(record, cameras)

    def _place_v3(self, record: Mapping[str, Any], cameras: Sequence[str]) -> EpisodePlace:
        videos: dict[str, VideoSpan] = {}
        lost: dict[str, str] = {}

        def read(what: str, folder: str, keys: Sequence[str]) -> dict[str, Any] | None:
            found = {key: record[f"{folder}/{key}"] for key in keys}
            absent = [key for key in keys if found[key] is None]
            if absent:
                lost[what] = f"meta/episodes does not tell its {folder}/{absent[0]}"
            return None if absent else found

        for camera in cameras:
            video = read(camera, f"videos/{camera}", (*_FILE, *_SPAN))
            if video is not None:
                from_s, to_s = (float(video.pop(key)) for key in _SPAN)
                videos[camera] = VideoSpan(self._video(camera, video), from_s, to_s)
        file = read("data", "data", _FILE)
        data = None if file is None else self._data(file)
        return EpisodePlace(int(record["episode_index"]), _first_task(record), data, videos, _length(record), lost)

    def unlisted(self, listed: int) -> str:
        """What is to be said where the metadata lists so many episodes and info.json tells of more; else empty."""
        total = self.info.get("total_episodes")
        if not isinstance(total, int) or total <= listed:
            return ""
        return f"meta/ lists {listed} of the {total} episodes that meta/info.json tells of; the others are not read"

    def _video(self, camera: str, place: Mapping[str, Any]) -> Path:
        return file_of(self.root, self.info, "video_path", {**place, "video_key": camera})

    def _data(self, place: Mapping[str, Any]) -> Path:
        return file_of(self.root, self.info, "data_path", place)


def _first_task(record: Mapping[str, Any]) -> str:
    """The first that is not empty."""
    tasks = record.get("tasks")
    texts = [text_of(task) for task in ([tasks] if isinstance(tasks, str) else tasks or [])]
    return next(filter(None, texts), "")


def _length(record: Mapping[str, Any]) -> int:
    return int(record.get("length") or 0)
