"""From clips to pairs: the one reader of training, extraction and report. Threads decode and prepare ahead of the model.

Threads, not processes: PyAV, OpenCV and NumPy let go of the interpreter while they work (two threads decode 1.9 times
as fast as one, two processes 1.9 times as well), and images need not be copied between processes.
"""

from __future__ import annotations

import dataclasses
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import DAMAGE, SHARDS, Clip, StoredClip, iterate_shard
from corpora.clips.manifest import ClipRow
from corpora.clips.parts import Part, SkippedClip
from corpora.store.files import machine_trouble
from corpora.video.nearest import every_stride, pair_indices
from lapa.pairs.batch import PairBatch
from lapa.pairs.config import PairConfig
from lapa.pairs.known_motion import LabelsDiffer, SeenLabels
from lapa.pairs.pair import camera_of_pairs, frames_at, shown
from lapa.pairs.table import Featurise, PairTable

_MEMBERS = {"mp4", "json", "camera.npz", "truth.npz"}
T = TypeVar("T")


@dataclass(frozen=True)
class PairReader:
    """Makes the pairs of clips, as a model is fed.

        reader = PairReader(lam.config.pair)
        pairs = reader(clip)                  # PairBatch

    gap_s: gaps in seconds; by default the one that `config` gives extraction.
    stride_s: pairs of one gap begin at least so many seconds apart; 0: every frame begins one.
    training: optical flow also where it is only predicted.
    featurise: the frozen model of a feature target, which sees each frame once.
    labels: known actions that may be seen.
    """

    config: PairConfig
    gap_s: tuple[float, ...] = ()
    stride_s: float = 0.0
    training: bool = False
    featurise: Featurise | None = None
    labels: SeenLabels = field(default_factory=SeenLabels)

    @property
    def gaps_s(self) -> tuple[float, ...]:
        return self.gap_s or (self.config.extract_gap_s,)

    @property
    def flow(self) -> bool:
        """Whether optical flow belongs to the pairs."""
        return self.config.flow == "input" or (self.training and self.config.flow == "target")

    def __call__(self, clip: Clip) -> PairBatch:
        """All pairs of a decoded clip, images in [0, 1]. Raises ValueError where it holds none."""
        table = self._table(clip, lambda wanted: clip.frames[sorted(wanted)])
        if isinstance(table, SkippedClip):
            raise ValueError(f"clip {clip.row.clip_id}: {table.detail}; choose a shorter gap, or a longer clip")
        return self.batch(table).floats()

    def batch(self, table: PairTable, *, plain: bool = False) -> PairBatch:
        """All pairs of a table, images in uint8; see `PairTable.batch`."""
        return table.batch(flow=self.flow, plain=plain)

    def at(
        self, clip: Clip, t_s: NDArray[np.floating], gap_s: NDArray[np.floating], camera: NDArray[np.floating]
    ) -> PairBatch:
        """The pairs of a decoded clip that begin at `t_s` [P], `gap_s` [P] long, whose camera moved by `camera` [P, 3, 3];
        in uint8, with the frames as they were.

        Raises ValueError where a time is no frame's: the latents of these times and the clip do not belong together.
        """
        i, j = frames_at(clip, t_s, gap_s)
        used, where = np.unique(np.concatenate([i, j]), return_inverse=True)
        frames = shown(clip.frames[used], self.config, clip.row)
        table = PairTable.of(self.config, frames, where[: len(i)], where[len(i) :], t_s, gap_s, camera)
        return self.batch(self.with_features(table), plain=True)

    def with_features(self, table: PairTable) -> PairTable:
        """What the model is fed, where that is features of the frames."""
        return table if self.featurise is None else dataclasses.replace(table, features=self.featurise(table.frames))

    def table(self, clip: StoredClip) -> PairTable | SkippedClip:
        """The pairs of a stored clip; only the frames that are part of one are kept. Raises LabelsDiffer for labels of another
        width than the rest: no damage, and not mended by another ingest."""
        try:
            return self._table(clip, clip.frames)
        except LabelsDiffer:
            raise
        except DAMAGE as error:
            return SkippedClip(clip.row, "clip_damaged", f"{type(error).__name__}: {error}")

    def _table(
        self, clip: Clip | StoredClip, decode: Callable[[set[int]], NDArray[np.uint8]]
    ) -> PairTable | SkippedClip:
        t_s, found = clip.t_s, []
        for gap_s in self.gaps_s:
            first, second = pair_indices(t_s, gap_s)
            keep = every_stride(t_s, first, self.stride_s)
            found.append((first[keep], second[keep]))
        first, second = (np.concatenate(part) for part in zip(*found, strict=True))
        if len(first) == 0:
            span = f"{t_s[-1] - t_s[0]:.3f} s" if len(t_s) else "no frame"
            gaps = " or ".join(f"{gap:g}" for gap in self.gaps_s)
            return SkippedClip(clip.row, "shorter_than_gap", f"{span}, no two frames {gaps} s apart")
        return self._of_frames(clip, first, second, decode)

    def between(self, clip: StoredClip, first: NDArray[np.int64], second: NDArray[np.int64]) -> PairTable | SkippedClip:
        """As `table`, of the pairs of frames (first, second), int64 [P] each."""
        try:
            return self._of_frames(clip, first, second, clip.frames)
        except DAMAGE as error:
            return SkippedClip(clip.row, "clip_damaged", f"{type(error).__name__}: {error}")

    def _of_frames(
        self,
        clip: Clip | StoredClip,
        first: NDArray[np.int64],
        second: NDArray[np.int64],
        decode: Callable[[set[int]], NDArray[np.uint8]],
    ) -> PairTable:
        t_s = clip.t_s
        used, where = np.unique(np.concatenate([first, second]), return_inverse=True)
        images = decode(set(used.tolist()))
        h, inlier_ratio = camera_of_pairs(clip.camera, dict(zip(used.tolist(), images, strict=True)), first, second)
        starts, ends = t_s[first], t_s[second]
        known: dict[str, NDArray[Any]] = {"frame_index": clip.frame_index[first]}
        if self.labels.width:
            known["label"] = self.labels.of(clip.row.clip_id, clip.truth, starts, ends)
        first, second = where[: len(first)], where[len(first) :]
        luma = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
        motion = [cv2.absdiff(luma[i], luma[j]).mean() for i, j in zip(first.tolist(), second.tolist(), strict=True)]
        known |= {"camera_inlier_ratio": inlier_ratio, "motion": np.asarray(motion, np.float32)}
        frames = shown(images, self.config, clip.row)
        table = PairTable.of(self.config, frames, first, second, starts, ends - starts, h, **known)
        return self.with_features(table)

    def prepare(self, clip: StoredClip) -> PairBatch | SkippedClip:
        """What a thread does for a model: decode, resize, undo the camera, optical flow."""
        table = self.table(clip)
        return table if isinstance(table, SkippedClip) else self.batch(table)

    def read(
        self, root: Path, parts: Iterable[Part], *, workers: int = 1, ahead_frames: int = 0
    ) -> Iterator[tuple[Part, ClipRow, PairBatch | SkippedClip]]:
        """Yields the pairs of the clips of `parts` of the corpus in `root`, in their order, prepared by `workers` threads
        ahead of whoever takes them.

        Ahead are 2 * workers + 2 clips, or as many more as hold `ahead_frames` stored frames: short clips must not run out
        while the model is busy with one batch. Every clip of a part is yielded, as SkippedClip where it cannot be read; a
        part's missing ones come last.
        """
        return _ahead(root, parts, self.prepare, workers, ahead_frames)

    def read_tables(self, root: Path, parts: Iterable[Part]) -> Iterator[tuple[Part, ClipRow, PairTable | SkippedClip]]:
        """As `read` by one thread, of pairs that are still to be made."""
        return _ahead(root, parts, self.table, 1, 0)


