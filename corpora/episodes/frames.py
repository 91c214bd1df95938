"""Images of robot episodes, decoded once, each at its row.

frames = open_episode_frames(episodes, 64)
frames.images[episode.start]        # uint8 [V, 64, 64, 3], what the cameras saw at the episode's first row
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from corpora.episodes.episode import Episodes
from corpora.episodes.pairing import pair
from corpora.store.files import available_cores, read_through, stamp_of
from corpora.store.frames import FrameFault, FrameTable, Images, Progress, Valid, make_frame_table
from corpora.video.decode import DecodingReport, decoded_frames
from corpora.video.image import fit_square
from corpora.video.nearest import nearest_rows
from corpora.video.probe import Unusable, VideoFacts, describe, probe
from corpora.video.shown import Converter

_TASK_ROWS = 2048
"""Rows after which a long file is handed to another thread."""
_TASK_HOLE_S = 10.0
"""A stretch without rows that is longer is not decoded but jumped over."""


@dataclass(frozen=True)
class _Task:
    """Rows to be filled from one stretch of one file."""

    path: Path
    facts: VideoFacts
    view: int
    rows: NDArray[np.int64]
    """[K], rows of the table."""
    wanted_s: NDArray[np.float64]
    """[K], ascending, times in the file."""


def open_episode_frames(
    episodes: Episodes, size: int, *, cache: Path | None = None, progress: Progress | None = None
) -> FrameTable:
    """Images [R, V, size, size, 3] of all rows and cameras of `episodes`, from the cache or decoded now.

    Row i has frame i where its episode has as many of both, else the frame nearest in presentation time, at most one
    interval (of rows or frames, the longer) away. Rows without one are not valid; these, and episodes whose rows and frames
    disagree, are named in the table's `faults`; a video that does not decode stops nothing. Raises ValueError as
    `make_frame_table`, and OSError where the machine cannot read a video now: a table is kept, and would lack it for good.
    """

    def fill(images: Images, valid: Valid) -> list[FrameFault]:
        return episodes.reader.fill(episodes, images, valid, progress)

    return make_frame_table(
        fill,
        identity=("episodes", episodes.fingerprint, "stretch", "row i is frame i"),
        rows=len(episodes.t_s),
        size=size,
        cameras=episodes.cameras,
        cache=cache,
    )


class VideoReader:
    """Images in video files (`Episode.videos`)."""

    def fingerprint(self, episodes: Episodes) -> str:
        digest = hashlib.blake2b(episodes.t_s.tobytes(), digest_size=16)
        for episode in episodes.episodes:
            for camera, span in episode.videos.items():
                path = span.path.relative_to(episodes.root)
                facts = (episode.index, episode.start, camera, str(path), span.from_s, span.to_s, stamp_of(span.path))
                digest.update(repr(facts).encode())
        return digest.hexdigest()

    def fill(self, episodes: Episodes, images: Images, valid: Valid, progress: Progress | None) -> list[FrameFault]:
        cv2.setNumThreads(1)  # each thread has a video of its own
        with ThreadPoolExecutor(available_cores()) as pool:
            paths = sorted({span.path for episode in episodes.episodes for span in episode.videos.values()})
            plan = _plan(episodes, dict(zip(paths, pool.map(_probe, paths), strict=True)))
            total, done = sum(len(task.rows) for task in plan.tasks), 0
            running = {pool.submit(_run, task, images, valid, episodes.fps): task for task in plan.tasks}
            try:
                for future in as_completed(running):
                    task = running.pop(future)
                    error = future.result()
                    if error:
                        plan.errors.setdefault((task.path, task.view), error)
                    done += len(task.rows)
                    if progress is not None:
                        progress(done, total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for path in {path for path, _ in plan.errors}:
            read_through(path)
        return _faults(episodes, valid, plan)


def nearest_frames(
    path: Path,
    facts: VideoFacts,
    wanted_s: NDArray[np.float64],
    size: int,
    interval_s: float,
    report: DecodingReport,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Yields (indices into `wanted_s`, image uint8 [size, size, 3]): for each time (ascending, seconds on the player's
    clock) the nearest frame, of two equally near the later one; nothing where it is further away than one interval of rows
    (`interval_s`) or frames, the longer.

    One pass from the keyframe before the first time; only frames that are wanted are converted, and of the others those of which
    no frame is made are not decoded, where the codec allows that. Raises Unusable where
    the file cannot be read.
    """
    reach_s = max(interval_s, facts.interval_s) + 1e-3
    start_s, end_s = max(0.0, float(wanted_s[0]) - reach_s), float(wanted_s[-1]) + reach_s
    convert = Converter(facts.showing)
    needed = np.zeros(len(facts.times), bool)
    needed[nearest_rows(facts.times, wanted_s, reach_s)[0]] = True
    last: tuple[float, VideoFrame] | None = None
    done = 0

    def take(stop: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        if last is not None and stop > done:
            near = done + np.flatnonzero(np.abs(wanted_s[done:stop] - last[0]) <= reach_s)
            if len(near):
                yield near, fit_square(convert(last[1]), size, "stretch")

    for t_s, frame in decoded_frames(path, facts, report=report, start_s=start_s, end_s=end_s, needed=needed):
        if last is not None:
            stop = int(np.searchsorted(wanted_s, 0.5 * (last[0] + t_s) - 1e-6))
            yield from take(stop)
            done = max(done, stop)
            if done == len(wanted_s):
                return
        last = t_s, frame
    yield from take(len(wanted_s))


@dataclass
class _Plan:
    """What is to be decoded, and what is wrong already."""

    tasks: list[_Task] = field(default_factory=list)
    errors: dict[tuple[Path, int], str] = field(default_factory=dict)
    """(file, view) -> why some of its rows have no image."""
    notes: dict[tuple[int, int], str] = field(default_factory=dict)
    """(episode, view) -> how far its rows and frames disagree."""


def _probe(path: Path) -> VideoFacts | str:
    """What it holds, or why it cannot be read."""
    try:
        return probe(path)
    except Unusable as error:
        return f"{error.reason}: {error.detail}"


def _plan(episodes: Episodes, known: Mapping[Path, VideoFacts | str]) -> _Plan:
    """Rows sorted by file and time in it, in runs of moderate length."""
    plan = _Plan()
    by_file: dict[tuple[Path, int], list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = defaultdict(list)
    for episode in episodes.episodes:
        for view, camera in enumerate(episodes.cameras):
            span = episode.videos[camera]
            facts = known[span.path]
            if isinstance(facts, str):
                plan.errors[span.path, view] = facts
                continue
            paired = pair(facts, (span.from_s, span.to_s), episode.t_s, episodes.fps)
            if paired is None:
                continue
            if paired.note:
                plan.notes[episode.index, view] = paired.note
            # Another episode's frame is never this one's.
            first_s, last_s = facts.times[paired.shown][[0, -1]]
            wanted = np.clip(paired.row_s, first_s, last_s)
            near = np.abs(wanted - paired.row_s) <= max(facts.interval_s, 1 / episodes.fps) + 1e-3
            by_file[span.path, view].append((np.arange(episode.start, episode.stop)[near], wanted[near]))
    for (path, view), parts in by_file.items():
        facts = known[path]
        assert isinstance(facts, VideoFacts)
        rows = np.concatenate([part[0] for part in parts])
        wanted = np.concatenate([part[1] for part in parts])
        order = np.argsort(wanted, kind="stable")
        rows, wanted = rows[order], wanted[order]
        cuts = np.flatnonzero(np.diff(wanted) > _TASK_HOLE_S) + 1
        for run_rows, run_wanted in zip(np.split(rows, cuts), np.split(wanted, cuts), strict=True):
            for at in range(0, len(run_rows), _TASK_ROWS):
                cut = slice(at, at + _TASK_ROWS)
                plan.tasks.append(_Task(path, facts, view, run_rows[cut], run_wanted[cut]))
    return plan


def _run(task: _Task, images: Images, valid: Valid, fps: float) -> str:
    """Fills the rows of a task; what went wrong, or an empty string."""
    report = DecodingReport()
    try:
        for found, image in nearest_frames(task.path, task.facts, task.wanted_s, images.shape[2], 1 / fps, report):
            rows = task.rows[found]
            images[rows, task.view] = image
            valid[rows, task.view] = True
    except Unusable as error:
        return f"{error.reason}: {error.detail}"
    except (FFmpegError, OSError) as error:
        return f"decode_error: {describe(error)}"
    return f"decode_error: {report.first_error}" if report.first_error else ""


def _faults(episodes: Episodes, valid: Valid, plan: _Plan) -> list[FrameFault]:
    """One for each episode and camera with rows that lack an image, or with rows and frames that disagree."""
    faults = []
    for episode in episodes.episodes:
        for view, camera in enumerate(episodes.cameras):
            lacking = int((~valid[episode.start : episode.stop, view]).sum())
            note = plan.notes.get((episode.index, view), "")
            if lacking:
                absent = f"truncated: {note or 'the video shows nothing at these times'}"
                reason = plan.errors.get((episode.videos[camera].path, view), absent)
                faults.append(FrameFault(episode.group, camera, reason, lacking))
            elif note:
                faults.append(FrameFault(episode.group, camera, note, 0))
    return faults
