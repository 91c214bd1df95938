"""Frames of video files by presentation time in seconds, decoded by PyAV.

Times are those of a player: start offsets and edit lists do not matter. Images are as a player shows them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from corpora.video.clock import DisplayOrder, PacketClock, Stamped, of_their_own
from corpora.video.nearest import nearest_rows
from corpora.video.probe import Unusable, VideoFacts, describe, open_container, opened_stream
from corpora.video.shown import Converter, deinterlaced

# A slice that does not decode is an error and not an image patched up from its neighbours.
_OPTIONS = {"err_detect": "explode"}
_LENIENT = ("tiff",)
"""Decoders that call FFmpeg's own files damaged when they are strict."""
_SKIPPING = ("h264", "mpeg4", "mpeg2video")
"""Decoders that leave out on demand what no other frame is made of, to the bit. HEVC's does, too, but there a frame so marked
may be what frames of a higher layer are made of."""
_SAME_S = 1e-5
_TICK_S = 1e-6
"""Of a stream's clock, above which times tell its ticks."""


@dataclass
class DecodingReport:
    """Filled in while frames are read."""

    lost: int = 0
    """Packets that did not decode, and the frames that depended on them."""
    first_error: str = ""
    shown_s: list[float] = field(default_factory=list)
    """Times of all frames so far, of a file whose packets do not tell them (`VideoFacts.times_exact`), which is read from its
    beginning."""

    def tell(self, error: str, *, lost: int = 0) -> None:
        """Of what went wrong, the first is remembered; all that is `lost` by it is counted."""
        self.first_error = self.first_error or error
        self.lost += lost


@dataclass
class FrameSampler:
    """Chooses the frames to keep: every k-th at a constant rate, else by spacing, so that at most `max_fps` remain."""

    facts: VideoFacts
    max_fps: float
    _last: float = field(default=-math.inf, init=False)
    _origin: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        times = self.facts.times
        self._rate = (len(times) - 1) / float(times[-1] - times[0]) if self.facts.constant_rate else 0.0
        self._step = max(1, math.ceil(self._rate / self.max_fps - 0.01))

    def wants(self, t_s: float) -> bool:
        """Whether the frame at `t_s` is kept; to be asked once for each frame, in order."""
        if self._rate:
            index = round((t_s - float(self.facts.times[0])) * self._rate)
            if self._origin is None:
                self._origin = index
            return (index - self._origin) % self._step == 0
        if t_s - self._last < 0.99 / self.max_fps:
            return False
        self._last = t_s
        return True

    def chosen(self, start_s: float, end_s: float) -> NDArray[np.bool_]:
        """bool, as `facts.times`: which frames in [start_s, end_s) it would keep, were none damaged."""
        times = self.facts.times
        fresh, found = FrameSampler(self.facts, self.max_fps), np.zeros(len(times), bool)
        first, stop = np.searchsorted(times, [start_s - 1e-6, end_s - 1e-6])
        found[first:stop] = [fresh.wants(t_s) for t_s in times[first:stop].tolist()]
        return found


