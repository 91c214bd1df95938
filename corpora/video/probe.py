"""What a video file holds, by its header and its packets; no frame is decoded but the first."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from corpora.store.files import read_through
from corpora.store.remote import here
from corpora.video.clock import NO_TIMESTAMPS, PacketClock
from corpora.video.file_end import End, missing_s, why_early
from corpora.video.shown import Showing, showing_of

av.logging.set_level(av.logging.PANIC)  # damage is reported in the manifest, not on the terminal

_NONE = -(2**63)
"""A time that is not given."""
ALIVE_BYTES = 1 << 24
"""Bytes of packets between two signs of life."""
_FIRST = 64
"""Packets of which frames are decoded, as long as something is to be learnt from them."""
_ELSEWHERE = {"concat", "dash", "fbdev", "hls", "image2", "lavfi", "rtp", "rtsp", "sap", "sdp", "webm_dash_manifest"}
"""Formats that point to other files, or to none: whoever puts one among the videos would have us open what he names."""
_OF_DECODING = ("asf", "avi")
"""Formats that hold times of decoding alone; those of presentation are FFmpeg's guess, as they are of raw streams."""
_OPENED = ",".join(sorted(av.formats_available - _ELSEWHERE))
_DEFAULT_BONUS = 5_000_000
"""Pixels that a stream marked as default is ahead of others; ffmpeg's own."""


class Unusable(Exception):
    """A source, or a part of it, that cannot be used: a short snake_case reason and a free text."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class VideoFacts:
    """What the container and its packets say, before frames are decoded."""

    stream: int
    """Index of the stream within the container."""
    codec: str
    bits: int
    width: int
    """As stored, before it is `showing`'s."""
    height: int
    showing: Showing
    zero_s: float
    """The container's time of the player's zero: of the first frame shown, or of the sound where that begins earlier."""
    times: NDArray[np.float64]
    """float64 [N], ascending, on the player's clock: presentation time of every packet that is to be shown."""
    times_exact: bool
    """False where the container lacks some presentation times; then those of the decoder count."""
    in_decoding_order: bool
    """Packets have only the times at which they are decoded; frames take them in the order in which they are shown."""
    breaks: NDArray[np.float64]
    """Times at which the container's clock restarts; what is shown then need not go on from what was shown before."""
    keyframes: NDArray[np.int64]
    """Indices into `times`."""
    missing_s: float
    """Length that the header promises beyond the last packet; 0 where it promises no more."""
    cut_off: tuple[int, int] | None = None
    """Place and bytes of the last packet, where the file ends in its middle."""
    early: str = ""
    """What says that the file ends too early, though nothing promises a length."""
    stored: VideoFacts | None = None
    """As the file has them, where times here are those at which frames were recorded, see `recorded_at`."""

    def recorded_at(self, fps: float) -> VideoFacts:
        """With the times at which frames were recorded, `fps` a second, zero the first, whatever the file says."""
        times = np.round(np.arange(len(self.times)) / fps, 7)
        slower = 1 / fps / self.interval_s if self.interval_s > 0 else 1.0
        breaks = np.interp(self.breaks, self.times, times)
        return replace(self, times=times, breaks=breaks, missing_s=self.missing_s * slower, stored=self)

    def recorded_s(self, stored_s: float) -> float:
        """When the frame was recorded that the file has at this time."""
        return stored_s if self.stored is None else float(np.interp(stored_s, self.stored.times, self.times))

    def stored_s(self, recorded_s: float) -> float:
        """Of `recorded_s` the reverse; infinite behind the last frame."""
        if self.stored is None:
            return recorded_s
        return float(np.interp(recorded_s, self.times, self.stored.times, right=np.inf))

    @property
    def truncated(self) -> bool:
        """Whether the file is known to end too early."""
        return self.missing_s > 0 or self.cut_off is not None or bool(self.early)

    @property
    def seekable(self) -> bool:
        """Whether a time leads to its packets; otherwise decoding starts at the file's beginning."""
        return self.times_exact and not self.in_decoding_order and len(self.breaks) == 0

    @cached_property
    def interval_s(self) -> float:
        """Median time between two frames."""
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.0

    @cached_property
    def constant_rate(self) -> bool:
        """Whether every interval is the median one, up to the millisecond rounding of some containers."""
        if len(self.times) < 2 or self.interval_s <= 0:
            return False
        return bool(np.abs(np.diff(self.times) - self.interval_s).max() <= max(0.0015, 0.02 * self.interval_s))

    @property
    def duration_s(self) -> float:
        """Time of the end of the last frame."""
        return float(self.times[-1]) + self.interval_s if len(self.times) else 0.0

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) as a player shows it."""
        return self.showing.size(self.width, self.height)


def probe(path: str | os.PathLike[str], alive: Callable[[], None] = lambda: None) -> VideoFacts:
    """Opens the container and walks over its packets; no frame is decoded but the first. `alive` is called now and then.

    Raises Unusable (missing_file, empty_file, unreadable, no_video_stream, no_frames).
    """
    try:
        if os.stat(path).st_size == 0 and os.path.isfile(path):
            raise Unusable("empty_file", "0 bytes")
        with open_container(path) as container:
            stream, found = _scan_best(container, alive)
            return _facts(container, stream, found)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise Unusable("missing_file", f"{type(error).__name__}: {path}") from error
    except (av.error.FFmpegError, OSError, UnicodeDecodeError) as error:
        raise Unusable("unreadable", describe(error)) from error


def open_container(path: str | os.PathLike[str], options: dict[str, str] | None = None) -> InputContainer:
    """To be closed. Raises FFmpeg's errors, and Unusable("unreadable") for what is no video but points to one."""
    try:
        return av.open(os.fspath(here(path)), options={**(options or {}), "format_whitelist": _OPENED})
    except av.error.ArgumentError as error:
        raise Unusable("unreadable", "a playlist, or a format that is not read") from error


