"""A LeRobot dataset in another of LeRobot's layouts: v2.0, v2.1 or v3.0 to v2.1, v3.0 or what Isaac-GR00T reads.

    converted = convert_dataset(LeRobotDataset.open(root), out, LAYOUTS["lerobot-v2.1"])

Videos are copied, or cut between keyframes; what can be neither, and images that lie in Parquet files, becomes H.264. Episodes
wait in `.converting`, each complete or absent, so that a killed conversion loses at most the one it was at.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpora.episodes.columns import arrow_type, column_array, table
from corpora.episodes.image_columns import images_of
from corpora.episodes.layouts import Layout, ReadyEpisode
from corpora.episodes.lerobot import DAMAGE, EpisodePlace, LeRobotDataset
from corpora.episodes.lerobot_stats import ImageStats, Stats, vector_stats
from corpora.episodes.lerobot_writer import BOOKKEEPING, video_facts
from corpora.episodes.modality import modality_json, read_modality
from corpora.episodes.pairing import pair
from corpora.store.files import machine_trouble
from corpora.store.told import faults_told
from corpora.video.cut import Cut, cut_video, off_rate_s, shown_frames
from corpora.video.encode import EpisodeVideo
from corpora.video.encoding import VideoEncoding
from corpora.video.probe import Unusable, describe, probe

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised when the same settings would give other files."""
STAGING = ".converting"
_NUMBERS = ("float32", "float64", "int64", "bool")
Progress = Callable[[int, int], None]
"""Called with (episodes done, of how many)."""


@dataclass(frozen=True)
class Converted:
    """What became of a dataset."""

    episodes: int
    rows: int
    sources: tuple[int, ...]
    """Of each episode its number in the source."""
    left: Mapping[int, str]
    """Episode of the source that is not there -> why."""
    videos: Mapping[str, int]
    """How the videos were made: copied, cut, encoded -> how many."""
    dropped: Mapping[str, str]
    """Feature that is not there -> why."""


def convert_dataset(
    dataset: LeRobotDataset,
    out: Path,
    layout: Layout,
    encoding: VideoEncoding | None = None,
    *,
    progress: Progress = lambda done, total: None,
) -> Converted:
    """Writes what is missing of the dataset at `out`.

    An episode whose rows or videos cannot be read is left out and told. Raises ValueError where none can be read, and for a rate that
    is no whole number.
    """
    if dataset.fps != round(dataset.fps):
        raise ValueError(f"'{dataset.root}' has {dataset.fps:g} rows a second: whole rates alone are written")
    converter = _Converter(dataset, out / STAGING, layout, encoding or VideoEncoding())
    places = dataset.all_episodes(converter.videos)
    ready: list[ReadyEpisode] = []
    sources, left, how = [], dict[int, str](), Counter[str]()
    progress(0, len(places))
    for done, place in enumerate(places, 1):
        try:
            episode, made = converter.stage(place)
            ready.append(episode)
            sources.append(place.index)
            how.update(made)
        except DAMAGE as error:
            if machine_trouble(error):
                raise
            left[place.index] = describe(error).removeprefix("ValueError: ")
        progress(done, len(places))
    if not ready:
        told = faults_told((f"episode {n}", why) for n, why in left.items()) or "its metadata list none"
        raise ValueError(f"no episode of '{dataset.root}' can be read: {told}")
    if left:
        told = faults_told((f"episode {number}", why) for number, why in left.items())
        log.warning("%d of %d episodes are left out: %s", len(left), len(places), told)
    for name, why in converter.dropped.items():
        log.warning("feature %s is left out: %s", name, why)
    features = converter.features(ready[0])
    modality = None
    if layout.needs_modality or (dataset.root / "meta" / "modality.json").is_file():
        modality = modality_json(read_modality(dataset.root, dataset.features), features)
    info = {
        "fps": round(dataset.fps),
        "robot_type": dataset.robot_type or None,
        "features": features,
        "modality": modality,
    }
    layout.write(out, info, ready, converter.tasks)
    rows = sum(episode.length for episode in ready)
    return Converted(len(ready), rows, tuple(sources), left, how, converter.dropped)


