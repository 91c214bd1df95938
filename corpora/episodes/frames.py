"""Images of robot episodes, decoded once, aligned with the data's rows by time.

frames = open_episode_frames(episodes, 64)
frames.images[episode.start]        # uint8 [V, 64, 64, 3], what the cameras saw at the episode's first row
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from corpora.episodes.episode import Episodes
from corpora.store.files import available_cores, stamp_of
from corpora.store.frames import FrameFault, FrameTable, Progress, make_frame_table
from corpora.video.decode import DecodingReport, decoded_frames
from corpora.video.image import fit_square
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
    view: int
    rows: NDArray[np.int64]
    """[K], rows of the table."""
    wanted_s: NDArray[np.float64]
    """[K], ascending, times in the file."""


def open_episode_frames(
    episodes: Episodes, size: int, *, cache: Path | None = None, progress: Progress | None = None
) -> FrameTable:
    """Images [R, V, size, size, 3] of all rows and cameras of `episodes`, from the cache or decoded now.

    A row has the frame nearest in presentation time, at most one interval (of rows or frames, the longer) away. Rows
    without one are not valid, and named in the table's `faults`; a video that does not decode stops nothing. Raises
    ValueError as `make_frame_table`.
    """

    def fill(images: NDArray[np.uint8], valid: NDArray[np.bool_]) -> list[FrameFault]:
        return episodes.reader.fill(episodes, images, valid, progress)

    return make_frame_table(
        fill,
        identity=("episodes", episodes.fingerprint, "stretch"),
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

    def fill(
        self,
        episodes: Episodes,
        images: NDArray[np.uint8],
        valid: NDArray[np.bool_],
        progress: Progress | None,
    ) -> list[FrameFault]:
        tasks = _tasks(episodes)
        cv2.setNumThreads(1)  # each thread has a video of its own
        total, done = sum(len(task.rows) for task in tasks), 0
        errors: dict[tuple[Path, int], str] = {}
        with ThreadPoolExecutor(available_cores()) as pool:
            running = {pool.submit(_run, task, images, valid, episodes.fps): task for task in tasks}
            try:
                for future in as_completed(running):
                    task = running.pop(future)
                    error = future.result()
                    if error:
                        errors.setdefault((task.path, task.view), error)
                    done += len(task.rows)
                    if progress is not None:
                        progress(done, total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return _faults(episodes, valid, errors)


def nearest_frames(
    path: Path, wanted_s: NDArray[np.float64], size: int, interval_s: float, report: DecodingReport
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Yields (indices into `wanted_s`, image uint8 [size, size, 3]): for each time (ascending, seconds on the player's
    clock) the nearest frame, of two equally near the later one; nothing where it is further away than one interval of rows
    (`interval_s`) or frames, the longer.

    One pass from the keyframe before the first time; only frames that are wanted are converted. Raises Unusable where
    the file cannot be read.
    """
    facts = _probe(path, stamp_of(path))
    reach_s = max(interval_s, facts.interval_s) + 1e-3
    start_s, end_s = max(0.0, float(wanted_s[0]) - reach_s), float(wanted_s[-1]) + reach_s
    convert = Converter(facts.showing)
    last: tuple[float, VideoFrame] | None = None
    done = 0

    def take(stop: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        if last is not None and stop > done:
            near = done + np.flatnonzero(np.abs(wanted_s[done:stop] - last[0]) <= reach_s)
            if len(near):
                yield near, fit_square(convert(last[1]), size, "stretch")

    for t_s, frame in decoded_frames(path, facts, report=report, start_s=start_s, end_s=end_s):
        if last is not None:
            stop = int(np.searchsorted(wanted_s, 0.5 * (last[0] + t_s) - 1e-6))
            yield from take(stop)
            done = max(done, stop)
            if done == len(wanted_s):
                return
        last = t_s, frame
    yield from take(len(wanted_s))


def _tasks(episodes: Episodes) -> list[_Task]:
    """Rows sorted by file and time in it, in runs of moderate length."""
    by_file: dict[tuple[Path, int], list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = defaultdict(list)
    for episode in episodes.episodes:
        rows = np.arange(episode.start, episode.stop)
        for view, camera in enumerate(episodes.cameras):
            span = episode.videos[camera]
            wanted = span.from_s + episode.t_s
            if span.to_s is not None:  # the next episode's first frame is never this one's last
                last = np.minimum(wanted, span.to_s - 0.6 / episodes.fps)
                wanted = np.where(wanted < span.to_s + 1 / episodes.fps, last, np.inf)
            by_file[span.path, view].append((rows, wanted))
    tasks = []
    for (path, view), parts in by_file.items():
        rows = np.concatenate([part[0] for part in parts])
        wanted = np.concatenate([part[1] for part in parts])
        order = np.argsort(wanted, kind="stable")[: int(np.isfinite(wanted).sum())]
        rows, wanted = rows[order], wanted[order]
        cuts = np.flatnonzero(np.diff(wanted) > _TASK_HOLE_S) + 1
        for run_rows, run_wanted in zip(np.split(rows, cuts), np.split(wanted, cuts), strict=True):
            for at in range(0, len(run_rows), _TASK_ROWS):
                cut = slice(at, at + _TASK_ROWS)
                tasks.append(_Task(path, view, run_rows[cut], run_wanted[cut]))
    return tasks


def _run(task: _Task, images: NDArray[np.uint8], valid: NDArray[np.bool_], fps: float) -> str:
    """Fills the rows of a task; what went wrong, or an empty string."""
    report = DecodingReport()
    try:
        for found, image in nearest_frames(task.path, task.wanted_s, images.shape[2], 1 / fps, report):
            rows = task.rows[found]
            images[rows, task.view] = image
            valid[rows, task.view] = True
    except Unusable as error:
        return f"{error.reason}: {error.detail}"
    except (FFmpegError, OSError) as error:
        return f"decode_error: {describe(error)}"
    return f"decode_error: {report.first_error}" if report.first_error else ""


def _faults(episodes: Episodes, valid: NDArray[np.bool_], errors: dict[tuple[Path, int], str]) -> list[FrameFault]:
    """One for each episode and camera with rows that lack an image."""
    faults = []
    for episode in episodes.episodes:
        for view, camera in enumerate(episodes.cameras):
            lacking = int((~valid[episode.start : episode.stop, view]).sum())
            if lacking:
                reason = errors.get(
                    (episode.videos[camera].path, view), "truncated: the video shows nothing at these times"
                )
                faults.append(FrameFault(episode.group, camera, reason, lacking))
    return faults


@functools.lru_cache(maxsize=64)
def _probe(path: Path, stamp: tuple[int, int]) -> VideoFacts:
    """Remembered, because the episodes of a dataset share files."""
    return probe(path)