def pixel_format(path: str | os.PathLike[str]) -> str:
    """How FFmpeg calls the pixels of the stream that it would show, e.g. "yuv420p"; "" of a file that is no whole
    video. Raises OSError where the machine cannot read it now."""
    try:
        with open_container(path) as container:
            return str(_streams(container)[0].codec_context.pix_fmt or "")
    except (Unusable, av.error.FFmpegError, OSError):
        read_through(Path(path))
        return ""


def opened_stream(container: InputContainer, index: int) -> VideoStream:
    """Ready to be decoded."""
    stream = next(stream for stream in container.streams.video if stream.index == index)
    stream.codec_context.thread_count = 1  # sources are decoded side by side, each in its own worker
    return stream


def _scan_best(container: InputContainer, alive: Callable[[], None]) -> tuple[VideoStream, _Scan]:
    """The stream that is shown, and what is in it: the first, as `_streams` has them, that is no still."""
    streams = _streams(container)
    scans: list[tuple[VideoStream, _Scan]] = []
    for number, ranked in enumerate(streams):
        if number:
            container.seek(0)
        stream = opened_stream(container, ranked.index)
        scans.append((stream, _scan(container, stream, alive)))
        if len(scans[-1][1].keys) > 1:
            return scans[-1]
    return scans[0]


def _streams(container: InputContainer) -> list[VideoStream]:
    """In the order in which ffmpeg would pick them: those that move, the default, the larger; a cover image is none.

    Raises Unusable("no_video_stream") without one.
    """

    def rank(stream: VideoStream) -> tuple[bool, int]:
        area = stream.codec_context.width * stream.codec_context.height
        default = bool(stream.disposition & av.stream.Disposition.default)
        return stream.frames != 1, area + _DEFAULT_BONUS * default

    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if stream.codec_context and not stream.disposition & cover]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise Unusable("no_video_stream", f"streams: {kinds}")
    return sorted(streams, key=rank, reverse=True)


