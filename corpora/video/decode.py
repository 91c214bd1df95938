"""Video files: what they hold, and their frames by presentation time in seconds.

Decoded by PyAV. Times are counted from the first frame that is shown, so start offsets and edit lists do not matter;
rotation metadata is applied.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

av.logging.set_level(av.logging.PANIC)  # damage is reported in the manifest, not on the terminal

# A slice that does not decode is an error and not an image patched up from its neighbours.
_OPTIONS = {"err_detect": "explode"}


class Unusable(Exception):
    """A source, or a part of it, that cannot be used: a short snake_case reason and a free text."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class VideoFacts:
    """What the container and its packets say, before any frame is decoded."""

    codec: str
    bits: int
    width: int
    """As stored; `rotation` is applied later."""
    height: int
    rotation: int
    """0, 90, 180 or 270 degrees, counter-clockwise."""
    first_pts_s: float
    """The container's time of the first frame shown."""
    times: NDArray[np.float64]
    """float64 [N], ascending, from 0: presentation time of every packet that is to be shown."""
    times_exact: bool
    """False where the container stores no presentation times; then those of the decoder count."""
    keyframes: NDArray[np.int64]
    """Indices into `times`."""
    missing_s: float
    """Length that the header promises beyond the last packet; 0 where it promises no more."""

    @property
    def interval_s(self) -> float:
        """Median time between two frames."""
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.0

    @property
    def constant_rate(self) -> bool:
        """Whether every interval is the median one, up to the millisecond rounding of some containers."""
        if len(self.times) < 2 or self.interval_s <= 0:
            return False
        return bool(np.abs(np.diff(self.times) - self.interval_s).max() <= max(0.0015, 0.02 * self.interval_s))

    @property
    def duration_s(self) -> float:
        """Length to the end of the last frame."""
        return float(self.times[-1]) + self.interval_s if len(self.times) else 0.0

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) after rotation."""
        return (self.height, self.width) if self.rotation in (90, 270) else (self.width, self.height)


@dataclass
class DecodingReport:
    """Filled in while frames are read."""

    lost: int = 0
    """Packets that did not decode, and the frames that depended on them."""
    first_error: str = ""


@dataclass
class FrameSampler:
    """Chooses the frames to keep: every k-th at a constant rate, else by spacing, so that at most `max_fps` remain."""

    facts: VideoFacts
    max_fps: float
    _last: float = field(default=-math.inf, init=False)
    _origin: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        times = self.facts.times
        self._rate = (len(times) - 1) / float(times[-1]) if self.facts.constant_rate else 0.0
        self._step = max(1, math.ceil(self._rate / self.max_fps - 0.01))

    def wants(self, t_s: float) -> bool:
        """Whether the frame at `t_s` is kept; to be asked once for each frame, in order."""
        if self._rate:
            index = round(t_s * self._rate)
            if self._origin is None:
                self._origin = index
            return (index - self._origin) % self._step == 0
        if t_s - self._last < 0.99 / self.max_fps:
            return False
        self._last = t_s
        return True


def probe(path: str | os.PathLike[str]) -> VideoFacts:
    """Opens the container and walks over its packets; no frame is decoded.

    Raises Unusable (missing_file, empty_file, unreadable, no_video_stream, no_frames).
    """
    try:
        if os.stat(path).st_size == 0 and os.path.isfile(path):
            raise Unusable("empty_file", "0 bytes")
        with av.open(os.fspath(path)) as container:
            stream = video_stream(container)
            return _scan(container, stream)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise Unusable("missing_file", f"{type(error).__name__}: {path}") from error
    except (av.error.FFmpegError, OSError, UnicodeDecodeError) as error:
        raise Unusable("unreadable", describe(error)) from error


def video_stream(container: av.container.InputContainer) -> VideoStream:
    """The first video stream (a cover image is not one); Unusable("no_video_stream") without one."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            stream.codec_context.thread_count = 1  # sources are decoded side by side, each in its own worker
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
    raise Unusable("no_video_stream", f"streams: {kinds}")


def _scan(container: av.container.InputContainer, stream: VideoStream) -> VideoFacts:
    shown, keys, exact, seen = array("d"), array("b"), True, 0
    base = float(stream.time_base) if stream.time_base else 1.0
    broken = False
    try:
        for packet in container.demux(stream):
            seen += packet.size > 0
            if packet.size == 0 or packet.is_discard:
                continue
            stamp = packet.pts
            if stamp is None:
                exact, stamp = False, packet.dts
            if stamp is not None:
                shown.append(stamp * base)
                keys.append(bool(packet.is_keyframe))
    except av.error.FFmpegError:
        broken = True  # a truncated file: what came before is used, and the loss is noted when the frames are decoded
    if not shown:
        raise Unusable("no_frames", "the video stream has no packets that are to be shown")
    order = np.argsort(np.frombuffer(shown), kind="stable")
    times = np.frombuffer(shown)[order]
    keyframes = np.flatnonzero(np.frombuffer(keys, np.int8)[order])
    context = stream.codec_context
    bits = max((part.bits for part in context.format.components), default=8) if context.format else 8
    if not context.width or not context.height or not context.pix_fmt:
        raise Unusable("unreadable", "the header gives no picture size or pixel format")
    # An edit list may rightly show less than the stream holds. Packets in the index but not in the file are lost.
    missing = 0.0
    if broken or stream.frames == 0 or seen < stream.frames:
        declared = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        if not declared and container.duration and len(container.streams) == 1:
            declared = container.duration / 1e6
        interval = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        missing = max(0.0, declared - float(times[-1] - times[0]) - interval)
    rotation = _rotation(container, stream)
    return VideoFacts(
        codec=context.name if context.codec is None else context.codec.canonical_name,
        bits=bits,
        width=context.width,
        height=context.height,
        rotation=rotation,
        first_pts_s=float(times[0]),
        times=np.round(times - times[0], 7),
        times_exact=exact,
        keyframes=keyframes,
        missing_s=missing,
    )


