"""What a video file lacks at its end: of the length that its header promises, and by what its last bytes tell."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from corpora.video.tails import end_told, repeats
from corpora.video.unfinished import cannot_tell, unfinished

_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_WHOLE_S = 0.25
"""A file of several streams, the last of which ends by less before the length of the header, is whole, though its picture
may end earlier."""
_FROM_DECODING = ("asf", "flv", "nut")
"""Formats whose length begins with the time at which the first frame is decoded."""


@dataclass
class End:
    """What a walk over the packets finds of it."""

    seen: int = 0
    """Packets, of which some may not be shown."""
    broken: bool = False
    """It ends in an error: what came before is used, and the loss is noted when the frames are decoded."""
    first: Packet | None = None
    last: Packet | None = None
    key: Packet | None = None
    """The last keyframe."""
    latest_s: float = -math.inf
    """When the last packet of any stream ends, sound and subtitles too, by the container's clock."""


def missing_s(
    container: InputContainer, stream: VideoStream, end: End, times: NDArray[np.float64], zero_s: float
) -> float:
    """Length that the header promises beyond the last packet; less than half a frame is rounding."""
    # An edit list may rightly show less than the stream holds. Packets in the index but not in the file are lost.
    if not (end.broken or stream.frames == 0 or end.seen < stream.frames):
        return 0.0
    interval_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    end_s = float(times[-1]) + interval_s
    lacking_s = _promised_s(container, stream, end, times, zero_s, interval_s) - end_s
    return lacking_s if lacking_s > interval_s / 2 else 0.0


def _promised_s(
    container: InputContainer,
    stream: VideoStream,
    end: End,
    times: NDArray[np.float64],
    zero_s: float,
    interval_s: float,
) -> float:
    """When the last frame should end, by the header; 0 where it says nothing."""
    base = float(stream.time_base) if stream.time_base else 0.0
    name = container.format.name
    if name == "avi":  # FFmpeg's length is but that of what is there; the header counts frames of a tick
        return float(times[0]) + (stream.frames - _repeats(container, end)) * base
    if name != "asf" and stream.duration and base:
        return float(times[0]) + stream.duration * base
    whole_s = container.duration / 1e6 if container.duration else 0.0
    if name == "asf":  # FFmpeg's length may be a guess from the size
        whole_s = _asf_length_s(container.name)
    if name in _FROM_DECODING and stream.codec_context.has_b_frames:
        whole_s -= 2 * interval_s
    if "matroska" in name:  # it counts from the clock's zero, others from the beginning
        whole_s -= max(0.0, zero_s)
    if len(container.streams) > 1 and whole_s - (end.latest_s - zero_s) < _WHOLE_S:
        return 0.0
    return whole_s


def _repeats(container: InputContainer, end: End) -> int:
    if end.last is None or end.last.pos is None:
        return 0
    with open(container.name, "rb") as file:
        return repeats(file, end.last.pos)


def why_early(container: InputContainer, stream: VideoStream, end: End) -> tuple[tuple[int, int] | None, str]:
    """(place and bytes of the last packet where it is not whole, why the file must have been longer)."""
    last, name = end.last, container.format.name
    if last is None or last.pos is None:
        return None, ""
    place = (last.pos, last.size)
    with open(container.name, "rb") as file:
        cut, early = end_told(file, name, *place)
    cut = cut or last.is_corrupt
    if not cut and end.first is not None and end.key is not None and cannot_tell(stream, name):
        cut = unfinished(stream, bytes(end.first), bytes(end.key), bytes(last))
    return (place if cut else None), early


def _asf_length_s(path: str) -> float:
    """What the header says; FFmpeg does not believe it where the file is smaller than it says. 0 where it says nothing."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    found = head.find(_ASF_PROPERTIES)
    if found < 0 or len(head) < found + 92:
        return 0.0
    ticks, _, before_ms, live = struct.unpack_from("<QQQI", head, found + 64)
    return 0.0 if live & 1 else max(0.0, ticks / 1e7 - before_ms / 1e3)