@dataclass
class _Scan:
    """What a walk over the packets finds: times in ticks of the stream (or _NONE), in the order of the file."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("b"))
    end: End = field(default_factory=End)
    breaks: list[int] = field(default_factory=list)
    """Packets at which the clock restarts."""
    bare: int = 0
    """Packets without any time, as those of program streams that begin in the middle of a block."""
    frame: VideoFrame | None = None
    """The first that decodes."""
    disordered: bool = False
    """The decoder puts frames into another order than that of their times."""


def _scan(container: InputContainer, stream: VideoStream, alive: Callable[[], None]) -> _Scan:
    found = _Scan()
    clock = PacketClock(container, stream)
    read = 0
    in_order, latest, shown = bool(stream.codec_context.has_b_frames), _NONE, _NONE
    try:
        for packet in container.demux():
            if packet.size == 0:
                continue
            if packet.stream.index != stream.index:
                found.end.latest_s = max(found.end.latest_s, _end_s(packet))
                continue
            found.end.seen += 1
            found.end.first = found.end.first or packet
            found.end.last = packet
            found.end.key = packet if packet.is_keyframe else found.end.key
            read += packet.size
            if read >= ALIVE_BYTES:
                alive()
                read = 0
            restarted = clock.set(packet)
            found.end.latest_s = max(found.end.latest_s, _end_s(packet))
            if packet.pts is None and packet.dts is None:
                found.bare += 1
            elif not packet.is_discard:
                found.pts.append(_NONE if packet.pts is None else packet.pts)
                found.dts.append(_NONE if packet.dts is None else packet.dts)
                found.keys.append(bool(packet.is_keyframe))
                if restarted:
                    found.breaks.append(len(found.keys) - 1)
            if found.end.seen <= _FIRST and (found.frame is None or in_order):
                for frame in _decoded(packet):
                    found.frame = found.frame or frame
                    if frame.pts is not None:
                        found.disordered |= in_order and frame.pts < shown
                        shown = frame.pts
                in_order = in_order and not found.disordered and packet.pts is not None and packet.pts >= latest
                latest = _NONE if packet.pts is None else packet.pts
    except av.error.FFmpegError:
        found.end.broken = True
    return found


def _end_s(packet: Packet) -> float:
    begin = packet.dts if packet.pts is None else packet.pts
    if begin is None or not packet.time_base:
        return -math.inf
    return float((begin + (packet.duration or 0)) * packet.time_base)


def _decoded(packet: Packet) -> Iterator[VideoFrame]:
    """Frames of a packet; none where it fails: whether anything decodes is found out by whoever reads the frames."""
    try:
        yield from (frame for frame in packet.decode() if isinstance(frame, VideoFrame))
    except av.error.FFmpegError:
        return


def _facts(container: InputContainer, stream: VideoStream, found: _Scan) -> VideoFacts:
    context = stream.codec_context
    if not found.keys:
        raise Unusable("no_frames", "the video stream has no packets that are to be shown")
    if not context.width or not context.height or not context.pix_fmt:
        raise Unusable("unreadable", "the header gives no picture size or pixel format")
    pts, dts = np.frombuffer(found.pts, np.int64), np.frombuffer(found.dts, np.int64)
    presented = pts != _NONE
    # A decoder that reorders, and times that are in the order of decoding, cannot both be right (AVI, ASF, raw H.264).
    reordered = found.disordered and bool((np.diff(pts[presented]) >= 0).all())
    guessed = container.format.name in _OF_DECODING or bool(container.format.flags & NO_TIMESTAMPS)
    in_decoding_order = not presented.any() or reordered or (guessed and bool(context.has_b_frames))
    stamps = np.where(dts == _NONE, pts, dts) if in_decoding_order else pts
    base = float(stream.time_base) if stream.time_base else 1.0
    breaks = [stamps[place] * base for place in found.breaks if stamps[place] != _NONE]
    shown = np.flatnonzero(stamps != _NONE)
    shown = shown[np.argsort(stamps[shown], kind="stable")]
    seconds = stamps[shown] * base
    late_s = _behind_sound(stream, container, seconds[0])
    times = np.round(seconds - seconds[0] + late_s, 7)
    zero_s = float(seconds[0]) - late_s
    cut_off, early = why_early(container, stream, found.end)
    return VideoFacts(
        stream=stream.index,
        codec=context.name if context.codec is None else context.codec.canonical_name,
        bits=max((part.bits for part in context.format.components), default=8) if context.format else 8,
        width=context.width,
        height=context.height,
        showing=showing_of(stream, found.frame),
        zero_s=zero_s,
        times=times,
        times_exact=(in_decoding_order or bool(presented.all())) and not found.bare,
        in_decoding_order=in_decoding_order,
        breaks=np.round(np.array(breaks) - zero_s, 7),
        keyframes=np.flatnonzero(np.frombuffer(found.keys, np.bool_)[shown]),
        missing_s=missing_s(container, stream, found.end, times, zero_s),
        cut_off=cut_off,
        early=early,
    )


def _behind_sound(stream: VideoStream, container: InputContainer, first_s: float) -> float:
    """Seconds by which the sound begins before the picture."""
    base = float(stream.time_base) if stream.time_base else 1.0
    begin_s = first_s if stream.start_time is None else stream.start_time * base
    sounds = [
        float(sound.start_time * sound.time_base)
        for sound in container.streams.audio
        if sound.start_time is not None and sound.time_base
    ]
    return max(0.0, begin_s - min(sounds, default=begin_s))


def describe(error: BaseException) -> str:
    """One line, without the path that FFmpeg appends."""
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}".split("\n")[0][:200]
