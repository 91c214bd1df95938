"""WebDataset shards: tars of clips for sequential reading, byte for byte the same for the same clips."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from corpora.store.files import put_in_place


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Appends a file without date or owner."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(data))
    forget_members(tar)


def forget_members(tar: tarfile.TarFile) -> None:
    """tarfile remembers every header it has written or passed; what is streamed needs none of them."""
    tar.members = []  # type: ignore[attr-defined]


def open_for_writing(path: Path) -> tarfile.TarFile:
    return tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)


def shard_name(number: int) -> str:
    """Of the shards of a corpus, counted from 0."""
    return f"clips-{number:06d}.tar"


class ShardWriter:
    """Writes `clips-000000.tar`, `clips-000001.tar`, ... each under a temporary name until it is complete."""

    def __init__(self, folder: Path, shard_mb: float, *, first: int = 0) -> None:
        """`first`: number of the first shard that it writes."""
        self._folder = folder
        self._limit = round(shard_mb * 1e6)
        self._number = first - 1
        self._tar: tarfile.TarFile | None = None
        self._bytes = 0
        self._index = 0
        folder.mkdir(parents=True, exist_ok=True)

    def place(self, members: Mapping[str, bytes]) -> tuple[str, int]:
        """(name of the shard, index of the clip in it) where these members will go; opens the next shard when full."""
        size = sum(len(data) + 1024 for data in members.values())
        if self._tar is None or (self._index > 0 and self._bytes + size > self._limit):
            self.close()
            self._number += 1
            self._tar = open_for_writing(self._temporary)
            self._bytes = self._index = 0
        return self._name, self._index

    def write(self, clip_id: str, members: Mapping[str, bytes]) -> None:
        """Adds `{clip_id}.{suffix}` for each member, to the shard that `place` named."""
        assert self._tar is not None
        for suffix, data in members.items():
            add_member(self._tar, f"{clip_id}.{suffix}", data)
            self._bytes += len(data) + 1024
        self._index += 1

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        elif self._tar is not None:
            self._tar.close()  # stays under its temporary name

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
            put_in_place(self._temporary, self._folder / self._name)

    @property
    def _name(self) -> str:
        return shard_name(self._number)

    @property
    def _temporary(self) -> Path:
        return self._folder / f"{self._name}.tmp"
