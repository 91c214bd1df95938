"""LeRobot datasets v2.0, v2.1 and v3.0 as episodes, with GR00T's meta/modality.json where there is one."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.episodes.episode import Episode, Episodes, EpisodeSelection, VideoSpan
from corpora.episodes.frames import VideoReader
from corpora.episodes.lerobot import LeRobotDataset, LeRobotEpisode, column_array, has_videos, list_episodes
from corpora.episodes.modality import ModalityPart, choose_parts, read_modality
from corpora.store.files import stamp_of
from corpora.video.decode import describe

SUCCESS = "next.success"
_DAMAGE = (OSError, KeyError, ValueError, TypeError, pa.ArrowException)


def read_lerobot_episodes(root: Path, selection: EpisodeSelection) -> Episodes:
    """All episodes of the LeRobot dataset at `root`, with the cameras and columns of `selection`.

    Cameras: features or their last parts ("head"), or modality.json's names; empty: those of modality.json, else all
    that have videos and are no depth maps. State, action: parts of modality.json, columns, or dimensions ("7:14"); empty:
    all parts, else the whole feature. Raises ValueError as `open_episodes`.
    """
    return _Reader(root, selection).read(selection)


class _Reader:
    def __init__(self, root: Path, selection: EpisodeSelection) -> None:
        self.root = root
        self.name = self.root.resolve().name
        self.info = _read_info(self.root)
        features: dict[str, Any] = self.info["features"]
        self.modality = read_modality(self.root, features)
        self.fps = float(self.info["fps"])
        self.cameras = _choose_cameras(self.root, features, self.modality.cameras, selection.cameras)
        self.state_parts = choose_parts(self.modality.state, selection.state, "state", features)
        self.action_parts = choose_parts(self.modality.action, selection.action, "action", features)
        self.faults: list[tuple[int, str]] = []
        self._dataset = LeRobotDataset(self.root, self.name, self.info, self.cameras)
        self._tasks = _read_tasks(self.root)

    def read(self, selection: EpisodeSelection) -> Episodes:
        whole = self._episodes()
        episodes = Episodes(
            root=self.root,
            name=self.name,
            fps=self.fps,
            robot_type=str(self.info.get("robot_type") or ""),
            cameras=self.cameras,
            modality=self.modality,
            state_parts=self.state_parts,
            action_parts=self.action_parts,
            episodes=whole,
            faults=sorted(self.faults),
            reader=VideoReader(),
            state_names=tuple(dim for part in self.state_parts for dim in part.dims),
            action_names=tuple(dim for part in self.action_parts for dim in part.dims),
        )
        return episodes.with_previous_action() if selection.previous_action else episodes

    def _episodes(self) -> list[Episode]:
        """Those that are whole, in the order of the metadata; each data file is read once."""
        try:
            listed = list(list_episodes(self._dataset))
        except _DAMAGE as error:
            raise ValueError(
                f"dataset '{self.root}': its list of episodes cannot be read ({describe(error)})"
            ) from error
        by_file: dict[str, list[LeRobotEpisode]] = defaultdict(list)
        for episode in listed:
            reason = self._missing(episode)
            if reason:
                self.faults.append((episode.index, reason))
            else:
                by_file[episode.data].append(episode)
        whole: dict[int, Episode] = {}
        for relative, episodes in by_file.items():
            whole.update(self._read_file(relative, episodes))
        return [whole[episode.index] for episode in listed if episode.index in whole]

    def _missing(self, episode: LeRobotEpisode) -> str:
        for relative in (episode.data, *(path for path, _, _ in episode.videos.values())):
            if stamp_of(self.root / relative)[0] == 0:
                return f"missing or empty file: {relative}"
        return ""

    def _read_file(self, relative: str, episodes: Sequence[LeRobotEpisode]) -> dict[int, Episode]:
        """Index -> episode, of one data file; what is damaged goes to `faults`."""
        annotation = self.modality.instruction_column
        columns = {"timestamp", "episode_index", "task_index", SUCCESS, annotation} - {""}
        columns |= {part.column for part in (*self.state_parts, *self.action_parts)}
        found: dict[int, Episode] = {}
        try:
            with pq.ParquetFile(self.root / relative) as file:
                table = file.read(columns=[name for name in file.schema_arrow.names if name in columns])
            place = {episode.index: np.arange(table.num_rows) for episode in episodes}
            if "episode_index" in table.column_names:
                of_row = column_array(table.column("episode_index"), np.int64)[:, 0]
                order = np.argsort(of_row, kind="stable")
                place = {index: order[slice(*np.searchsorted(of_row[order], [index, index + 1]))] for index in place}
        except _DAMAGE as error:
            self.faults += [(episode.index, f"{relative}: {describe(error)}") for episode in episodes]
            return {}
        for episode in episodes:
            try:
                found[episode.index] = self._rows(table.take(pa.array(place[episode.index])), episode)
            except _DAMAGE as error:
                self.faults.append((episode.index, f"{relative}: {describe(error)}"))
        return found

    def _rows(self, table: pa.Table, episode: LeRobotEpisode) -> Episode:
        """Raises ValueError (or what pyarrow raises) where rows cannot be used."""
        if table.num_rows == 0:
            raise ValueError("no row of this episode")
        t_s = column_array(table.column("timestamp"), np.float64)[:, 0]
        order = np.argsort(t_s, kind="stable")
        t_s = t_s[order]
        if not np.isfinite(t_s).all() or (np.diff(t_s) <= 0).any():
            raise ValueError("times that are not finite and ascending")
        # Some recorders stamp a row after its first step, the video from 0: the first row belongs to the first frame.
        # (In GR00T's demonstration data joint speeds and picture changes agree best so.)
        if 0 < t_s[0] <= 1.5 / self.fps:
            t_s = t_s - t_s[0]
        state, action = (self._values(table, parts, order) for parts in (self.state_parts, self.action_parts))
        succeeded = None
        if SUCCESS in table.column_names:
            succeeded = bool(column_array(table.column(SUCCESS), np.float32).any())
        videos = {
            camera: VideoSpan(self.root / path, from_s, to_s) for camera, (path, from_s, to_s) in episode.videos.items()
        }
        return Episode(
            episode.index,
            self._dataset.group(episode.index),
            self._instructions(table, order, episode),
            t_s,
            state,
            action,
            videos,
            succeeded,
        )

    @staticmethod
    def _values(table: pa.Table, parts: Sequence[ModalityPart], order: NDArray[np.int64]) -> NDArray[np.float32] | None:
        if not parts:
            return None
        columns = {part.column: column_array(table.column(part.column), np.float32) for part in parts}
        for part in parts:
            if columns[part.column].shape[1] < part.end:
                raise ValueError(f"'{part.column}' has {columns[part.column].shape[1]} dimensions, not {part.end}")
        values = np.concatenate([columns[part.column][:, part.start : part.end] for part in parts], 1)[order]
        if not np.isfinite(values).all():
            raise ValueError(f"numbers that are not finite in {sorted(columns)}")
        return values

    def _instructions(self, table: pa.Table, order: NDArray[np.int64], episode: LeRobotEpisode) -> list[str]:
        """One for each row: the annotation's, else the row's task, else the episode's first task."""
        for column in (self.modality.instruction_column, "task_index"):
            if column and self._tasks and column in table.column_names:
                numbers = column_array(table.column(column), np.float64)[order, 0]
                if all(number in self._tasks for number in np.unique(numbers)):
                    return [self._tasks[int(number)] for number in numbers]
        return [episode.text] * table.num_rows


