"""Video files."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from corpora.sources.source import VIDEO_SUFFIXES, File, Source, SourceDefaults, SourceKind, register
from corpora.store.remote import here

HEAD = 400
"""First bytes by which a file without a known suffix is taken for a video."""
_BEGINNINGS = (
    *(b"\x1aE\xdf\xa3", b"GIF87a", b"GIF89a", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"),
    *(b"DKIF", b"YUV4MPEG2 ", b"0&\xb2u\x8ef\xcf\x11", b"nut/multimedia container\0"),
)


@register
class VideoFiles(SourceKind):
    """A file is one source."""

    rank = 100

    def recognises(self, path: Path) -> bool:
        return not os.path.isdir(path) and is_video(path.name, lambda: _first_bytes(path))

    def sources(self, path: Path, name: str, defaults: SourceDefaults) -> Iterator[Source]:
        yield Source(name=name, group=name, media=File.at(path))


def _is_text(data: bytes) -> bool:
    """Whether the first bytes of a file may be those of a text, the last character of which may be cut."""
    if b"\0" in data:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def is_video(name: str, head: Callable[[], bytes]) -> bool:
    """By its suffix or its first bytes, `HEAD` of them, which are read where they are asked for."""
    if name.startswith("._"):  # what macOS leaves beside files on foreign disks
        return False
    suffix = os.path.splitext(name)[1].lower()
    if suffix in VIDEO_SUFFIXES and suffix != ".ts":
        return True
    data = head()
    if suffix == ".ts":  # TypeScript far more often than a transport stream; one that lost its beginning is no text
        return data[:1] == b"G" or not _is_text(data)
    return (
        data[4:8] in (b"ftyp", b"moov", b"mdat")
        or data.startswith(_BEGINNINGS)
        or (data.startswith(b"RIFF") and data[8:12] == b"AVI ")
        or (data.startswith(b"OggS") and data[28:40].strip(b"\x80").startswith((b"theora", b"OVP80", b"BBCD")))
        or any(data[first::packet][:2] == b"GG" for first, packet in ((0, 188), (4, 192)))
    )


def _first_bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""  # a pipe would block
        with here(path).open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""