def _ahead(
    root: Path, parts: Iterable[Part], work: Callable[[StoredClip], T | SkippedClip], workers: int, ahead_frames: int
) -> Iterator[tuple[Part, ClipRow, T | SkippedClip]]:
    ahead: deque[tuple[Part, ClipRow, Future[T | SkippedClip]]] = deque()
    frames = 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pairs")
    try:
        for part in parts:
            for clip in _stored_clips(root, part):
                ahead.append((part, clip.row, pool.submit(_or_skipped, work, clip)))
                frames += clip.row.frames
                while len(ahead) > 2 * workers + 2 and frames - ahead[0][1].frames >= ahead_frames:
                    first, row, waiting = ahead.popleft()
                    frames -= row.frames
                    yield first, row, waiting.result()
        while ahead:
            first, row, waiting = ahead.popleft()
            yield first, row, waiting.result()
    finally:
        # nobody is waited for: a reader that was left alone may be closed by the garbage collector, in one of these very threads
        pool.shutdown(wait=False, cancel_futures=True)


def _or_skipped(work: Callable[[StoredClip], T | SkippedClip], clip: StoredClip | SkippedClip) -> T | SkippedClip:
    return clip if isinstance(clip, SkippedClip) else work(clip)


def _stored_clips(root: Path, part: Part) -> Iterator[StoredClip | SkippedClip]:
    """The clips of a part, sequentially; what a damaged shard no longer gives comes last. Raises OSError where the machine
    cannot read it now."""
    left = {row.clip_id: row for row in part.rows}
    reason, detail = "missing_in_shard", f"{part.shard} does not hold it"
    try:
        for clip_id, members in iterate_shard(root / SHARDS / part.shard, set(left), _MEMBERS):
            yield StoredClip(left.pop(clip_id), members)
    except (OSError, tarfile.TarError, EOFError) as error:
        if machine_trouble(error):
            raise
        reason, detail = "shard_unreadable", f"{part.shard}: {type(error).__name__}: {error}"
    for row in left.values():
        yield SkippedClip(row, reason, detail)
