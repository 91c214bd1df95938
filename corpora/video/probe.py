"""What a video file holds, by its header and its packets; no frame is decoded but the first."""

from __future__ import annotations

import math
import os
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from corpora.video.clock import NO_TIMESTAMPS, PacketClock
from corpora.video.shown import Showing, showing_of
from corpora.video.tails import cut_in, early_end, repeats
from corpora.video.unfinished import cannot_tell, unfinished

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
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_WHOLE_S = 0.25
"""A file of several streams, the last of which ends by less before the length of the header, is whole, though its picture
may end earlier."""
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
        return av.open(os.fspath(path), options={**(options or {}), "format_whitelist": _OPENED})
    except av.error.ArgumentError as error:
        raise Unusable("unreadable", "a playlist, or a format that is not read") from error


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
    breaks: list[int] = field(default_factory=list)
    """Packets at which the clock restarts."""
    seen: int = 0
    """Packets, of which some may not be shown."""
    bare: int = 0
    """Packets without any time, as those of program streams that begin in the middle of a block."""
    broken: bool = False
    """It ends in an error: what came before is used, and the loss is noted when the frames are decoded."""
    last: Packet | None = None
    key: Packet | None = None
    """The last keyframe."""
    latest_s: float = -math.inf
    """When the last packet of any stream ends, sound and subtitles too, by the container's clock."""
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
                found.latest_s = max(found.latest_s, _end_s(packet))
                continue
            found.seen += 1
            found.last = packet
            found.key = packet if packet.is_keyframe else found.key
            read += packet.size
            if read >= ALIVE_BYTES:
                alive()
                read = 0
            restarted = clock.set(packet)
            found.latest_s = max(found.latest_s, _end_s(packet))
            if packet.pts is None and packet.dts is None:
                found.bare += 1
            elif not packet.is_discard:
                found.pts.append(_NONE if packet.pts is None else packet.pts)
                found.dts.append(_NONE if packet.dts is None else packet.dts)
                found.keys.append(bool(packet.is_keyframe))
                if restarted:
                    found.breaks.append(len(found.keys) - 1)
            if found.seen <= _FIRST and (found.frame is None or in_order):
                for frame in _decoded(packet):
                    found.frame = found.frame or frame
                    if frame.pts is not None:
                        found.disordered |= in_order and frame.pts < shown
                        shown = frame.pts
                in_order = in_order and not found.disordered and packet.pts is not None and packet.pts >= latest
                latest = _NONE if packet.pts is None else packet.pts
    except av.error.FFmpegError:
        found.broken = True
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
    cut_off, early = _ending(container, stream, found)
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
        missing_s=_missing_s(container, stream, found, times, zero_s),
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


def _missing_s(
    container: InputContainer, stream: VideoStream, found: _Scan, times: NDArray[np.float64], zero_s: float
) -> float:
    """An edit list may rightly show less than the stream holds. Packets in the index but not in the file are lost."""
    if not (found.broken or stream.frames == 0 or found.seen < stream.frames):
        return 0.0
    end_s = float(times[-1]) + (float(np.median(np.diff(times))) if len(times) > 1 else 0.0)
    base = float(stream.time_base) if stream.time_base else 0.0
    if (
        container.format.name == "avi"
    ):  # FFmpeg's length is but that of what is there; the header counts frames of a tick
        return max(0.0, float(times[0]) + (stream.frames - _repeats(container, found)) * base - end_s)
    if container.format.name != "asf" and stream.duration and base:
        return max(0.0, float(times[0]) + stream.duration * base - end_s)
    whole_s = container.duration / 1e6 if container.duration else 0.0
    if container.format.name == "asf":  # FFmpeg's length may be a guess from the size
        whole_s = _asf_length_s(container.name)
    if "matroska" in container.format.name:  # it counts from the clock's zero, others from the beginning
        whole_s -= max(0.0, zero_s)
    if len(container.streams) > 1 and whole_s - (found.latest_s - zero_s) < _WHOLE_S:
        return 0.0
    return max(0.0, whole_s - end_s)


def _repeats(container: InputContainer, found: _Scan) -> int:
    if found.last is None or found.last.pos is None:
        return 0
    with open(container.name, "rb") as file:
        return repeats(file, found.last.pos)


def _ending(container: InputContainer, stream: VideoStream, found: _Scan) -> tuple[tuple[int, int] | None, str]:
    """(place and bytes of the last packet where it is not whole, why the file must have been longer)."""
    last, name = found.last, container.format.name
    if last is None or last.pos is None:
        return None, ""
    place = (last.pos, last.size)
    with open(container.name, "rb") as file:
        cut = last.is_corrupt or cut_in(file, name, *place)
        early = early_end(file, name, *place)
    if not cut and found.key is not None and cannot_tell(stream, name):
        cut = unfinished(stream, bytes(found.key), bytes(last))
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


def describe(error: BaseException) -> str:
    """One line, without the path that FFmpeg appends."""
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}".split("\n")[0][:200]
