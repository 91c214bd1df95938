"""Reading an ingested corpus: rows, clips one at a time in the order of the shards, and ground truth alone."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from corpora.clips.manifest import ClipRow, read_manifest
from corpora.clips.shards import forget_members
from corpora.clips.survey import CorpusSurvey
from corpora.store.files import digest_of, read_json
from corpora.store.remote import at_hand, here
from corpora.store.told import listed
from corpora.video.image import SquaredBy
from corpora.video.view import View

MANIFEST = "manifest.parquet"
SUMMARY = "ingest.json"
SHARDS = "shards"


DAMAGE = (FFmpegError, OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile)
"""What reading a damaged clip raises; anything else is a fault of ours."""


@dataclass(frozen=True)
class Clip:
    """One clip, decoded."""

    row: ClipRow
    frames: NDArray[np.uint8]
    """[T, H, W, 3] RGB."""
    t_s: NDArray[np.float64]
    """[T]: presentation time of each frame in its source."""
    camera: dict[str, NDArray[Any]]
    """first, second: int [P], indices into `frames`; h: float32 [P, 3, 3], first to second; inlier_ratio float32 [P] (0
    where the camera's motion is unknown and h the identity); tracks int32 [P]."""
    truth: dict[str, NDArray[Any]] | None
    """t_s float64 [N] at the source's own rate and float32 [N, D] for each feature, NaN where a row holds nothing; None where
    nothing is known."""
    frame_index: NDArray[np.int64]
    """[T]: which frame of its video each frame is, counted in the order in which they are shown, the first being 0; of an
    episode of a robot dataset, which row. -1 where that is not known: frames were lost of a video whose packets have no times,
    rows could not be read, or an earlier version of giza made the corpus."""


@dataclass(frozen=True)
class StoredClip:
    """One clip as its shard holds it, bytes by suffix; its parts are read as they are asked for, and raise one of `DAMAGE`."""

    row: ClipRow
    members: dict[str, bytes]

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return dict(json.loads(self.members["json"]))

    @cached_property
    def t_s(self) -> NDArray[np.float64]:
        """[T], see `Clip`."""
        return np.asarray(self._facts["t_s"], np.float64)

    @cached_property
    def frame_index(self) -> NDArray[np.int64]:
        """[T], see `Clip`."""
        return np.asarray(self._facts.get("frame_index", [-1] * len(self.t_s)), np.int64)

    @cached_property
    def camera(self) -> dict[str, NDArray[Any]]:
        """See `Clip`."""
        return _load_arrays(self.members["camera.npz"])

    @cached_property
    def truth(self) -> dict[str, NDArray[Any]] | None:
        """See `Clip`."""
        return _load_arrays(self.members["truth.npz"]) if "truth.npz" in self.members else None

    def frames(self, wanted: Collection[int] | None = None) -> NDArray[np.uint8]:
        """uint8 [N, H, W, 3] RGB: those at the indices `wanted`, ascending; None: all.

        Raises ValueError where the video does not hold as many frames as there are times.
        """
        return decode_clip(self.members["mp4"], wanted, count=len(self.t_s))

    def decoded(self) -> Clip:
        """All of it. Raises ValueError as `frames`."""
        return Clip(self.row, self.frames(), self.t_s, self.camera, self.truth, self.frame_index)


class Corpus:
    """A folder written by `giza ingest`.

    Raises ValueError where `folder` is not one, or where its ingest has not finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self.root = at_hand(folder).expanduser()
        """Shards' names are relative to it."""
        if not (self.root / SUMMARY).is_file() or not (self.root / MANIFEST).is_file():
            state = "its ingest has not finished" if (self.root / "staging").is_dir() else "it has no ingest.json"
            raise ValueError(f"'{folder}' is not a corpus: {state}. Make one with: giza ingest VIDEOS --out {folder}")
        self.clips: list[ClipRow] = list(read_manifest(self.root / MANIFEST, kept_only=True))
        """Kept rows, in the order of the manifest."""

    @property
    def folder(self) -> Path:
        """Where it lies. Raises ValueError where these are several."""
        return self.root

    @property
    def parts(self) -> Sequence[Corpus]:
        """Those that were opened as this one; itself alone, where it is one."""
        return (self,)

    def __str__(self) -> str:
        return ", ".join(f"'{part.folder}'" for part in self.parts)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The record ingest.json. Raises ValueError where these are several."""
        return read_json(self.folder / SUMMARY) or {}

    def rows(self) -> Iterator[ClipRow]:
        """All rows of the manifest, the dropped ones too."""
        return read_manifest(self.root / MANIFEST)

    def survey(self) -> CorpusSurvey:
        """Clips and hours, and why the rest of the videos is not among them; no clip is read."""
        return CorpusSurvey.of(self.summary)

    def expect_clips(self) -> None:
        """Raises ValueError, with the reasons and what to do, where no clip was kept."""
        if not self.clips:
            raise ValueError(f"corpus '{self.folder}': {self.survey().nothing_kept}")

    def read(self, ids: Iterable[str] | None = None, limit: int | None = None) -> Iterator[Clip]:
        """Clips decoded one at a time, in the order of the shards: those of these ids (None: all), at most `limit`. Raises
        ValueError for an id that there is not, and for a damaged shard."""
        return itertools.islice(_decoded(self.stored(ids)), limit)

    def truth(self, ids: Iterable[str] | None = None) -> dict[str, dict[str, NDArray[Any]]]:
        """Clip id -> ground truth (see `Clip.truth`) of the clips that have it; no video is decoded. `ids` as in `read`."""
        found = self._members(self._rows(ids), {"truth.npz"})
        return {row.clip_id: _load_arrays(members["truth.npz"]) for row, members in found if "truth.npz" in members}

    def times(self, ids: Iterable[str] | None = None) -> dict[str, NDArray[np.float64]]:
        """Clip id -> `Clip.t_s`; no video is decoded. `ids` as in `read`."""
        found = self._members(self._rows(ids), {"json"})
        return {row.clip_id: StoredClip(row, members).t_s for row, members in found}

    @cached_property
    def identity(self) -> str:
        """Of its clips: what they show, wherever the videos lay, and how they were made. Whatever is made of a corpus keeps
        it."""
        return identity_of(self.summary.get("config", {}), [row.clip_id for row in self.clips])

    @property
    def fit(self) -> str:
        """How its square frames were made of the videos': "stretch" or "crop"."""
        return str(self.summary.get("config", {}).get("settings", {}).get("fit", "stretch"))

    @property
    def view(self) -> View | None:
        """How `giza crosspaint` painted its pictures; None where it did not, or put in the robot as its own camera sees it."""
        made = self.summary.get("config", {}).get("settings", {}).get("crosspaint")
        return View.painted(made) if made else None

    @cached_property
    def squared_by(self) -> SquaredBy:
        """As `fit`; "" where all videos are square, so that it makes no difference."""
        square = all(row.width == row.height for row in self.clips)
        return "" if square else "crop" if self.fit == "crop" else "stretch"

    @cached_property
    def truth_features(self) -> dict[str, int]:
        """Feature -> dimension, over the clips that have ground truth."""
        return dict(self.summary.get("truth_features", {}))

    def _rows(self, ids: Iterable[str] | None) -> list[ClipRow]:
        if ids is None:
            return self.clips
        wanted = set(ids)
        rows = [row for row in self.clips if row.clip_id in wanted]
        if len(rows) < len(wanted):
            lacking = sorted(wanted - {row.clip_id for row in rows})
            raise ValueError(f"clips {listed(lacking, 4)}: corpus {self} has none of these ids; see Corpus.clips")
        return rows

    def stored(self, ids: Iterable[str] | None = None) -> Iterator[StoredClip]:
        """As `read`, but as bytes, so that of a damaged clip whoever reads it decides what becomes of it."""
        found = self._members(self._rows(ids), {"mp4", "json", "camera.npz", "truth.npz"})
        return itertools.starmap(StoredClip, found)

    def _members(self, rows: Iterable[ClipRow], wanted: set[str]) -> Iterator[tuple[ClipRow, dict[str, bytes]]]:
        by_shard: dict[str, dict[str, ClipRow]] = defaultdict(dict)
        for row in rows:
            by_shard[row.shard][row.clip_id] = row
        for shard in sorted(by_shard):
            left = by_shard[shard]
            for clip_id, members in iterate_shard(self.root / SHARDS / shard, set(left), wanted):
                yield left.pop(clip_id), members
            if left:
                raise ValueError(
                    f"{shard} lacks {len(left)} clips of the manifest, {next(iter(left))} for one: ingest it again"
                )


def _decoded(clips: Iterable[StoredClip]) -> Iterator[Clip]:
    for stored in clips:
        try:
            yield stored.decoded()
        except ValueError as error:
            raise ValueError(
                f"clip {stored.row.clip_id} of {stored.row.shard}: {error}: the shard is damaged; ingest it again"
            ) from error


def identity_of(made: Mapping[str, Any], clip_ids: Iterable[str]) -> str:
    """`Corpus.identity` of clips that were `made` so ("config" of ingest.json)."""
    how = {name: made.get(name) for name in ("format", "settings", "seed")}
    return digest_of(json.dumps(how, sort_keys=True), *sorted(clip_ids))


def iterate_shard(path: Path, clip_ids: Iterable[str], wanted: set[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields (clip_id, {suffix: bytes}) of these clips of one tar, sequentially."""
    remaining = set(clip_ids)
    with tarfile.open(here(path), "r:") as tar:
        for clip_id, infos in itertools.groupby(tar, lambda info: info.name.partition(".")[0]):
            if not remaining:
                return
            members: dict[str, bytes] = {}
            for info in infos:
                forget_members(tar)
                suffix = info.name.partition(".")[2]
                if clip_id in remaining and suffix in wanted and (file := tar.extractfile(info)) is not None:
                    members[suffix] = file.read()
            if clip_id in remaining:
                remaining.remove(clip_id)
                yield clip_id, members


def decode_clip(mp4: bytes, wanted: Collection[int] | None = None, *, count: int | None = None) -> NDArray[np.uint8]:
    """uint8 [N, H, W, 3] RGB: the frames `wanted`, in ascending order; None: all.

    Every frame is decoded, once; only those wanted are turned into RGB. Raises ValueError where the video does not hold
    `count` frames.
    """
    reformatter = VideoReformatter()  # shared by the frames: setting one up takes longer than converting a small frame
    frames, number = [], -1
    with av.open(io.BytesIO(mp4), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if wanted is None or number in wanted:
                frames.append(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
    if count is not None and number + 1 != count:
        raise ValueError(f"{number + 1} frames decode, {count} were stored")
    return np.stack(frames)


def _load_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
