"""Frames as H.264, the same bytes every time: clips, episodes, and episodes joined without encoding them again."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from corpora.store.remote import here
from corpora.video.encoding import VideoEncoding

TICKS_PER_S = 90_000
"""Resolution of presentation times in a stored clip."""


def encode_clip(frames: Sequence[NDArray[np.uint8]], t_s: Sequence[float], *, crf: int, gop: int) -> bytes:
    """An mp4 of uint8 [size, size, 3] RGB frames shown at `t_s` (seconds, ascending, from the clip's start).

    One thread, no B-frames, a keyframe at least every `gop` frames.
    """
    assert len(frames) == len(t_s) > 0
    buffer = io.BytesIO()
    ticks = [round(t * TICKS_PER_S) for t in t_s]
    assert all(a < b for a, b in itertools.pairwise(ticks))
    with av.open(buffer, "w", format="mp4") as container:
        base = Fraction(1, TICKS_PER_S)
        params = f"keyint={gop}:min-keyint=1:bframes=0:threads=1:scenecut=0:mbtree=0"
        options = {"crf": str(crf), "preset": "veryfast", "x264-params": params}
        stream = _stream(container, frames[0], Fraction(30), base, options)
        as_stored = VideoReformatter()
        for image, tick in zip(frames, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = as_stored.reformat(frame, format="yuv420p", threads=1)  # else one for each core
            frame.pts, frame.time_base = tick, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _stream(
    container: OutputContainer, like: NDArray[np.uint8], rate: Fraction, base: Fraction, options: Mapping[str, object]
) -> av.VideoStream:
    """Of images `like` this one: H.264 yuv420p by one thread. `base`: of its times, seconds."""
    stream = container.add_stream("libx264", rate=rate)
    stream.height, stream.width = like.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = base
    stream.codec_context.thread_count = 1
    stream.options = dict(options)
    return stream


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An npz; numpy writes a fixed date, so equal arrays are equal bytes."""
    assert all(array.dtype != object for array in arrays.values())
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]  # `allow_pickle` is an array's name before NumPy 2.2
    return buffer.getvalue()


_X264 = "open-gop=0:rc-lookahead=0:mbtree=0"
"""No macroblock tree: with it x264's vector code is not deterministic. Of 200 encodings of the same 30 frames, one thread,
11 came out in other bytes at 96 pixels and 6 at 48 (none at 64); without it, none of 1200. Groups of pictures this short
gain nothing from it."""


class EpisodeVideo:
    """Writes uint8 [H, W, 3] frames to an mp4, frame i at i / fps seconds. The same frames give the same bytes.

    H.264 yuv420p, no B-frames, closed groups of pictures, one thread: files of one encoding can be joined by
    `join_videos`, and a frame's bytes do not depend on how many cores the machine has.
    """

    def __init__(self, path: Path, fps: int, encoding: VideoEncoding) -> None:
        self._container = av.open(str(path), "w", format="mp4")
        self._fps = fps
        self._encoding = encoding
        self._stream: av.VideoStream | None = None
        self._as_stored = VideoReformatter()
        self.frames = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        if self._stream is None:
            self._stream = self._open_stream(image)
        frame = self._as_stored.reformat(av.VideoFrame.from_ndarray(image, format="rgb24"), format="yuv420p", threads=1)
        frame.pts = self.frames
        frame.time_base = Fraction(1, self._fps)
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def _open_stream(self, like: NDArray[np.uint8]) -> av.VideoStream:
        how = self._encoding
        height, width = like.shape[:2]
        if height % 2 or width % 2:
            raise ValueError(f"images of {width} x {height}: H.264 (yuv420p) takes even sides; crop or resize them")
        options = {"crf": str(how.crf), "preset": how.preset, "g": str(how.keyframe_frames), "bf": "0"}
        base = Fraction(1, self._fps)
        return _stream(self._container, like, Fraction(self._fps), base, {**options, "x264-params": _X264})

    def close(self) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def __enter__(self) -> EpisodeVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def join_videos(paths: Sequence[Path], out: Path, fps: int) -> list[int]:
    """Joins videos of one `VideoEncoding` and size, frame after frame at a constant rate; returns each one's frames."""
    counts: list[int] = []
    with av.open(str(out), "w", format="mp4") as target:
        stream: av.VideoStream | None = None
        total = 0
        for path in paths:
            with av.open(str(here(path))) as source:
                if stream is None:
                    stream = target.add_stream_from_template(source.streams.video[0])
                    stream.time_base = Fraction(1, fps)
                count = 0
                for packet in source.demux(source.streams.video[0]):
                    if packet.size == 0:  # the demuxer's last word
                        continue
                    packet.stream = stream
                    packet.time_base = Fraction(1, fps)
                    packet.pts = packet.dts = total + count
                    packet.duration = 1
                    target.mux(packet)
                    count += 1
            counts.append(count)
            total += count
    return counts