def frame_numbers(facts: VideoFacts, report: DecodingReport, t_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """[T]: which frame of the file each of `t_s` [T] is the time of, the first that is shown being 0; frames that do not decode
    count. -1 where no frame is, and where frames were lost of a file whose packets do not tell their times."""
    known = facts.times if facts.times_exact else np.array([] if report.lost else report.shown_s, np.float64)
    if not len(known):
        return np.full(len(t_s), -1, np.int64)
    rows, near = nearest_rows(known, t_s, _SAME_S)
    return np.where(near, rows, -1)


def analysis_size(facts: VideoFacts, side: int) -> tuple[int, int]:
    """(width, height) of square pixels, not yet turned, with a short side of `side`, or less where that would enlarge. What is
    shrunk has even sides: halving it is many times faster then."""
    width, height = facts.width * facts.showing.pixel_aspect, facts.height
    scale = side / min(width, height)
    if scale >= 1:
        return max(1, round(width)), max(1, round(height))
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


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

    One pass, one frame in memory. After damage it goes on at the next keyframe, for what follows is patched together. Frames
    that are not sampled, and of which no other is made, are not decoded where the codec allows that.
    Raises Unusable("unreadable") where the container does not open.
    """
    size, convert = analysis_size(facts, side), Converter(facts.showing)
    span = {"start_s": facts.stored_s(start_s), "end_s": facts.stored_s(end_s)}
    needed = sampler.chosen(start_s, end_s)
    for stored_s, frame in decoded_frames(path, facts.stored or facts, report=report, needed=needed, **span):
        t_s = facts.recorded_s(stored_s)
        if not facts.times_exact:
            report.shown_s.append(t_s)
        if t_s >= start_s - 1e-6 and sampler.wants(t_s):
            yield t_s, convert(frame, size)


def decoded_frames(
    path: str | os.PathLike[str],
    facts: VideoFacts,
    *,
    report: DecodingReport,
    start_s: float = 0.0,
    end_s: float = math.inf,
    needed: NDArray[np.bool_] | None = None,
) -> Iterator[tuple[float, VideoFrame]]:
    """Yields (presentation time, frame) from the last keyframe before `start_s` on, strictly ascending in time; frames are
    deinterlaced, and otherwise as stored. `needed`, as `facts.times`: of the others some may be left out."""
    options = {} if facts.codec in _LENIENT else _OPTIONS
    try:
        container = open_container(path, options)
    except (av.error.FFmpegError, OSError) as error:
        raise Unusable("unreadable", describe(error)) from error
    with container:
        stream = opened_stream(container, facts.stream)
        stream.codec_context.options = options
        first_s = float(facts.times[0])
        last, shown, lost_before = -math.inf, 0, report.lost
        before_s = facts.interval_s if facts.showing.interlaced else 0.0  # fields are filled in from both neighbours
        base = float(stream.time_base) if stream.time_base else 1.0
        skips = stream.codec_context.name in _SKIPPING and facts.seekable and not facts.truncated and base > _TICK_S
        if needed is None or not skips or facts.showing.interlaced or needed.all():
            needed = None
        ticks = (
            None if needed is None else set(np.rint((facts.times[needed] + facts.zero_s) / base).astype(int).tolist())
        )
        counted = None if needed is None else set(facts.times[needed].tolist())
        stamped = _from(container, stream, facts, start_s - before_s, report, ticks)
        step_s = facts.interval_s or 1 / 25
        for stamp, frame in deinterlaced(stamped if facts.times_exact else of_their_own(stamped, step_s)):
            next_s = first_s if last < first_s else last + step_s
            t_s = next_s if stamp is None else stamp - facts.zero_s
            if t_s < first_s - 1e-4:
                continue  # before the first frame to be shown
            t_s = round(max(first_s, t_s), 7)  # equal times stay equal, however they were computed
            if t_s <= last:
                report.tell(f"a frame whose time does not ascend, at {t_s:.3f} s", lost=1)
                continue
            if t_s >= end_s - 1e-6:
                break
            last = t_s
            shown += t_s >= start_s - 1e-6 and (counted is None or t_s in counted)
            yield t_s, frame
    if end_s >= facts.duration_s:
        report.tell(facts.early)
    wanted = (facts.times >= start_s - 1e-6) & (facts.times < end_s - 1e-6) & (True if needed is None else needed)
    silent = len(np.unique(facts.times[wanted])) - shown - (report.lost - lost_before)
    if silent > 0 and facts.times_exact:
        report.tell(f"{silent} packets give no frame", lost=silent)


def _from(
    container: InputContainer,
    stream: VideoStream,
    facts: VideoFacts,
    start_s: float,
    report: DecodingReport,
    needed: set[int] | None,
) -> Iterator[Stamped]:
    """(container's time, frame) from the keyframe at or before `start_s` on; `needed` as `_tolerant` takes it.

    Containers seek by decoding time and may land on a later keyframe than asked; then an earlier one is tried.
    """
    base = float(stream.time_base) if stream.time_base else 1.0
    before = int(np.searchsorted(facts.times[facts.keyframes], start_s + 1e-6)) - 1 if facts.seekable else 0
    for step in (0, 1, 4):
        if before - step <= 0:
            break
        key_s = facts.zero_s + float(facts.times[facts.keyframes[before - step]])
        container.seek(math.floor(key_s / base + 1e-3), stream=stream, backward=True)
        frames = _tolerant(container, stream, facts, report, needed)
        first = next(frames, None)
        if first is not None and first[0] is not None and first[0] - facts.zero_s <= start_s + 1e-6:
            yield first
            yield from frames
            return
    if before > 0:
        container.seek(0)
    yield from _tolerant(container, stream, facts, report, needed)


def _tolerant(
    container: InputContainer,
    stream: VideoStream,
    facts: VideoFacts,
    report: DecodingReport,
    needed: set[int] | None,
) -> Iterator[Stamped]:
    """(container's time, frame); packets that fail are counted, and so are the frames up to the next keyframe. `needed`: ticks
    of the frames that must come, the others are left out where no frame is made of them; None: all. After damage all come."""
    base = float(stream.time_base) if stream.time_base else 1.0
    clock = None if facts.seekable else PacketClock(container, stream)
    order = DisplayOrder() if facts.in_decoding_order else None
    packets = container.demux(stream)
    damaged = False
    failed: set[int | None] = set()
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            report.tell(describe(error), lost=1)
            return
        if clock is not None and packet.size:
            clock.set(packet)
            if order is not None:
                order.feed(packet)
        if packet.size and (packet.pos, packet.size) == facts.cut_off:
            report.tell("the file ends in the middle of a frame", lost=1)
            continue  # some decoders would patch it up from the frame before
        if needed is not None:
            unneeded = packet.pts is not None and packet.pts not in needed and not report.lost
            stream.codec_context.skip_frame = "NONREF" if unneeded else "DEFAULT"
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            report.tell(describe(error), lost=1)
            damaged = True
            failed.add(packet.pts)
            continue
        # What comes behind the last packet may have a time too early, where frames are missing that would come before it.
        missing = order is not None and (facts.truncated or len(frames) < len(order))
        unsure = not packet.size and (damaged or missing)
        for frame in frames:
            if not isinstance(frame, VideoFrame):
                continue
            patched = frame.is_corrupt or (frame.pts is not None and frame.pts in failed)
            stamp = frame.pts if order is None else order.take(frame)
            damaged = (damaged and not frame.key_frame) or patched or unsure
            if frame.is_corrupt:
                report.tell("a frame that the decoder marks as corrupt")
            if unsure:
                report.tell(facts.early or "the end is missing, and with it what times frames have")
            if damaged:
                report.lost += 1
            else:
                yield None if stamp is None else stamp * base, frame
