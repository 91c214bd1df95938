"""Episodes of a robot as a policy learns from them: states, actions and instructions row by row, and where the videos
lie. LeRobot v2.0, v2.1 and v3.0, with GR00T's meta/modality.json where there is one.

    episodes = RobotEpisodes("recordings/pick", cameras=["head"], state=["right_arm"], action=["right_arm"])
    for episode in episodes.episodes:
        print(episode.index, episode.instruction, episode.state.shape, episode.videos)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.episodes.lerobot import LeRobotDataset, LeRobotEpisode, column_array, has_videos, list_episodes
from corpora.episodes.modality import ModalityPart, choose_parts, read_modality
from corpora.episodes.previous_action import with_previous_action
from corpora.sources.source import stamp_of
from corpora.video.decode import describe

SUCCESS = "next.success"
_DAMAGE = (OSError, KeyError, ValueError, TypeError, pa.ArrowException)


@dataclass(frozen=True)
class VideoSpan:
    """The stretch of a video file that shows an episode."""

    path: Path
    from_s: float
    """Time in the file of the episode's beginning, counted from the file's first frame."""
    to_s: float | None
    """None: to the end of the file."""


@dataclass(frozen=True)
class RobotEpisode:
    """One demonstration; N rows, Ds and Da dimensions of the chosen parts."""

    index: int
    """As the dataset numbers it."""
    group: str
    """The unit of hold-out, "<dataset>/episode_000003"."""
    instruction: str
    """At its beginning; "" where there is none."""
    start: int
    """Its rows are [start, stop) of the arrays of `RobotEpisodes`."""
    stop: int
    t_s: NDArray[np.float64]
    """[N], ascending, seconds from the beginning of its videos."""
    state: NDArray[np.float32] | None
    """[N, Ds]."""
    action: NDArray[np.float32] | None
    """[N, Da]."""
    videos: dict[str, VideoSpan]
    """Camera -> where its pictures lie."""
    succeeded: bool | None = None
    """Whether any row says so in `next.success`; None where the dataset has no such column."""


@dataclass(frozen=True)
class _Rows:
    """What the data file says of one episode."""

    t_s: NDArray[np.float64]
    state: NDArray[np.float32] | None
    action: NDArray[np.float32] | None
    tasks: list[str]
    succeeded: bool | None


class RobotEpisodes:
    """The episodes of the LeRobot dataset at `root`.

    `cameras`: features or their last parts ("head"), or modality.json's names; empty: those of modality.json, else all
    that have videos and are no depth maps. `state`, `action`: parts of modality.json, columns, or dimensions ("7:14");
    empty: all parts, else the whole feature; `state=None`: no state. `indices`: only these episodes. `previous_action`: the
    state also holds the action of the row before, see `with_previous_action`.

    An episode whose rows or videos are missing or damaged is left out and listed in `faults`. Raises ValueError where
    the dataset cannot be read at all, lacks what was asked for, or has no episode left.
    """

    t_s: NDArray[np.float64]
    """[R], rows of all episodes one after the other."""
    state: NDArray[np.float32] | None
    """[R, Ds]; None where the dataset has no state, or none was asked for."""
    action: NDArray[np.float32] | None
    """[R, Da]; None where the dataset has no actions."""
    instruction: NDArray[np.int32]
    """[R], indices into `instructions`."""
    instructions: tuple[str, ...]
    episodes: list[RobotEpisode]

    def __init__(
        self,
        root: str | Path,
        *,
        cameras: Sequence[str] = (),
        state: Sequence[str] | None = (),
        action: Sequence[str] = (),
        indices: Iterable[int] | None = None,
        previous_action: bool = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.name = self.root.resolve().name
        self.info = _read_info(self.root)
        features: dict[str, Any] = self.info["features"]
        self.modality = read_modality(self.root, features)
        self.fps = float(self.info["fps"])
        """Rows a second."""
        self.robot_type = str(self.info.get("robot_type") or "")
        self.cameras = _choose_cameras(self.root, features, self.modality.cameras, cameras)
        """Video features."""
        self.state_parts = () if state is None else choose_parts(self.modality.state, state, "state", features)
        self.action_parts = choose_parts(self.modality.action, action, "action", features)
        self.state_names = tuple(dim for part in self.state_parts for dim in part.dims)
        """One for each of the Ds dimensions."""
        self.action_names = tuple(dim for part in self.action_parts for dim in part.dims)
        self.faults: list[tuple[int, str]] = []
        """(index, reason) of the episodes that were left out."""
        self._dataset = LeRobotDataset(self.root, self.name, self.info, self.cameras)
        self._tasks = _read_tasks(self.root)
        self._gather(self._listed(indices))
        if previous_action:
            self._remember_actions()

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def indices(self) -> list[int]:
        """Of the episodes, in order."""
        return [episode.index for episode in self.episodes]

    @property
    def state_slices(self) -> dict[str, slice]:
        """Part -> its place in the Ds dimensions."""
        return _slices(self.state_parts)

    @property
    def action_slices(self) -> dict[str, slice]:
        """Part -> its place in the Da dimensions."""
        return _slices(self.action_parts)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the videos and with the rows' times, not with the folder in which the dataset lies."""
        digest = hashlib.blake2b(self.t_s.tobytes(), digest_size=16)
        for episode in self.episodes:
            for camera, span in episode.videos.items():
                path = span.path.relative_to(self.root)
                facts = (episode.index, episode.start, camera, str(path), span.from_s, span.to_s, stamp_of(span.path))
                digest.update(repr(facts).encode())
        return digest.hexdigest()

    def _listed(self, indices: Iterable[int] | None) -> list[LeRobotEpisode]:
        wanted = None if indices is None else {int(index) for index in indices}
        try:
            listed = list(list_episodes(self._dataset))
        except _DAMAGE as error:
            raise ValueError(
                f"dataset '{self.root}': its list of episodes cannot be read ({describe(error)})"
            ) from error
        if wanted is None:
            return listed
        lacking = wanted - {episode.index for episode in listed}
        if lacking:
            raise ValueError(
                f"episodes {sorted(lacking)[:8]}: dataset '{self.name}' does not list them; it has {len(listed)}"
            )
        return [episode for episode in listed if episode.index in wanted]

    def _gather(self, listed: Sequence[LeRobotEpisode]) -> None:
        """Reads each data file once, and joins the rows of the episodes that are whole."""
        by_file: dict[str, list[LeRobotEpisode]] = defaultdict(list)
        for episode in listed:
            reason = self._missing(episode)
            if reason:
                self.faults.append((episode.index, reason))
            else:
                by_file[episode.data].append(episode)
        whole: dict[int, _Rows] = {}
        for relative, episodes in by_file.items():
            whole.update(self._read_file(relative, episodes))
        self.faults.sort()
        kept = [episode for episode in listed if episode.index in whole]
        if not kept:
            told = "; ".join(f"episode {index}: {reason}" for index, reason in self.faults[:3]) or "it lists none"
            raise ValueError(f"dataset '{self.root}' has no usable episode: {told}")
        rows = [whole[episode.index] for episode in kept]
        self.t_s = np.concatenate([part.t_s for part in rows])
        self.state = _joined([part.state for part in rows])
        self.action = _joined([part.action for part in rows])
        numbers: dict[str, int] = {}
        told_rows = [numbers.setdefault(task, len(numbers)) for part in rows for task in part.tasks]
        self.instruction = np.asarray(told_rows, np.int32)
        self.instructions = tuple(numbers)
        self.episodes, stop = [], 0
        for episode, part in zip(kept, rows, strict=True):
            start, stop = stop, stop + len(part.t_s)
            videos = {
                camera: VideoSpan(self.root / path, from_s, to_s)
                for camera, (path, from_s, to_s) in episode.videos.items()
            }
            state = None if self.state is None else self.state[start:stop]
            action = None if self.action is None else self.action[start:stop]
            group = self._dataset.group(episode.index)
            self.episodes.append(
                RobotEpisode(
                    episode.index,
                    group,
                    part.tasks[0],
                    start,
                    stop,
                    self.t_s[start:stop],
                    state,
                    action,
                    videos,
                    part.succeeded,
                )
            )

    def _remember_actions(self) -> None:
        if self.action is None:
            raise ValueError(f"dataset '{self.name}' has no actions: previous_action has nothing to remember")
        starts = [episode.start for episode in self.episodes]
        self.state, self.state_names = with_previous_action(
            self.state, self.action, self.state_names, self.action_names, starts
        )
        self.episodes = [
            dataclasses.replace(episode, state=self.state[episode.start : episode.stop]) for episode in self.episodes
        ]

    def _missing(self, episode: LeRobotEpisode) -> str:
        for relative in (episode.data, *(path for path, _, _ in episode.videos.values())):
            if stamp_of(self.root / relative)[0] == 0:
                return f"missing or empty file: {relative}"
        return ""

    def _read_file(self, relative: str, episodes: Sequence[LeRobotEpisode]) -> dict[int, _Rows]:
        """Episode -> rows of one data file; what is damaged goes to `faults`."""
        annotation = self.modality.instruction_column
        columns = {"timestamp", "episode_index", "task_index", SUCCESS, annotation} - {""}
        columns |= {part.column for part in (*self.state_parts, *self.action_parts)}
        found: dict[int, _Rows] = {}
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

    def _rows(self, table: pa.Table, episode: LeRobotEpisode) -> _Rows:
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
        return _Rows(t_s, state, action, self._instructions(table, order, episode), succeeded)

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


def _slices(parts: Sequence[ModalityPart]) -> dict[str, slice]:
    ends = np.cumsum([part.width for part in parts]).tolist()
    return {part.name: slice(end - part.width, end) for part, end in zip(parts, ends, strict=True)}


def _joined(parts: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None