def _read_info(root: Path) -> dict[str, Any]:
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise ValueError(f"'{root}' is not a LeRobot dataset: it has no meta/info.json")
    try:
        info = json.loads(path.read_text("utf-8"))
        version = str(info.get("codebase_version", ""))
        if not isinstance(info["features"], dict) or not float(info["fps"]) > 0:
            raise ValueError("features or fps")
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({describe(error)}); restore it from where the data came") from error
    if version.lstrip("v")[:1] not in ("2", "3"):
        raise ValueError(
            f"'{root}' is of LeRobot version '{version}'; 2.0, 2.1 and 3.0 are read: convert it with LeRobot's own tool"
        )
    return dict(info)


def _choose_cameras(root: Path, features: dict[str, Any], named: Any, wanted: Sequence[str]) -> tuple[str, ...]:
    """Features of type video, each once, in the order asked for."""
    videos = [key for key, feature in features.items() if feature.get("dtype") == "video"]
    if not videos:
        raise ValueError(
            f"dataset '{root}' has no feature of type video; pictures inside of Parquet files are not read: convert them"
        )
    aliases = {name: key if key in videos else f"observation.images.{name}" for name, key in named.items()}
    if not wanted:
        wanted = [key for key in aliases.values() if key in videos] or [
            key for key in videos if not _is_depth(features[key]) and has_videos(root, key)
        ]
    chosen: list[str] = []
    for name in wanted:
        key = aliases.get(name, name)
        matches = [video for video in videos if key in (video, video.rpartition(".")[2])]
        if not matches:
            raise ValueError(f"camera '{name}': dataset '{root}' has none of this name; it has {videos}")
        if not has_videos(root, matches[0]):
            raise ValueError(f"camera '{name}': dataset '{root}' names it but holds no video of it")
        chosen += [match for match in matches[:1] if match not in chosen]
    if not chosen:
        raise ValueError(f"dataset '{root}' names the cameras {videos} but holds no video of any")
    return tuple(chosen)


def _is_depth(feature: dict[str, Any]) -> bool:
    facts = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(facts.get("video.is_depth_map"))


def _read_tasks(root: Path) -> dict[float, str]:
    """task_index -> text, of tasks.jsonl (v2) or tasks.parquet (v3); empty where there is neither."""
    lines, table = root / "meta" / "tasks.jsonl", root / "meta" / "tasks.parquet"
    try:
        if lines.is_file():
            records = [json.loads(line) for line in lines.read_text("utf-8").splitlines() if line.strip()]
            return {int(record["task_index"]): str(record["task"]) for record in records}
        if table.is_file():
            columns = pq.read_table(table).to_pydict()
            numbers = columns.pop("task_index")
            texts = next(values for values in columns.values() if values and isinstance(values[0], str))
            return {int(number): text for number, text in zip(numbers, texts, strict=True)}
    except (*_DAMAGE, StopIteration, AttributeError) as error:
        raise ValueError(f"the tasks of dataset '{root}' cannot be read ({describe(error)}); restore meta/") from error
    return {}
