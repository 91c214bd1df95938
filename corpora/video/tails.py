"""What the last bytes of a file tell of whether it is whole, in formats whose header promises no length.

Nothing can be told of a transport or program stream, of NUT, or of raw video that ends between two frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

_NO_MARK = "the file ends without its format's end mark"
_NO_FRAME = "the file ends in bytes that are no whole frame"
_PACKETS = ((188, 188), (192, 188), (204, 204))
"""Of transport streams: bytes from one sync byte to the next, and from the last one to the end of the file."""
_SYNC, _SYNCS = 0x47, 8
_PAGE = 1 << 17
"""Bytes that hold a whole page of Ogg, wherever they begin."""


def end_told(file: BinaryIO, container: str, place: int, size: int) -> tuple[bool, str]:
    """(whether the last frame, `size` bytes at `place`, is not whole, of which FFmpeg itself tells in other formats; why the
    file must have been longer, or is followed by what is no video, empty where nothing says so)."""
    reader = _READERS.get(container)
    return reader(file, place, size) if reader else (False, "")


def repeats(file: BinaryIO, place: int) -> int:
    """How often AVI shows the frame at `place` again: by empty chunks, of which FFmpeg says nothing."""
    file.seek(place - 8)
    found, of_frame = 0, b""
    while len(head := file.read(8)) == 8 and head[:2].isdigit():
        of_frame = of_frame or head[:4]
        size = int.from_bytes(head[4:], "little")
        found += size == 0 and head[:4] == of_frame
        file.seek(size + size % 2, os.SEEK_CUR)
    return found


def _dv(file: BinaryIO, place: int, size: int) -> tuple[bool, str]:
    """FFmpeg fills up from the frame before."""
    return _size(file) < place + size, ""


def _gif(file: BinaryIO, place: int, size: int) -> tuple[bool, str]:
    file.seek(place)
    data = file.read()
    at = 0
    if data[:4] == b"GIF8" and len(data) > 10:
        at = 13 + _colours(data[10])
    while at < len(data):
        mark = data[at]
        if mark == 0x21:  # an extension
            at = _blocks_end(data, at + 2)
        elif mark == 0x2C:  # an image
            at = _blocks_end(data, at + 11 + _colours(data[at + 9])) if at + 9 < len(data) else len(data) + 1
            if at > len(data):
                return True, _NO_MARK
        else:
            return False, ""  # the end mark, or what nobody knows
    return False, _NO_MARK


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks_end(data: bytes, at: int) -> int:
    """Behind a chain of blocks that each begin with their length; beyond the data where the chain is cut."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _y4m(file: BinaryIO, place: int, size: int) -> tuple[bool, str]:
    return False, "" if place + size == _size(file) else _NO_FRAME


def _ogg(file: BinaryIO, place: int, size: int) -> tuple[bool, str]:
    """The last page of a stream is marked."""
    end = _size(file)
    file.seek(max(0, end - _PAGE))
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 27:
        return False, _NO_MARK
    sizes = tail[at + 27 : at + 27 + tail[at + 26]]
    whole = at + 27 + tail[at + 26] + sum(sizes) <= len(tail)
    return False, "" if whole and tail[at + 5] & 4 else _NO_MARK


def _transport(file: BinaryIO, place: int, size: int) -> tuple[bool, str]:
    file.seek(max(0, _size(file) - (_SYNCS + 1) * 204))
    tail = file.read()
    for step, last in _PACKETS:
        for first in range(step):
            syncs = tail[first::step]
            if len(syncs) >= _SYNCS and set(syncs) == {_SYNC}:
                whole = len(tail) - first - step * (len(syncs) - 1) == last
                return False, "" if whole else _NO_FRAME
    return False, ""


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


_READERS: dict[str, Callable[[BinaryIO, int, int], tuple[bool, str]]] = {
    "dv": _dv,
    "gif": _gif,
    "mpegts": _transport,
    "ogg": _ogg,
    "yuv4mpegpipe": _y4m,
}
