"""From shards to what the model is fed: threads decode clips and prepare their pairs ahead of the model.

Threads, not processes: PyAV, OpenCV and NumPy let go of the interpreter while they work (two threads decode 1.9 times
as fast as one, two processes 1.9 times as well), and pictures need not be copied between processes.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from corpora.clips.corpus import SHARDS, iterate_shard
from corpora.clips.manifest import ClipRow
from lapa.latents import PairColumns, Part
from lapa.model.config import LamConfig
from lapa.pairs.pair import pair_indices, pair_input, resize_frames
from lapa.pairs.pair_camera import camera_of_pairs

_MEMBERS = ("mp4", "json", "camera.npz")
_DAMAGE = (FFmpegError, OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile)
"""What reading a damaged clip raises; anything else is a fault of ours and ends the job."""


@dataclass(frozen=True)
class PreparedClip:
    """One clip's pairs, ready for the model. F frames that are part of a pair, P pairs, S the model's picture size."""

    columns: PairColumns
    frames: NDArray[np.uint8]
    """[F, S, S, 3]: each frame once."""
    first: NDArray[np.int64]
    """[P], rows of `frames`."""
    second: NDArray[np.int64]
    """[P]."""
    stable: NDArray[np.uint8] | None
    """[P, 2, S, S, 3]: both frames of each pair, stabilised (lapa/pairs.py); None where none had to be moved."""
    valid: NDArray[np.bool_] | None
    """[P, S, S]; None where all is known."""
    flow: NDArray[np.float32] | None
    """[P, 2, S/4, S/4]; None where the model has no use for it."""


@dataclass(frozen=True)
class SkippedClip:
    """A clip without rows."""

    row: ClipRow
    reason: str
    """missing_in_shard, shard_unreadable, clip_damaged or shorter_than_gap."""
    detail: str

    def to_json(self) -> dict[str, str]:
        return {
            "clip_id": self.row.clip_id,
            "source": self.row.source,
            "reason": self.reason,
            "detail": self.detail.split("\n")[0][:200],
        }


def every_stride(t_s: NDArray[np.float64], first: NDArray[np.int64], stride_s: float) -> NDArray[np.bool_]:
    """Which of the pairs that begin at `t_s[first]` (ascending) to keep, at least `stride_s` apart."""
    keep = np.zeros(len(first), bool)
    last = -np.inf
    for k, t in enumerate(t_s[first].tolist()):
        if t - last >= stride_s - 1e-6:
            keep[k], last = True, t
    return keep


@dataclass(frozen=True)
class ClipPreparer:
    """Decodes a clip and makes its pairs."""

    config: LamConfig
    gap_s: float
    stride_s: float

    def __call__(self, row: ClipRow, members: dict[str, bytes]) -> PreparedClip | SkippedClip:
        try:
            t_s = np.asarray(json.loads(members["json"])["t_s"], np.float64)
            first, second = pair_indices(t_s, self.gap_s)
            keep = every_stride(t_s, first, self.stride_s)
            first, second = first[keep], second[keep]
            used, where = np.unique(np.concatenate([first, second]), return_inverse=True)
            with np.load(io.BytesIO(members["camera.npz"]), allow_pickle=False) as file:
                camera = {name: file[name] for name in file.files}
            pictures = decode_frames(members["mp4"], set(used.tolist()), len(t_s)) if len(used) else {}
            h, inlier_ratio = camera_of_pairs(camera, pictures, first, second)
        except _DAMAGE as error:
            return SkippedClip(row, "clip_damaged", f"{type(error).__name__}: {error}")
        if len(first) == 0:
            held = f"{t_s[-1] - t_s[0]:.3f} s" if len(t_s) else "no frame"
            return SkippedClip(row, "shorter_than_gap", f"{held}, no two frames {self.gap_s:g} s apart")
        luma = {i: cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for i, picture in pictures.items()}
        motion = [cv2.absdiff(luma[i], luma[j]).mean() for i, j in zip(first.tolist(), second.tolist(), strict=True)]
        columns = PairColumns(
            row=row,
            t_s=t_s[first],
            gap_s=t_s[second] - t_s[first],
            motion=np.asarray(motion, np.float32),
            camera=h.reshape(len(first), 9),
            camera_inlier_ratio=inlier_ratio,
        )
        frames = resize_frames(np.stack([pictures[i] for i in used.tolist()]), self.config.pair.image_size)
        first, second = where[: len(first)], where[len(first) :]
        if not self.config.pixels:
            return PreparedClip(columns, frames, first, second, None, None, None)
        made = [pair_input(self.config, frames[i], frames[j], m) for i, j, m in zip(first, second, h, strict=True)]
        moved = self.config.pair.camera_compensation and not (h == np.eye(3)).all()
        flows = [pair.flow for pair in made if pair.flow is not None]
        return PreparedClip(
            columns,
            frames,
            first,
            second,
            stable=np.stack([np.stack([pair.first, pair.second]) for pair in made]) if moved else None,
            valid=np.stack([pair.valid for pair in made]) if moved else None,
            flow=np.stack(flows) if flows else None,
        )


Fed = tuple[Part, PreparedClip | SkippedClip]


@dataclass(frozen=True)
class Ahead:
    """A clip that is being prepared, or is ready."""

    part: Part
    row: ClipRow
    waiting: Future[PreparedClip | SkippedClip] | SkippedClip

    def result(self) -> Fed:
        return self.part, self.waiting.result() if isinstance(self.waiting, Future) else self.waiting


def feed(
    root: Path, parts: Iterable[Part], prepare: ClipPreparer, workers: int, ahead_frames: int = 0
) -> Iterator[Fed]:
    """Yields the clips of `parts` in their order, prepared by `workers` threads ahead of whoever takes them.

    Ahead are 2 * workers + 2 clips, or as many more as hold `ahead_frames` stored frames: short clips must not run out
    while the model is busy with one batch. Every clip of a part is yielded, as SkippedClip where it cannot be read; a
    part's missing ones come last.
    """
    ahead: deque[Ahead] = deque()
    frames = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="feed") as pool:
        try:
            for part in parts:
                for row, found in _read_part(root, part):
                    waiting = found if isinstance(found, SkippedClip) else pool.submit(prepare, row, found)
                    ahead.append(Ahead(part, row, waiting))
                    frames += row.frames
                    while len(ahead) > 2 * workers + 2 and frames - ahead[0].row.frames >= ahead_frames:
                        frames -= ahead[0].row.frames
                        yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for clip in ahead:
                if isinstance(clip.waiting, Future):
                    clip.waiting.cancel()


def _read_part(root: Path, part: Part) -> Iterator[tuple[ClipRow, dict[str, bytes] | SkippedClip]]:
    """The stored bytes of each clip of a part, sequentially; what a damaged shard no longer gives comes last."""
    left = {row.clip_id: row for row in part.rows}
    reason, detail = "missing_in_shard", f"{part.shard} does not hold it"
    try:
        for clip_id, members in iterate_shard(root / SHARDS / part.shard, set(left), set(_MEMBERS)):
            yield left.pop(clip_id), members
    except (OSError, tarfile.TarError, EOFError) as error:
        reason, detail = "shard_unreadable", f"{part.shard}: {type(error).__name__}: {error}"
    for row in left.values():
        yield row, SkippedClip(row, reason, detail)


def decode_frames(mp4: bytes, wanted: set[int], count: int) -> dict[int, NDArray[np.uint8]]:
    """The frames `wanted` of a stored clip, index -> uint8 [H, W, 3] RGB, the same as `corpora.clips.corpus.decode_clip`.

    Every frame is decoded, once; only those wanted are turned into RGB. Raises ValueError where the clip does not hold
    `count` frames.
    """
    pictures: dict[int, NDArray[np.uint8]] = {}
    number = -1
    reformatter = VideoReformatter()  # shared by the frames: setting one up takes longer than converting a small frame
    with av.open(io.BytesIO(mp4), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                pictures[number] = np.asarray(reformatter.reformat(frame, format="rgb24").to_ndarray(), np.uint8)
    if number + 1 != count:
        raise ValueError(f"{number + 1} frames decode, {count} were stored")
    return pictures