class _Converter:
    """Episode after episode to the staging folder."""

    def __init__(self, dataset: LeRobotDataset, staging: Path, layout: Layout, encoding: VideoEncoding) -> None:
        self._dataset, self._staging, self._layout, self._encoding = dataset, staging, layout, encoding
        self._fps = dataset.fps
        self.dropped: dict[str, str] = {}
        self.videos = [camera for camera in dataset.cameras if self._holds(camera)]
        self.images = dataset.images
        numbers = dataset.tasks()
        # what another column counts by (annotations) must stay; numbers that none has get a text of their own
        self.tasks = [numbers.get(n, f"unused task {n}") for n in range(max(numbers, default=-1) + 1)]
        self._number = {text: n for n, text in reversed(list(enumerate(self.tasks)))}

    def _holds(self, camera: str) -> bool:
        held = self._dataset.holds(camera)
        if not held:
            self.dropped[camera] = f"there is no video of it: {self._dataset.lacks(camera)}"
        return held

    def stage(self, place: EpisodePlace) -> tuple[ReadyEpisode, Mapping[str, int]]:
        """Raises one of DAMAGE where the episode cannot be read."""
        folder = self._staging / f"episode_{place.index:06d}"
        if not folder.is_dir():
            unfinished = self._staging / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            facts = self._write(place, unfinished)
            (unfinished / "facts.json").write_text(json.dumps(facts))
            os.replace(unfinished, folder)
        facts = json.loads((folder / "facts.json").read_text())
        for text in facts["new_tasks"]:
            self._task(text)
        self.dropped.update(facts["dropped"])
        return ReadyEpisode(folder, facts["length"], tuple(facts["tasks"]), facts["stats"]), facts["videos"]

    def features(self, like: ReadyEpisode) -> dict[str, Any]:
        """As info.json has them; sizes and codecs of videos that were made here are those of an episode `like` the others."""
        facts = json.loads((like.folder / "facts.json").read_text())
        made = facts["made"]
        found: dict[str, Any] = {}
        for name, feature in self._dataset.features.items():
            if name in self.dropped:
                continue
            if name in made:
                video = dict(feature.get("info") or feature.get("video_info") or {}) | made[name]["info"]
                rest = {key: value for key, value in feature.items() if key != "video_info"}
                names = ["height", "width", "channels"]
                found[name] = rest | {"dtype": "video", "shape": made[name]["shape"], "names": names, "info": video}
            else:
                found[name] = {"names": None, **feature}
            if name in facts["kept"]:  # what trainers ask for and not every dataset says
                found[name]["names"] = found[name]["names"] or ["height", "width", "channels"]
                if not feature.get("info") and not feature.get("video_info"):
                    found[name]["info"] = facts["kept"][name]
        return found | {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in BOOKKEEPING.items()}

    def _write(self, place: EpisodePlace, folder: Path) -> dict[str, Any]:
        if place.lost or place.data is None:
            raise ValueError("; ".join(place.lost.values()))
        rows = _rows_of(place)
        pictures = {name: rows.column(name) for name in self.images if name in rows.column_names}
        how: Counter[str] = Counter()
        made: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        stats: dict[str, Stats] = {}
        beside = bool(pictures)
        """Whether each row has a frame of its own, whatever the clocks say."""
        for camera in self.videos:
            cut, same = self._video(camera, place, len(rows), folder)
            beside = same and (beside or camera == self.videos[0])
            how[cut.how] += 1
            stats[camera] = _image_stats(folder / f"{camera}.mp4", len(rows))
            told = _made(cut.height, cut.width, self._fps)
            if cut.how == "encoded":
                made[camera] = told
            else:
                kept[camera] = told["info"] | {"video.codec": cut.codec}
                del kept[camera]["video.pix_fmt"]  # not looked at
        for name, column in pictures.items():
            with EpisodeVideo(folder / f"{name}.mp4", round(self._fps), self._encoding) as video:
                seen = ImageStats()
                for image in images_of(column, self._dataset.root):
                    video.add(image)
                    seen.add(image)
            how["encoded"] += 1
            stats[name] = seen.found()
            made[name] = _made(image.shape[0], image.shape[1], self._fps)
        if not beside:
            _check_clock(rows, self._fps)
        columns, new_tasks, texts = self._columns(rows, place)
        pq.write_table(columns, folder / "rows.parquet")
        stats |= {
            name: vector_stats(column_array(columns.column(name), np.float64))
            for name in columns.column_names
            if columns.schema.field(name).type not in (pa.string(), pa.large_string())
        }
        return {
            "length": len(rows),
            "tasks": texts,
            "new_tasks": new_tasks,
            "stats": stats,
            "videos": how,
            "made": made,
            "kept": kept,
            "dropped": self._lacking(rows),
        }

    def _video(self, camera: str, place: EpisodePlace, rows: int, folder: Path) -> tuple[Cut, bool]:
        """How the episode's video was made, and whether it has a frame for each row. Raises ValueError where it shows too little, and
        where neither count nor rate say which frame is whose."""
        span = place.videos[camera]
        try:
            facts = probe(span.path)
        except Unusable as error:
            raise ValueError(f"{camera}: {error}") from error
        paired = pair(facts, (span.from_s, span.to_s), None, self._fps)
        found = 0 if paired is None else paired.shown.stop - paired.shown.start
        if paired is None or found < rows:
            raise ValueError(f"{camera}: its video shows {found} of {rows} rows")
        off_s = off_rate_s(facts, paired.shown, self._fps)
        if found != rows and off_s > 0.5 / self._fps:
            raise ValueError(
                f"{camera}: its {found} frames are neither {self._fps:g} a second (off by {off_s:.3f} s) nor one for each of {rows} rows"
            )
        whole = (paired.shown.start, paired.shown.stop) == (0, len(facts.times))
        shown = paired.shown if whole else slice(paired.shown.start, paired.shown.start + rows)
        target = folder / f"{camera}.mp4"
        cut = cut_video(span.path, facts, shown, target, self._fps, self._encoding, h264=self._layout.h264)
        return cut, found == rows

    def _lacking(self, rows: pa.Table) -> dict[str, str]:
        known = {*rows.column_names, *self.videos, *self.dropped, *BOOKKEEPING}
        return {name: "no data file has it" for name in self._dataset.features if name not in known}

    def _columns(self, rows: pa.Table, place: EpisodePlace) -> tuple[pa.Table, list[str], list[str]]:
        """The rows as they are written, tasks that were not known before, and the episode's."""
        kept = [name for name in self._dataset.features if name in rows.column_names and name not in self.images]
        columns = {name: _column(rows.column(name), self._dataset.features[name]) for name in kept}
        count = len(rows)
        # LeRobot looks for a frame within 0.1 ms of a row's time: recorders' own clocks, and rows stamped after their step, miss it
        columns["timestamp"] = pa.chunked_array([pa.array(np.arange(count) / self._fps, pa.float32())])
        known = [None] * count if "task_index" not in rows.column_names else rows.column("task_index").to_pylist()
        texts = [self.tasks[n] if n is not None and n < len(self.tasks) else place.text for n in known]
        new = [text for text in dict.fromkeys(texts) if text not in self._number]
        for text in new:
            self._task(text)
        numbers = [n if n is not None and n < len(self.tasks) and self.tasks[n] == text else self._number[text]
                   for n, text in zip(known, texts, strict=True)]  # fmt: skip
        columns["task_index"] = pa.chunked_array([pa.array(numbers, pa.int64())])
        return pa.table(columns), new, list(dict.fromkeys(texts))

    def _task(self, text: str) -> None:
        if text not in self._number:
            self._number[text] = len(self.tasks)
            self.tasks.append(text)


