"""Whether the last picture of a stream is whole, where neither its container nor its decoder says so."""

from __future__ import annotations

import re

import av
import av.error
import numpy as np
from av.codec.context import CodecContext, Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

_CODECS = ("h264", "hevc")
"""Whose decoders take what follows the end of the data for zeros, H.264's not always, and show what that gives."""
_CONTAINERS = ("h264", "hevc", "mpegts", "mpeg")
"""That do not say how long a picture is."""
_MORE = bytes(range(1, 255)) * 4
_LEADING = ((b"\0\0\1\x10", b"\0\0\1\0"), (b"\0\0\1\x12", b"\0\0\1\2"))
"""What pictures begin with that are not shown where decoding begins at the keyframe, and the same without that."""


def cannot_tell(stream: VideoStream, container: str) -> bool:
    """Whether a last picture that is not whole goes unnoticed."""
    return stream.codec_context.name in _CODECS and container in _CONTAINERS


def unfinished(stream: VideoStream, first: bytes, key: bytes, last: bytes) -> bool:
    """Whether a picture is another when more bytes follow it: a whole one ends before them. `first`: of the stream, with its
    parameters; `key`: the last keyframe. Either may be `last` itself."""
    before = [data for data in dict.fromkeys((first, key)) if data != last]
    for leading, trailing in _LEADING:
        last = last.replace(leading, trailing)
    if len(_pictures(stream, *before)) < len(before):
        return False
    one, other = (_pictures(stream, *before, data) for data in (last, last + _MORE))
    same = len(one) == len(other) and all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    return not same or not _has_slice(stream.codec_context.name, last)


def _has_slice(codec: str, data: bytes) -> bool:
    """Anything of a picture at all."""
    kinds = [data[start.end()] for start in re.finditer(b"\0\0\1(?=.)", data, re.DOTALL)]
    return any(1 <= kind & 31 <= 5 if codec == "h264" else kind >> 1 < 32 for kind in kinds)


def _pictures(stream: VideoStream, *packets: bytes) -> list[NDArray[np.uint8]]:
    """What is missing before them the decoder makes up, which does not change where they end."""
    context = CodecContext.create(stream.codec_context.name, "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata = stream.codec_context.extradata
    context.thread_count = 1
    context.flags |= Flags.output_corrupt
    frames: list[VideoFrame] = []
    for number, data in enumerate((*packets, None)):
        packet = None if data is None else Packet(data)
        if packet is not None:
            packet.pts = packet.dts = number
        try:
            frames += context.decode(packet)
        except av.error.FFmpegError:
            frames.append(VideoFrame(2, 2))
    return [np.asarray(frame.to_ndarray(format="gray")) for frame in frames]
