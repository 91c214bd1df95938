"""One clock for a whole stream, where the container's restarts, says nothing, or gives the order of decoding.

Seconds are those that a player shows: from the beginning of the picture, or of the sound where that begins earlier.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

NO_TIMESTAMPS, _RESTARTS = 0x80, 0x200
"""libavformat's AVFMT_NOTIMESTAMPS (raw streams) and AVFMT_TS_DISCONT (transport and program streams)."""
LEAP_S = 10.0
"""A clock that may restart, and goes ahead by more, has restarted; ffmpeg's own limit."""
JITTER_S = 0.1
"""A clock that goes back by less has not restarted; ffmpeg's own limit."""
DEFAULT_RATE = 25
"""Frames a second of a raw stream that does not say; ffmpeg's own."""


class PacketClock:
    """Sets the times of packets, met in the order of the file, so that they run on."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._base = float(stream.time_base) if stream.time_base else 1.0
        rate = stream.guessed_rate or stream.average_rate or DEFAULT_RATE
        self._step = max(1, round(1 / (float(rate) * self._base)))
        self._bare = bool(container.format.flags & NO_TIMESTAMPS)
        self._leaps = bool(container.format.flags & _RESTARTS)
        self._shift = 0
        self._last: int | None = None
        self._end = 0

    def set(self, packet: Packet) -> bool:
        """True where the clock has restarted; the packet is then shown one frame after all that came before."""
        if packet.pts is None and packet.dts is None and self._bare:
            packet.dts = self._end
        restarted = False
        if packet.dts is not None:
            ahead_s = 0.0 if self._last is None else (packet.dts - self._last) * self._base
            restarted = ahead_s < -JITTER_S or (self._leaps and ahead_s > LEAP_S)
            if restarted:
                self._shift = self._end - (packet.dts if packet.pts is None else packet.pts)
                self._leaps = True  # so that a single wild time does not move all that follows
            self._last = packet.dts
            packet.dts += self._shift
        if packet.pts is not None:
            packet.pts += self._shift
        shown = packet.dts if packet.pts is None else packet.pts
        if shown is not None:
            self._end = max(self._end, shown + self._step)
        return restarted


Stamped = tuple[float | None, VideoFrame]
"""A frame and its time, where it has one."""
_AHEAD = 8
"""Frames that are looked at for later times."""


def of_their_own(frames: Iterable[Stamped], interval_s: float) -> Iterator[Stamped]:
    """The same frames, without times that are another's: where a container gives only some frames a time (program streams), the
    decoder hands some on to a frame that is shown earlier or later. `interval_s`: from one frame to the next."""
    waiting: deque[Stamped] = deque()
    last: float | None = None
    for each in chain(frames, [None] * _AHEAD):
        if each is not None:
            waiting.append(each)
        if waiting and (each is None or len(waiting) > _AHEAD):
            stamp, frame = waiting.popleft()
            if stamp is not None and _is_anothers(stamp, [other for other, _ in waiting], last, interval_s):
                stamp = None
            last = stamp if stamp is not None else None if last is None else last + interval_s
            yield stamp, frame


def _is_anothers(stamp: float, later: list[float | None], last: float | None, interval_s: float) -> bool:
    """Whether a frame's time is that of one of the `later` frames or of one before it, `last` being when the last was shown."""
    if last is not None and stamp <= last:  # an earlier one's, if the frames up to the next that is later find room
        ahead = next(((n, s) for n, s in enumerate(later, 2) if s is not None and s > last), None)
        room = ahead is None or ahead[1] - last > 0.75 * ahead[0] * interval_s
        return room and last - stamp < _AHEAD * interval_s
    known = [other for other in later if other is not None]
    if len(known) > 1 and max(known[:2]) < stamp:
        return True
    return stamp in known and last is not None and abs(stamp - last - interval_s) > interval_s / 2


class DisplayOrder:
    """Times of frames as they leave the decoder, where packets have only times in the order of decoding.

    Frames leave in the order in which they are shown, so each takes the least time of the packets that went in.
    """

    def __init__(self) -> None:
        self._waiting: list[int] = []

    def __len__(self) -> int:
        """Packets whose frames are still to come."""
        return len(self._waiting)

    def feed(self, packet: Packet) -> None:
        packet.pts = packet.pts if packet.dts is None else packet.dts
        if packet.pts is not None:
            heapq.heappush(self._waiting, packet.pts)

    def take(self, frame: VideoFrame) -> int | None:
        """Where packets were lost, it is right again from the next keyframe on: what is shown later came in later."""
        while frame.key_frame and frame.pts is not None and self._waiting and self._waiting[0] < frame.pts:
            heapq.heappop(self._waiting)
        return heapq.heappop(self._waiting) if self._waiting else frame.pts
