"""Images of a corpus' clips, decoded once: one row for each stored frame, clip after clip."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus, StoredClip, decode_clip
from corpora.clips.manifest import ClipRow
from corpora.store.files import available_cores
from corpora.store.frames import FrameFault, FrameTable, Images, Progress, Valid, make_frame_table
from corpora.video.image import SquaredBy, fit_square
from corpora.video.probe import describe
from corpora.video.view import View

CAMERA = "video"
"""What the one view of a clip is called."""


@dataclass(frozen=True)
class ClipFrames:
    """C clips and the table of their F frames."""

    rows: tuple[ClipRow, ...]
    """[C]."""
    starts: NDArray[np.int64]
    """[C + 1]: the frames of clip c are rows [starts[c], starts[c + 1]) of the table."""
    t_s: NDArray[np.float64]
    """[F], time in the source, seconds; ascending within a clip."""
    table: FrameTable
    identity: str = ""
    """Of their corpus."""
    squared_by: SquaredBy = ""
    """See `Corpus`."""
    view: View | None = None
    """How its pictures were painted; None where they were not, or show a robot as its own camera does."""


def open_clip_frames(
    corpus: Corpus, size: int, *, cache: Path | None = None, progress: Progress | None = None
) -> ClipFrames:
    """Frames [F, 1, size, size, 3] of all kept clips, from the cache or decoded now.

    A clip that does not decode is named in the table's `faults`, its rows are not valid. Raises ValueError for a corpus
    without clips, and as `make_frame_table`.
    """
    corpus.expect_clips()
    clips = tuple(corpus.clips)
    times = corpus.times()
    clip_times = [times[row.clip_id] for row in clips]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in clip_times])]).astype(np.int64)

    def fill(images: Images, valid: Valid) -> list[FrameFault]:
        return _fill(corpus, starts, images, valid, progress)

    table = make_frame_table(
        fill,
        identity=("clips", corpus.identity, [row.clip_id for row in clips], "stretch"),
        rows=int(starts[-1]),
        size=size,
        cameras=(CAMERA,),
        cache=cache,
    )
    return ClipFrames(clips, starts, np.concatenate(clip_times), table, corpus.identity, corpus.squared_by, corpus.view)


def _fill(
    corpus: Corpus, starts: NDArray[np.int64], images: Images, valid: Valid, progress: Progress | None
) -> list[FrameFault]:
    rows, workers = corpus.clips, available_cores()
    place = {row.clip_id: index for index, row in enumerate(rows)}
    faults: list[FrameFault] = []
    running: deque[tuple[int, Future[str]]] = deque()
    cv2.setNumThreads(1)  # each thread has a clip of its own
    done = 0

    def collect() -> None:
        nonlocal done
        index, future = running.popleft()
        if reason := future.result():
            faults.append(FrameFault(rows[index].clip_id, CAMERA, reason, int(starts[index + 1] - starts[index])))
        done += 1
        if progress is not None:
            progress(done, len(rows))

    def decode(index: int, clip: StoredClip) -> str:
        begin, end = int(starts[index]), int(starts[index + 1])
        try:
            frames = decode_clip(clip.members["mp4"])
        except (FFmpegError, OSError, ValueError, KeyError, IndexError) as error:
            return f"decode_error: {describe(error)}"
        if len(frames) != end - begin:
            return f"damaged: {len(frames)} frames, {end - begin} times"
        for row, frame in enumerate(frames, begin):
            images[row, 0] = fit_square(frame, images.shape[2], "stretch")
        valid[begin:end] = True
        return ""

    with ThreadPoolExecutor(workers) as pool:
        for clip in corpus.stored():
            index = place[clip.row.clip_id]
            running.append((index, pool.submit(decode, index, clip)))
            if len(running) > 2 * workers:  # a few clips in memory, not a shard
                collect()
        while running:
            collect()
    return faults
