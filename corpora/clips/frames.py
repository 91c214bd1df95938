"""Pictures of a corpus' clips, decoded once: one row for each stored frame, clip after clip."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from corpora.clips.corpus import SHARDS, Corpus, decode_clip, iterate_shard
from corpora.clips.manifest import ClipRow
from corpora.store.files import available_cores
from corpora.store.frames import FrameFault, FrameTable, Progress, make_frame_table
from corpora.video.decode import describe
from corpora.video.image import Fit, fit_square

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


def open_clip_frames(
    corpus: Corpus,
    size: int,
    *,
    rows: Sequence[ClipRow] | None = None,
    fit: Fit = "stretch",
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ClipFrames:
    """Frames [F, 1, size, size, 3] of `rows` (default: all kept clips), from the cache or decoded now.

    A clip that does not decode is told in the table's `faults`, its rows are not valid. Raises ValueError for an unknown
    `fit`, for no clip at all, and as `make_frame_table`.
    """
    if fit not in ("stretch", "crop"):
        raise ValueError(f"fit '{fit}': must be 'stretch' (the whole picture) or 'crop' (its middle square)")
    if workers is not None and workers < 1:
        raise ValueError(f"workers {workers}: must be at least 1")
    chosen = tuple(corpus.clips if rows is None else rows)
    if not chosen:
        raise ValueError(f"corpus '{corpus.folder}': no clip was chosen; choose groups that it holds")
    times = corpus.read_times(chosen)
    clip_times = [times[row.clip_id] for row in chosen]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in clip_times])]).astype(np.int64)

    def fill(pictures: NDArray[np.uint8], valid: NDArray[np.bool_]) -> list[FrameFault]:
        return _fill(corpus, chosen, starts, pictures, valid, size, fit, workers or available_cores(), progress)

    table = make_frame_table(
        fill,
        identity=("clips", corpus.identity, [row.clip_id for row in chosen], fit),
        rows=int(starts[-1]),
        size=size,
        cameras=(CAMERA,),
        cache=cache,
    )
    return ClipFrames(chosen, starts, np.concatenate(clip_times), table)


def _fill(
    corpus: Corpus,
    rows: Sequence[ClipRow],
    starts: NDArray[np.int64],
    pictures: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    size: int,
    fit: Fit,
    workers: int,
    progress: Progress | None,
) -> list[FrameFault]:
    place = {row.clip_id: index for index, row in enumerate(rows)}
    by_shard: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        by_shard[row.shard].add(row.clip_id)
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

    def decode(index: int, data: dict[str, bytes]) -> str:
        begin, end = int(starts[index]), int(starts[index + 1])
        try:
            frames = decode_clip(data["mp4"])
        except (FFmpegError, OSError, ValueError, KeyError, IndexError) as error:
            return f"decode_error: {describe(error)}"
        if len(frames) != end - begin:
            return f"damaged: {len(frames)} frames, {end - begin} times"
        for row, frame in enumerate(frames, begin):
            pictures[row, 0] = fit_square(frame, size, fit)
        valid[begin:end] = True
        return ""

    with ThreadPoolExecutor(workers) as pool:
        for shard in sorted(by_shard):
            for clip_id, members in iterate_shard(corpus.folder / SHARDS / shard, by_shard[shard], {"mp4"}):
                running.append((place[clip_id], pool.submit(decode, place[clip_id], members)))
                if len(running) > 2 * workers:  # a few clips in memory, not a shard
                    collect()
        while running:
            collect()
    return faults
