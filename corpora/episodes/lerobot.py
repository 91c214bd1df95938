"""LeRobot datasets v2.0, v2.1 and v3.0: what they hold, where an episode lies, and the rows of its data file.

dataset = LeRobotDataset.open("recordings/pick")
for place in dataset.episodes(dataset.cameras):
    print(place.index, place.text, place.data, place.videos)
episodes = read_lerobot(dataset.root, EpisodeSelection(cameras=("head",)))
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.episodes.columns import column_array
from corpora.episodes.episode import Episode, Episodes, EpisodeSelection, VideoSpan
from corpora.episodes.frames import VideoReader
from corpora.episodes.lerobot_layout import file_of, first_video, holds_any, why_missing
from corpora.episodes.modality import Modality, ModalityPart, choose_parts, names_of, read_modality
from corpora.episodes.rows import CLOCK, NUMBER, EpisodeRows, rows_of
from corpora.store.files import json_lines, stamp_of, text_of
from corpora.video.probe import describe

log = logging.getLogger(__name__)

SUCCESS = "next.success"
IS_DEPTH = (
    "depth maps, which are distances and no colours, and are passed over; whoever names them with --cameras has them"
)
DAMAGE = (OSError, KeyError, ValueError, TypeError, AttributeError, pa.ArrowException)
"""What reading damaged files raises."""


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
    data: Path
    """Parquet file of its rows, perhaps among those of others."""
    videos: dict[str, VideoSpan]
    """Camera -> the stretch of a file that shows it."""
    length: int
    """Rows that it should have; 0 where the dataset does not say."""


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
        """`name`: default the folder's. Raises DatasetFault where info.json is missing, damaged or of another version."""
        path = root / "meta" / "info.json"
        if not path.is_file():
            raise DatasetFault("unreadable", f"'{root}' is not a LeRobot dataset: it has no meta/info.json")
        try:
            info = json.loads(path.read_text("utf-8"))
            version = str(info.get("codebase_version", ""))
            if not all(isinstance(feature, dict) for feature in info["features"].values()):
                raise ValueError("features")
        except DAMAGE as error:
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

    def is_depth(self, camera: str) -> bool:
        """Whether its videos hold distances (gray12) and no colours; LeRobot has spelled it in more than one way."""
        feature = self.features[camera]
        return any(
            bool(facts.get(flag))
            for facts in (feature, feature.get("info"), feature.get("video_info"))
            if isinstance(facts, Mapping)
            for flag in ("is_depth_map", "video.is_depth_map")
        )

    def holds(self, camera: str) -> bool:
        """Whether there is any file of this camera; info.json may name one that the dataset does not ship. Raises ValueError
        where info.json does not say where."""
        return holds_any(self.root, self.info, camera)

    def lacks(self, camera: str) -> str:
        """Why `holds` is false."""
        return why_missing(self.root, first_video(self.root, self.info, camera))

    def group(self, episode: int) -> str:
        """The unit of hold-out."""
        return f"{self.name}/episode_{episode:06d}"

    def tasks(self) -> dict[int, str]:
        """task_index -> text, of tasks.jsonl (v2) or tasks.parquet (v3); empty where there is neither. Raises ValueError
        for a damaged one."""
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
            raise ValueError(
                f"the tasks of dataset '{self.root}' cannot be read ({describe(error)}); restore meta/"
            ) from error
        return {}

    def episodes(self, cameras: Sequence[str]) -> Iterator[EpisodePlace]:
        """In the order of the metadata. Raises one of DAMAGE where that is damaged."""
        if str(self.info["codebase_version"]).lstrip("v").startswith("2"):
            return self._episodes_v2(cameras)
        return self._episodes_v3(cameras)

    def _episodes_v2(self, cameras: Sequence[str]) -> Iterator[EpisodePlace]:
        in_chunk = int(self.info.get("chunks_size") or 1000)
        for _, record in json_lines(self.root / "meta" / "episodes.jsonl"):
            index = int(record["episode_index"])
            place = {"chunk_index": index // in_chunk, "episode_index": index}
            videos = {camera: VideoSpan(self._video(camera, place), 0.0, None) for camera in cameras}
            yield EpisodePlace(index, _first_task(record), self._data(place), videos, _length(record))

    def _episodes_v3(self, cameras: Sequence[str]) -> Iterator[EpisodePlace]:
        keys = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        wanted = {"episode_index", "tasks", "length", "data/chunk_index", "data/file_index"}
        wanted |= {f"videos/{camera}/{key}" for camera in cameras for key in keys}
        for path in sorted((self.root / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
            with pq.ParquetFile(path) as file:
                columns = [column for column in file.schema_arrow.names if column in wanted]
                for batch in file.iter_batches(batch_size=512, columns=columns):
                    for record in batch.to_pylist():
                        videos = {}
                        for camera in cameras:
                            found = {key: record[f"videos/{camera}/{key}"] for key in keys}
                            span = float(found.pop("from_timestamp")), float(found.pop("to_timestamp"))
                            videos[camera] = VideoSpan(self._video(camera, found), *span)
                        data = self._data({key: record[f"data/{key}"] for key in ("chunk_index", "file_index")})
                        yield EpisodePlace(
                            int(record["episode_index"]), _first_task(record), data, videos, _length(record)
                        )

    def _video(self, camera: str, place: Mapping[str, Any]) -> Path:
        return file_of(self.root, self.info, "video_path", {**place, "video_key": camera})

    def _data(self, place: Mapping[str, Any]) -> Path:
        return file_of(self.root, self.info, "data_path", place)


def read_lerobot(root: Path, selection: EpisodeSelection) -> Episodes:
    """All episodes of the dataset at `root`, with the cameras and columns of `selection`.

    Cameras: features or their last parts ("head"), or modality.json's names; empty: those of modality.json, else all
    that have videos and are no depth maps. State, action: parts of modality.json, columns, or dimensions ("7:14"); empty:
    all parts, else the whole feature. Raises ValueError as `open_episodes`.
    """
    dataset = LeRobotDataset.open(root)
    modality = read_modality(root, dataset.features)
    cameras = _choose_cameras(dataset, modality.cameras, selection.cameras)
    state = choose_parts(modality.state, selection.state, "state", dataset.features)
    action = choose_parts(modality.action, selection.action, "action", dataset.features)
    reader = _Reader(dataset, modality, state, action)
    whole = reader.read(cameras)
    return Episodes(
        root=root,
        name=dataset.name,
        fps=dataset.fps,
        robot_type=dataset.robot_type,
        cameras=cameras,
        modality=modality,
        state_parts=state,
        action_parts=action,
        episodes=whole,
        faults=sorted(reader.faults),
        reader=VideoReader(),
        state_names=names_of(state),
        action_names=names_of(action),
    )


class _Reader:
    """Rows of episodes; what is damaged goes to `faults`."""

    def __init__(
        self,
        dataset: LeRobotDataset,
        modality: Modality,
        state: Sequence[ModalityPart],
        action: Sequence[ModalityPart],
    ) -> None:
        self.faults: list[tuple[int, str]] = []
        self._dataset, self._state, self._action = dataset, state, action
        self._annotation = modality.instruction_column
        self._tasks = dataset.tasks()
        columns = {"task_index", SUCCESS, self._annotation, *(part.column for part in (*state, *action))}
        self._columns = columns - {""}

    def read(self, cameras: Sequence[str]) -> list[Episode]:
        """The episodes that are whole, in the order of the metadata; each data file is read once."""
        try:
            listed = list(self._dataset.episodes(cameras))
        except DAMAGE as error:
            raise ValueError(
                f"dataset '{self._dataset.root}': its list of episodes cannot be read ({describe(error)})"
            ) from error
        by_file: dict[Path, list[EpisodePlace]] = defaultdict(list)
        for place in listed:
            missing = [path for path in (place.data, *(span.path for span in place.videos.values())) if _is_empty(path)]
            if missing:
                told = why_missing(self._dataset.root, missing[0])
                self.faults.append((place.index, f"missing or empty file: {told}"))
            else:
                by_file[place.data].append(place)
        whole: dict[int, Episode] = {}
        for path, places in by_file.items():
            whole.update(self._read_file(path, places))
        return [whole[place.index] for place in listed if place.index in whole]

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._dataset.root).as_posix()

    def _read_file(self, path: Path, places: Sequence[EpisodePlace]) -> dict[int, Episode]:
        columns = {CLOCK, NUMBER, "episode_index", *self._columns}
        found: dict[int, Episode] = {}
        try:
            with pq.ParquetFile(path) as file:
                table = file.read(columns=[name for name in file.schema_arrow.names if name in columns])
            rows = {place.index: np.arange(table.num_rows) for place in places}
            if "episode_index" in table.column_names:
                of_row = column_array(table.column("episode_index"), np.float64)[:, 0]  # of no episode: NaN, at the end
                order = np.argsort(of_row, kind="stable")
                rows = {index: order[slice(*np.searchsorted(of_row[order], [index, index + 1]))] for index in rows}
        except DAMAGE as error:
            self.faults += [(place.index, f"{self._relative(path)}: {describe(error)}") for place in places]
            return {}
        for place in places:
            try:
                mine = table.take(pa.array(rows[place.index]))
                found[place.index] = self._episode(rows_of(mine, self._columns, self._dataset.fps), place)
            except DAMAGE as error:
                reason = describe(error).removeprefix("ValueError: ")
                self.faults.append((place.index, f"{self._relative(path)}: {reason}"))
        return found

    def _episode(self, rows: EpisodeRows, place: EpisodePlace) -> Episode:
        """Raises ValueError where its rows cannot be used."""
        success = rows.columns.get(SUCCESS)
        return Episode(
            index=place.index,
            group=self._dataset.group(place.index),
            instructions=self._instructions(rows, place.text),
            t_s=rows.t_s,
            state=_values(rows, self._state),
            action=_values(rows, self._action),
            videos=place.videos,
            success=None if success is None else bool(np.nan_to_num(success).any()),
        )

    def _instructions(self, rows: EpisodeRows, default: str) -> list[str]:
        """One for each row: the annotation's, else the row's task, else the episode's first task."""
        for column in (self._annotation, "task_index"):
            if self._tasks and column in rows.columns:
                numbers = rows[column][:, 0]
                known = numbers[np.isfinite(numbers)]
                if len(known) and all(number in self._tasks for number in np.unique(known)):
                    return [(self._tasks[int(number)] if np.isfinite(number) else "") or default for number in numbers]
        return [default] * len(rows)


def _first_task(record: Mapping[str, Any]) -> str:
    """The first that is not empty."""
    tasks = record.get("tasks")
    texts = [text_of(task) for task in ([tasks] if isinstance(tasks, str) else tasks or [])]
    return next(filter(None, texts), "")


def _length(record: Mapping[str, Any]) -> int:
    return int(record.get("length") or 0)


def _is_empty(path: Path) -> bool:
    """Or not there."""
    return stamp_of(path)[0] == 0


def _values(rows: EpisodeRows, parts: Sequence[ModalityPart]) -> NDArray[np.float32] | None:
    """[N, D] of the parts. Raises ValueError for what cannot be read, is too narrow, or not finite."""
    if not parts:
        return None
    for part in parts:
        if rows[part.column].shape[1] < part.end:
            raise ValueError(f"'{part.column}' has {rows[part.column].shape[1]} dimensions, not {part.end}")
    values = np.concatenate([rows[part.column][:, part.start : part.end] for part in parts], 1)
    if not np.isfinite(values).all():
        raise ValueError(f"numbers that are not finite in {sorted({part.column for part in parts})}")
    return values


def _choose_cameras(dataset: LeRobotDataset, named: Mapping[str, str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Features of type video, each once, in the order asked for. `named`: modality.json's name -> feature."""
    root, videos = dataset.root, dataset.cameras
    if not videos:
        raise ValueError(
            f"dataset '{root}' has no feature of type video; images inside of Parquet files are not read: convert them"
        )
    aliases = {name: key if key in videos else f"observation.images.{name}" for name, key in named.items()}
    if not wanted:
        depth = [key for key in videos if dataset.is_depth(key)]
        _tell_of_depth(str(root), *depth)
        wanted = [key for key in aliases.values() if key in videos and key not in depth] or [
            key for key in videos if key not in depth and dataset.holds(key)
        ]
    chosen: list[str] = []
    for name in wanted:
        key = aliases.get(name, name)
        matches = [video for video in videos if key in (video, video.rpartition(".")[2])]
        if not matches:
            raise ValueError(f"camera '{name}': dataset '{root}' has none of this name; it has {list(videos)}")
        if not dataset.holds(matches[0]):
            raise ValueError(
                f"camera '{name}': dataset '{root}' names it but holds no video of it: {dataset.lacks(matches[0])}"
            )
        chosen += [match for match in matches[:1] if match not in chosen]
    if not chosen:
        lacks = [f"; {dataset.lacks(key)}" for key in videos if not dataset.holds(key)]
        raise ValueError(
            f"dataset '{root}' names the cameras {list(videos)} but holds no video in colour of any{''.join(lacks[:1])}"
        )
    return tuple(chosen)


@functools.cache
def _tell_of_depth(root: str, *cameras: str) -> None:
    """Once, however often a dataset is opened."""
    if cameras:
        log.warning("dataset '%s': cameras %s are %s", root, list(cameras), IS_DEPTH)
