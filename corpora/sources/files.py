"""Video files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from corpora.sources.source import VIDEO_SUFFIXES, File, Source, SourceDefaults, SourceKind, register


@register
class VideoFiles(SourceKind):
    """A file is one source."""

    rank = 100

    def recognises(self, path: Path) -> bool:
        return not os.path.isdir(path) and is_video(path)

    def sources(self, path: Path, name: str, defaults: SourceDefaults) -> Iterator[Source]:
        yield Source(name=name, group=name, media=File.at(path))


def is_video(path: Path) -> bool:
    """By its suffix or, for regular files, by its first bytes."""
    if path.name.startswith("._"):  # what macOS leaves beside files on foreign disks
        return False
    if path.suffix.lower() in VIDEO_SUFFIXES:
        # ".ts" is TypeScript far more often than a transport stream.
        return path.suffix.lower() != ".ts" or _first_bytes(path, 1) == b"G"
    head = _first_bytes(path, 16)
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat")
        or head.startswith(
            (b"\x1aE\xdf\xa3", b"GIF87a", b"GIF89a", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")
        )
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
    )


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""  # a pipe would block
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""
