"""A stretch of a video file as a file of its own: as it is, cut between keyframes, or encoded anew where neither can be."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from corpora.store.remote import here
from corpora.video.decode import DecodingReport, decoded_frames
from corpora.video.encode import EpisodeVideo
from corpora.video.encoding import VideoEncoding
from corpora.video.probe import VideoFacts, probe
from corpora.video.shown import Converter

log = logging.getLogger(__name__)

_OFF_SHARE = 0.25
"""Of a frame's interval, by which a frame may miss its place in a constant rate."""


@dataclass(frozen=True)
class Cut:
    """How a stretch came to be a file."""

    how: str
    """copied, cut or encoded."""
    codec: str
    width: int
    height: int


def cut_video(
    path: Path, facts: VideoFacts, shown: slice, out: Path, fps: float, encoding: VideoEncoding, *, h264: bool = False
) -> Cut:
    """Writes the frames `shown` of `path` to `out`, the first at 0 s. `h264`: other codecs are encoded anew.

    Copied where they are all of the file and lie at `fps`; cut where the first is a keyframe before which nothing is needed;
    encoded anew (H.264) otherwise. Raises ValueError for a video that does not decode where it must be.
    """
    first, stop, _ = shown.indices(len(facts.times))
    steady = off_rate_s(facts, shown, fps) <= _OFF_SHARE / fps
    fits = steady and (facts.codec == "h264" or not h264)
    if fits and (first, stop) == (0, len(facts.times)) and facts.times[0] <= _OFF_SHARE / fps:
        shutil.copyfile(path, out)
        return Cut("copied", facts.codec, facts.width, facts.height)
    if fits and facts.seekable and first in facts.keyframes:
        _copy_packets(path, facts, first, stop, out)
        if _whole(out, stop - first):
            return Cut("cut", facts.codec, facts.width, facts.height)
        log.info("%s: frames %d to %d need others before them; they are encoded anew", path.name, first, stop)
    size = (facts.width, facts.height)
    with EpisodeVideo(out, round(fps), encoding) as video:
        for image in shown_frames(path, facts, slice(first, stop)):
            video.add(image)
            size = image.shape[1], image.shape[0]
    return Cut("encoded", "h264", *size)


def off_rate_s(facts: VideoFacts, shown: slice, fps: float) -> float:
    """How far a frame of the stretch lies from its place at `fps` frames a second, at most, seconds."""
    times = facts.times[shown]
    return float(np.abs(times - times[0] - np.arange(len(times)) / fps).max())


def shown_frames(path: Path, facts: VideoFacts, shown: slice) -> Iterator[NDArray[np.uint8]]:
    """uint8 [H, W, 3] RGB, one after the other. Raises ValueError where one does not decode."""
    first, stop, _ = shown.indices(len(facts.times))
    start_s = float(facts.times[first])
    end_s = float(facts.times[stop]) if stop < len(facts.times) else np.inf
    convert, report, count = Converter(facts.showing), DecodingReport(), 0
    for t_s, frame in decoded_frames(path, facts, report=report, start_s=start_s, end_s=end_s):
        if t_s >= start_s - 1e-6:
            count += 1
            yield convert(frame)
    if report.lost or count < stop - first:
        raise ValueError(f"{count} of {stop - first} frames decode ({report.first_error or 'truncated'})")


def _copy_packets(path: Path, facts: VideoFacts, first: int, stop: int, out: Path) -> None:
    """Packets whose presentation lies within the stretch, shifted to begin at 0."""
    with av.open(str(here(path))) as source, av.open(str(out), "w", format="mp4") as target:
        stream = source.streams[facts.stream]
        base = stream.time_base
        assert isinstance(stream, av.VideoStream) and base is not None
        copy = target.add_stream_from_template(stream)
        begin, end = ((facts.zero_s + float(t)) / float(base) for t in (facts.times[first], facts.times[stop - 1]))
        source.seek(int(begin), stream=stream)
        shift = None
        for packet in source.demux(stream):
            if packet.pts is None or packet.dts is None:
                continue
            if packet.dts > end + 1:
                break
            if begin - 1 <= packet.pts <= end + 1:
                shift = packet.pts if shift is None else shift
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                target.mux(packet)


def _whole(path: Path, frames: int) -> bool:
    """Whether it decodes, all by itself, to so many frames."""
    try:
        facts = probe(path)
        return len(facts.times) == frames and sum(1 for _ in shown_frames(path, facts, slice(0, frames))) == frames
    except (ValueError, OSError, FFmpegError):
        return False
