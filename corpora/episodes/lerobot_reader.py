"""Episodes of LeRobot datasets as a policy learns from them: every version alike, damage left out with its reason.

episodes = read_lerobot(Path("recordings/pick"), EpisodeSelection(cameras=("head",)))
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpora.episodes.columns import column_array
from corpora.episodes.episode import Episode, Episodes
from corpora.episodes.frames import VideoReader
from corpora.episodes.image_columns import ImageColumnReader
from corpora.episodes.lerobot import DAMAGE, IS_DEPTH, EpisodePlace, LeRobotDataset
from corpora.episodes.lerobot_layout import why_missing
from corpora.episodes.modality import (
    Modality,
    ModalityPart,
    camera_named,
    choose_parts,
    joined,
    names_of,
    read_modality,
)
from corpora.episodes.rows import CLOCK, NUMBER, EpisodeRows, rows_of
from corpora.episodes.selection import EpisodeSelection
from corpora.store.files import machine_trouble
from corpora.store.told import warn_once
from corpora.video.probe import describe

log = logging.getLogger(__name__)

SUCCESS = "next.success"


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
    in_rows = not dataset.cameras  # its images lie in the data files
    whole = reader.read(() if in_rows else cameras)
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
        reader=ImageColumnReader(reader.files) if in_rows else VideoReader(),
        state_names=names_of(state),
        action_names=names_of(action),
        views={camera: view for camera in cameras if (view := dataset.view(camera)) is not None},
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
        self.files: dict[int, Path] = {}
        """Episode -> the data file that holds its rows."""
        self._dataset, self._state, self._action = dataset, state, action
        self._annotation = modality.instruction_column
        self._tasks = dataset.tasks()
        columns = {"task_index", SUCCESS, self._annotation, *(part.column for part in (*state, *action))}
        self._columns = columns - {""}

    def read(self, cameras: Sequence[str]) -> list[Episode]:
        """The episodes that are whole, in the order of the metadata; each data file is read once."""
        damaged: list[str] = []
        listed = list(self._dataset.episodes(cameras, damaged))
        if damaged and not listed:
            raise ValueError(f"dataset '{self._dataset.root}': {damaged[0]}")
        for told in filter(None, (*damaged, self._dataset.unlisted(len(listed)))):
            log.warning("dataset '%s': %s", self._dataset.root, told)
        by_file: dict[Path, list[EpisodePlace]] = defaultdict(list)
        unpainted = {
            index: f"camera {camera} is not painted in it, as in the others: {why}"
            for camera in cameras
            for index, why in self._dataset.unpainted(camera).items()
        }
        for place in listed:
            if place.index in unpainted:
                self.faults.append((place.index, unpainted[place.index]))
                continue
            if place.data is None or place.lost:
                self.faults.append((place.index, "; ".join(place.lost.values())))
                continue
            missing = [path for path in (place.data, *(span.path for span in place.videos.values())) if _is_empty(path)]
            if missing:
                why = why_missing(self._dataset.root, missing[0])
                self.faults.append((place.index, f"missing or empty file: {why}"))
            else:
                by_file[place.data].append(place)
        whole: dict[int, Episode] = {}
        for path, places in by_file.items():
            whole.update(self._read_file(path, places))
        return [whole[place.index] for place in listed if place.index in whole]

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._dataset.root).as_posix()

    def _read_file(self, path: Path, places: Sequence[EpisodePlace]) -> dict[int, Episode]:
        found: dict[int, Episode] = {}
        try:
            table, damage = _sound_rows(path, {CLOCK, NUMBER, "episode_index", *self._columns})
            rows = {place.index: np.arange(table.num_rows) for place in places}
            if "episode_index" in table.column_names:
                of_row = column_array(table.column("episode_index"), np.float64)[:, 0]  # of no episode: NaN, at the end
                order = np.argsort(of_row, kind="stable")
                rows = {index: order[slice(*np.searchsorted(of_row[order], [index, index + 1]))] for index in rows}
        except DAMAGE as error:
            if machine_trouble(error):
                raise
            self.faults += [(place.index, f"{self._relative(path)}: {describe(error)}") for place in places]
            return {}
        for place in places:
            if damage and len(rows[place.index]) != place.length:
                self.faults.append((place.index, f"{self._relative(path)}: {damage}"))
                continue
            try:
                mine = table.take(pa.array(rows[place.index]))
                self.files[place.index] = path
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
            state=joined(self._state, rows.__getitem__),
            action=joined(self._action, rows.__getitem__),
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


def _sound_rows(path: Path, columns: Collection[str]) -> tuple[pa.Table, str]:
    """The rows of a file that can be read, and what is wrong with the others: a damaged page costs its row group. Raises one
    of DAMAGE where no row group can be read."""
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name in columns]
        try:
            return file.read(columns=names), ""
        except DAMAGE as error:
            if machine_trouble(error):
                raise
            sound, damage = [], error
        for group in range(file.num_row_groups):
            try:
                sound.append(file.read_row_group(group, columns=names))
            except DAMAGE as error:
                if machine_trouble(error):
                    raise
    if not sound:
        raise damage
    return pa.concat_tables(sound), describe(damage)


def _is_empty(path: Path) -> bool:
    """Or not there. Raises OSError where the machine cannot say."""
    try:
        return path.stat().st_size == 0
    except (FileNotFoundError, NotADirectoryError):
        return True


def _choose_cameras(dataset: LeRobotDataset, named: Mapping[str, str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Features of type video, or of type image where there is none, each once, in the order asked for. `named`: modality.json's
    name -> feature."""
    root, videos = dataset.root, dataset.cameras
    if not videos:
        if not dataset.images:
            raise ValueError(f"dataset '{root}' has no feature of type video or image: there is nothing to see in it")
        known = {name: key if key in dataset.images else f"observation.images.{name}" for name, key in named.items()}
        return tuple(
            dict.fromkeys(camera_named(known.get(name, name), dataset.images, str(root)) for name in wanted)
        ) or (dataset.images)
    aliases = {name: key if key in videos else f"observation.images.{name}" for name, key in named.items()}
    if not wanted:
        depth = [key for key in videos if dataset.is_depth(key)]
        if depth:
            warn_once(log, f"dataset '{root}': cameras {depth} are {IS_DEPTH}")
        wanted = [key for key in aliases.values() if key in videos and key not in depth] or [
            key for key in videos if key not in depth and dataset.holds(key)
        ]
    chosen: list[str] = []
    for name in wanted:
        video = camera_named(aliases.get(name, name), videos, str(root))
        if not dataset.holds(video):
            raise ValueError(
                f"camera '{name}': dataset '{root}' names it but holds no video of it: {dataset.lacks(video)}"
            )
        chosen += [] if video in chosen else [video]
    if not chosen:
        lacks = [f"; {dataset.lacks(key)}" for key in videos if not dataset.holds(key)]
        raise ValueError(
            f"dataset '{root}' names the cameras {list(videos)} but holds no video in colour of any{''.join(lacks[:1])}"
        )
    return tuple(chosen)