def _rotation(container: av.container.InputContainer, stream: VideoStream) -> int:
    """The rotation is metadata of the stream, but PyAV hands it out with a frame: the first that decodes is asked."""
    if stream.codec_context.name in {"gif"}:
        return 0
    try:
        container.seek(0)
        for number, packet in enumerate(container.demux(stream)):
            for frame in packet.decode():
                if isinstance(frame, VideoFrame):
                    return int(round(frame.rotation / 90) * 90) % 360
            if number > 64:
                return 0
    except av.error.FFmpegError:
        return 0  # whether anything decodes at all is found out by whoever reads the frames
    return 0


def analysis_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with a short side of `side`, or as they are where that would enlarge."""
    scale = min(1.0, side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def read_frames(
    path: str | os.PathLike[str],
    facts: VideoFacts,
    *,
    side: int,
    sampler: FrameSampler,
    report: DecodingReport,
    start_s: float = 0.0,
    end_s: float = math.inf,
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yields (presentation time, uint8 [h, w, 3] RGB with short side `side`) of the sampled frames in [start_s, end_s).

    One pass, one frame in memory. After damage it goes on at the next keyframe, for what follows is patched together.
    Raises Unusable("unreadable") where the container does not open.
    """
    width, height = analysis_size(facts.width, facts.height, side)
    reformatter = VideoReformatter()
    for t_s, frame in decoded_frames(path, facts, report=report, start_s=start_s, end_s=end_s):
        if t_s < start_s - 1e-6 or not sampler.wants(t_s):
            continue
        small = reformatter.reformat(frame, width, height, "rgb24", interpolation=Interpolation.AREA)
        yield t_s, upright(np.asarray(small.to_ndarray(), np.uint8), facts.rotation)


def decoded_frames(
    path: str | os.PathLike[str],
    facts: VideoFacts,
    *,
    report: DecodingReport,
    start_s: float = 0.0,
    end_s: float = math.inf,
) -> Iterator[tuple[float, VideoFrame]]:
    """Yields (presentation time, frame) from the last keyframe before `start_s` on, strictly ascending in time."""
    try:
        container = av.open(os.fspath(path), options=_OPTIONS)
    except (av.error.FFmpegError, OSError) as error:
        raise Unusable("unreadable", describe(error)) from error
    with container:
        stream = video_stream(container)
        stream.codec_context.options = _OPTIONS
        origin: float | None = facts.first_pts_s if facts.times_exact else None
        interval = facts.interval_s or 1 / 25
        last = -math.inf
        for counted, frame in enumerate(_from(container, stream, facts, start_s, report)):
            stamp = frame.time if frame.time is not None else counted * interval
            if origin is None:
                origin = stamp
            t_s = stamp - origin
            if t_s < -1e-4 or t_s <= last:
                continue  # before the first frame to be shown, or a second frame with the same time
            t_s = round(max(0.0, t_s), 7)  # equal times stay equal, however they were computed
            if t_s >= end_s - 1e-6:
                return
            last = t_s
            yield t_s, frame


def _from(
    container: av.container.InputContainer,
    stream: VideoStream,
    facts: VideoFacts,
    start_s: float,
    report: DecodingReport,
) -> Iterator[VideoFrame]:
    """Decoded frames from the keyframe at or before `start_s` on.

    Containers seek by decoding time and may land on a later keyframe than asked; then an earlier one is tried.
    """
    if start_s <= 0 or not facts.times_exact or not stream.time_base:
        yield from _tolerant(container, stream, report)
        return
    before = int(np.searchsorted(facts.times[facts.keyframes], start_s + 1e-6)) - 1
    for step in (0, 1, 4):
        if before - step <= 0:
            break
        key_s = facts.first_pts_s + float(facts.times[facts.keyframes[before - step]])
        container.seek(math.floor(key_s / float(stream.time_base) + 1e-3), stream=stream, backward=True)
        frames = _tolerant(container, stream, report)
        first = next(frames, None)
        if first is not None and first.time is not None and first.time - facts.first_pts_s <= start_s + 1e-6:
            yield first
            yield from frames
            return
    container.seek(0)
    yield from _tolerant(container, stream, report)


def _tolerant(
    container: av.container.InputContainer, stream: VideoStream, report: DecodingReport
) -> Iterator[VideoFrame]:
    """Decoded frames; packets that fail are counted, and so are the frames up to the next keyframe."""
    packets = container.demux(stream)
    damaged = False
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            report.first_error = report.first_error or describe(error)
            report.lost += 1
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            report.first_error = report.first_error or describe(error)
            report.lost += 1
            damaged = True
            continue
        for frame in frames:
            if not isinstance(frame, VideoFrame):
                continue
            damaged = (damaged and not frame.key_frame) or frame.is_corrupt
            if frame.is_corrupt:
                report.first_error = report.first_error or "a frame that the decoder marks as corrupt"
            if damaged:
                report.lost += 1
            else:
                yield frame


def upright(rgb: NDArray[np.uint8], rotation: int) -> NDArray[np.uint8]:
    """`rgb` turned counter-clockwise by 0, 90, 180 or 270 degrees."""
    return np.ascontiguousarray(np.rot90(rgb, rotation // 90)) if rotation else rgb


def describe(error: BaseException) -> str:
    """One line, without the path that FFmpeg appends."""
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}".split("\n")[0][:200]
