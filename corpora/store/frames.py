"""Decoded images in a memory-mapped file: made once, shared read-only by all processes that load samples.

    <cache>/frames-64px-<key>/pictures.u8      uint8 [F, V, S, S, 3], row after row
                              valid.npy        bool [F, V]
                              table.json       shape, cameras, what could not be decoded

A table is written under another name and renamed when it is whole; a second process that wants the same one waits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from corpora.store.files import default_cache, write_json
from corpora.store.told import faults_told

Images = NDArray[np.uint8]
"""[F, V, S, S, 3], RGB."""
Valid = NDArray[np.bool_]
"""[F, V]: whether there is an image."""
Progress = Callable[[int, int], None]
"""Called with (done, total)."""

_META = "table.json"
_IMAGES = "pictures.u8"
_VALID = "valid.npy"
_FORMAT = 3
"""Raised when the same identity would give other images."""


@dataclass(frozen=True)
class FrameFault:
    """What is wrong with the images of a source, and how many of its rows have none for it."""

    source: str
    """Episode or clip."""
    camera: str
    reason: str
    rows: int
    """Rows without an image; 0 where they all have one, of which the reason says more."""


class FrameTable:
    """F rows of images of V cameras, S pixels wide and high. Pickles as its path, so workers share the pages."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        meta = json.loads((self.folder / _META).read_text("utf-8"))
        self.cameras = tuple(meta["cameras"])
        self.size = int(meta["shape"][2])
        self.faults = tuple(FrameFault(**fault) for fault in meta["faults"])
        mapped = np.memmap(self.folder / _IMAGES, np.uint8, "r", shape=tuple(meta["shape"]))
        self.images: Images = mapped.view(np.ndarray)
        """Zeros where there is no image. Not writable."""
        self.valid: Valid = np.load(self.folder / _VALID, allow_pickle=False)

    def __len__(self) -> int:
        return len(self.valid)

    @property
    def lacking(self) -> str:
        """How many rows of a camera lack an image, and where rows and images disagree, and why; "" where all is well."""
        missing = [fault for fault in self.faults if fault.rows]
        odd = [fault for fault in self.faults if not fault.rows]
        said = []
        if missing:
            kinds = faults_told(
                (f"{fault.source}, {fault.camera}, {fault.rows} rows", fault.reason) for fault in missing
            )
            rows, places = sum(fault.rows for fault in missing), len({fault.source for fault in missing})
            said.append(f"{rows} of {self.valid.size} images are missing, in {places} episodes or clips: {kinds}")
        if odd:
            kinds = faults_told((f"{fault.source}, {fault.camera}", fault.reason) for fault in odd)
            said.append(f"rows and images of {len({fault.source for fault in odd})} episodes disagree: {kinds}")
        return "; ".join(said)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrameTable, (self.folder,)


def made_once(cache: Path, name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder CACHE/NAME-KEY; where it is not there, `make` fills it, under another name first. Of processes that want the same
    one makes it, and the others wait."""
    folder, partial = cache / f"{name}-{key}", cache / f".partial-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".lock-{key}"):
        if not folder.is_dir():
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            partial.mkdir()
            try:
                make(partial)
                os.replace(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def make_frame_table(
    fill: Callable[[Images, Valid], list[FrameFault]],
    *,
    identity: object,
    rows: int,
    size: int,
    cameras: tuple[str, ...],
    cache: Path | None = None,
) -> FrameTable:
    """The table of this identity (anything with a `repr` of its own for each table), from the cache or made by `fill`, which
    gets images and valid, both zero, and returns what went wrong.

    Raises ValueError for a size below 8 pixels, for no rows, and where the disk has no room.
    """
    if size < 8:
        raise ValueError(f"size {size}: images must be at least 8 pixels wide; try 64")
    if rows < 1:
        raise ValueError("no row to decode an image for; choose episodes or clips that hold some")
    cache = default_cache() if cache is None else cache.expanduser()
    key = hashlib.sha256(repr((_FORMAT, identity, rows, size, cameras)).encode()).hexdigest()[:16]
    shape = (rows, len(cameras), size, size, 3)

    def make(folder: Path) -> None:
        needed, free = math.prod(shape), shutil.disk_usage(folder).free
        if needed > free:
            raise ValueError(
                f"the images take {needed / 1e9:.1f} GB, '{cache}' has {free / 1e9:.1f} GB left; choose smaller images, fewer "
                "episodes, or another cache ($GIZA_CACHE)"
            )
        images = np.memmap(folder / _IMAGES, np.uint8, "w+", shape=shape)
        valid = np.zeros(shape[:2], np.bool_)
        faults = fill(images.view(np.ndarray), valid)
        images.flush()
        np.save(folder / _VALID, valid, allow_pickle=False)
        meta = {"shape": shape, "cameras": cameras, "faults": [dataclasses.asdict(fault) for fault in faults]}
        write_json(folder / _META, meta)

    return FrameTable(made_once(cache, f"frames-{size}px", key, make))