def _rows_of(place: EpisodePlace) -> pa.Table:
    """In the order of their frames."""
    assert place.data is not None
    with pq.ParquetFile(place.data) as file:
        names = file.schema_arrow.names
    filters = [("episode_index", "=", place.index)] if "episode_index" in names else None
    rows = pq.read_table(place.data, filters=filters)
    if not len(rows):
        raise ValueError("no row of this episode")
    return rows.sort_by("frame_index") if "frame_index" in names else rows


def _column(column: pa.ChunkedArray, feature: Mapping[str, Any]) -> pa.ChunkedArray:
    """As LeRobot has columns of numbers: bare where there is one a row, lists of a fixed length else. Others as they are."""
    shape = feature.get("shape") or [1]
    if feature.get("dtype") not in _NUMBERS or len(shape) > 1:
        return column
    kind = arrow_type(feature["dtype"], shape[0])
    values = column_array(column, np.dtype(feature["dtype"]).type)
    return table({"x": values}, pa.schema([("x", kind)])).column("x")


def _check_clock(rows: pa.Table, fps: float) -> None:
    """Raises ValueError for rows that are not `fps` a second."""
    if "timestamp" in rows.column_names:
        t_s = column_array(rows.column("timestamp"), np.float64)[:, 0]
        off_s = np.abs(t_s - t_s[0] - np.arange(len(t_s)) / fps).max()
        if not off_s <= 0.5 / fps:
            raise ValueError(
                f"its rows are not {fps:g} a second (off by {off_s:.3f} s), and no frame says whose they are"
            )


def _image_stats(path: Path, frames: int) -> Stats:
    """Of its first frames, every one of which is decoded: a video that does not decode is found here. Raises ValueError."""
    seen = ImageStats()
    facts = probe(path)
    for image in shown_frames(path, facts, slice(0, frames)):
        seen.add(image)
    return seen.found()


def _made(height: int, width: int, fps: float) -> dict[str, Any]:
    return {"shape": [height, width, 3], "info": video_facts(height, width, round(fps))}
