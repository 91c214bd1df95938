"""LeRobot's layouts, as they are written: where an episode's rows and videos lie, and what the metadata say. A kind each.

LAYOUTS["lerobot-v2.1"].write(root, info, episodes, tasks)
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpora.episodes.columns import column_array, tasks_table
from corpora.episodes.lerobot_stats import Stats, merge_image_stats, vector_stats
from corpora.episodes.lerobot_writer import DATA_PATH, EPISODES_PATH, FILES_IN_CHUNK, VIDEO_PATH, flagged, under
from corpora.store.files import as_utf8, replacing, write_json, write_text, written_whole

DATA_FILE_MB, VIDEO_FILE_MB = 100, 200
"""What info.json of v3.0 says of its files; here a video file holds one episode."""


@dataclass(frozen=True)
class ReadyEpisode:
    """An episode whose rows and videos wait in a folder."""

    folder: Path
    length: int
    tasks: tuple[str, ...]
    stats: Mapping[str, Stats]
    """Feature -> its statistics."""

    @property
    def rows(self) -> Path:
        return self.folder / "rows.parquet"

    def video(self, camera: str) -> Path:
        return self.folder / f"{camera}.mp4"


class Layout(ABC):
    """A way to lie on disk. Files that are there already are taken for what would be written."""

    version: ClassVar[str]
    h264: ClassVar[bool] = False
    """Whether videos of another codec are encoded anew."""
    needs_modality: ClassVar[bool] = False
    """Whether there must be a meta/modality.json; otherwise it is kept where there is one."""

    def write(
        self, root: Path, info: Mapping[str, Any], episodes: Sequence[ReadyEpisode], tasks: Sequence[str]
    ) -> None:
        """`info`: features, fps, robot_type, and modality for meta/modality.json; the rest is of the layout. `tasks`: texts by
        number. info.json comes last: before it is there, the folder is no dataset."""
        for path in (root / "data", root / "meta"):
            path.mkdir(parents=True, exist_ok=True)
        cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
        self._files(root, cameras, float(info["fps"]), episodes, tasks)
        stats = dataset_stats(info["features"], episodes)
        self._extras(root, info, stats)
        total = {
            "codebase_version": self.version,
            "robot_type": info.get("robot_type"),
            "total_episodes": len(episodes),
            "total_frames": sum(episode.length for episode in episodes),
            "total_tasks": len(tasks),
            "chunks_size": FILES_IN_CHUNK,
            "fps": info["fps"],
            "splits": {"train": f"0:{len(episodes)}"},
        }
        features = {name: _flagged(feature, stats.get(name)) for name, feature in info["features"].items()}
        own = self._own(len(episodes), len(cameras))
        write_json(root / "meta" / "info.json", {**total, **own, "features": features})

    @abstractmethod
    def _files(
        self, root: Path, cameras: Sequence[str], fps: float, episodes: Sequence[ReadyEpisode], tasks: Sequence[str]
    ) -> None: ...

    @abstractmethod
    def _own(self, episodes: int, cameras: int) -> dict[str, Any]:
        """What info.json says in this layout alone."""

    def _extras(self, root: Path, info: Mapping[str, Any], stats: Mapping[str, Stats]) -> None:
        """Further files; `stats`: of the whole dataset."""
        write_json(root / "meta" / "stats.json", stats)
        if info.get("modality"):
            write_json(root / "meta" / "modality.json", info["modality"])


class LeRobotV21(Layout):
    """A file an episode."""

    version = "v2.1"
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"

    def _files(
        self, root: Path, cameras: Sequence[str], fps: float, episodes: Sequence[ReadyEpisode], tasks: Sequence[str]
    ) -> None:
        first = 0
        for number, episode in enumerate(episodes):
            place = {"episode_chunk": number // FILES_IN_CHUNK, "episode_index": number}
            with replacing(root / self.data.format(**place)) as temporary:
                pq.write_table(numbered(pq.read_table(episode.rows), number, first), temporary)
            for camera in cameras:
                put(episode.video(camera), root / self.video.format(video_key=camera, **place))
            first += episode.length
        lines = (
            {"episode_index": n, "tasks": list(each.tasks), "length": each.length} for n, each in enumerate(episodes)
        )
        _write_lines(root / "meta" / "episodes.jsonl", lines)
        _write_lines(root / "meta" / "tasks.jsonl", ({"task_index": n, "task": text} for n, text in enumerate(tasks)))
        stats = ({"episode_index": number, "stats": dict(each.stats)} for number, each in enumerate(episodes))
        _write_lines(root / "meta" / "episodes_stats.jsonl", stats)

    def _own(self, episodes: int, cameras: int) -> dict[str, Any]:
        return {
            "total_videos": episodes * cameras,
            "total_chunks": -(-episodes // FILES_IN_CHUNK),
            "data_path": self.data,
            "video_path": self.video,
        }


class LeRobotV30(Layout):
    """Rows of many episodes in a file; each episode's videos stay files of their own, which need not be encoded alike."""

    version = "v3.0"

    def _files(
        self, root: Path, cameras: Sequence[str], fps: float, episodes: Sequence[ReadyEpisode], tasks: Sequence[str]
    ) -> None:
        records: list[dict[str, Any]] = []
        first = 0
        for file, together in enumerate(_files_of(episodes, DATA_FILE_MB)):
            place = {"chunk_index": file // FILES_IN_CHUNK, "file_index": file % FILES_IN_CHUNK}
            schema = numbered(pq.read_table(together[0].rows), 0, 0).schema
            with (
                replacing(root / DATA_PATH.format(**place)) as temporary,
                pq.ParquetWriter(temporary, schema) as writer,
            ):
                for episode in together:
                    number = len(records)
                    writer.write_table(numbered(pq.read_table(episode.rows), number, first))
                    own = {"chunk_index": number // FILES_IN_CHUNK, "file_index": number % FILES_IN_CHUNK}
                    span = {"from_timestamp": 0.0, "to_timestamp": episode.length / fps}
                    record: dict[str, Any] = {
                        "episode_index": number,
                        "tasks": list(episode.tasks),
                        "length": episode.length,
                        **under("data", place),
                        "dataset_from_index": first,
                        "dataset_to_index": first + episode.length,
                    }
                    for camera in cameras:
                        put(episode.video(camera), root / VIDEO_PATH.format(video_key=camera, **own))
                        record |= under(f"videos/{camera}", {**own, **span})
                    for name, found in episode.stats.items():
                        record |= under(f"stats/{name}", found)
                    records.append(record | under("meta/episodes", {"chunk_index": 0, "file_index": 0}))
                    first += episode.length
        with replacing(root / EPISODES_PATH.format(chunk_index=0, file_index=0)) as temporary:
            pq.write_table(pa.Table.from_pylist(records), temporary)
        with replacing(root / "meta" / "tasks.parquet") as temporary:
            pq.write_table(tasks_table(tasks), temporary)

    def _own(self, episodes: int, cameras: int) -> dict[str, Any]:
        return {
            "data_files_size_in_mb": DATA_FILE_MB,
            "video_files_size_in_mb": VIDEO_FILE_MB,
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
        }


class Groot(LeRobotV21):
    """v2.1 as Isaac-GR00T reads it: meta/modality.json with an annotation, statistics without `count`, H.264."""

    h264 = True
    needs_modality = True

    def _extras(self, root: Path, info: Mapping[str, Any], stats: Mapping[str, Stats]) -> None:
        # N1.5 takes every statistic of a feature at the feature's dimensions, which `count` has not
        kept = {name: {kind: n for kind, n in found.items() if kind != "count"} for name, found in stats.items()}
        super()._extras(root, info, kept)


LAYOUTS: dict[str, Layout] = {"lerobot-v3": LeRobotV30(), "lerobot-v2.1": LeRobotV21(), "gr00t": Groot()}
"""By the name of --format."""


def numbered(table: pa.Table, number: int, first: int) -> pa.Table:
    """Rows of an episode with its number, and those of its rows in the dataset from `first` on."""
    count = table.num_rows
    frames = np.arange(count)
    columns = {"episode_index": np.full(count, number), "index": first + frames, "frame_index": frames}
    for name, values in columns.items():
        column = pa.array(values, pa.int64())
        place = table.schema.get_field_index(name)
        table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    return table


def put(staged: Path, target: Path) -> None:
    """The same file under another name, or a copy where the disk has no links."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(staged, target)
    except OSError:
        with written_whole(target) as temporary:
            shutil.copyfile(staged, temporary)


def dataset_stats(features: Mapping[str, Mapping[str, Any]], episodes: Sequence[ReadyEpisode]) -> dict[str, Stats]:
    """Feature -> statistics over all rows, exactly, one feature in memory; of images as `merge_image_stats`."""
    found: dict[str, Stats] = {}
    for name, feature in features.items():
        parts = [episode.stats[name] for episode in episodes if name in episode.stats]
        if feature["dtype"] == "video":
            found[name] = merge_image_stats(parts)
        elif parts:
            tables = [pq.read_table(episode.rows, columns=[name]) for episode in episodes]
            columns = [column_array(table.column(name), np.float64) for table in tables]
            found[name] = vector_stats(np.concatenate(columns))
    return found


def _flagged(feature: Mapping[str, Any], stats: Stats | None) -> dict[str, Any]:
    flags = flagged(feature["dtype"], stats) if stats and feature["dtype"] != "video" else {}
    return {**feature, "info": {**(feature.get("info") or {}), **flags}} if flags else dict(feature)


def _write_lines(path: Path, records: Iterator[Mapping[str, Any]]) -> None:
    write_text(path, as_utf8("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)))


def _files_of(episodes: Sequence[ReadyEpisode], limit_mb: int) -> Iterator[list[ReadyEpisode]]:
    """Episodes whose rows make one file."""
    together: list[ReadyEpisode] = []
    used = 0
    for episode in episodes:
        size = episode.rows.stat().st_size
        if together and used + size > limit_mb * 2**20:
            yield together
            together, used = [], 0
        together.append(episode)
        used += size
    yield together
