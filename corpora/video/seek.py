"""decord beside PyAV: used where it was checked to give the same frames at the same times.

Before the file is read, the number of frames and their times are compared with those PyAV finds in the packets. PyAV
then decodes a few frames (the first ones, those after some keyframes, the last), and while decord's frames stream by
they are compared with these. A difference, or a complaint of decord's own FFmpeg, sends the whole file to PyAV.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.store.remote import here
from corpora.video.decode import DecodingReport, FrameSampler, analysis_size, decoded_frames
from corpora.video.image import by_area
from corpora.video.probe import VideoFacts

CHECKED_CODECS = ("h264", "hevc", "vp8", "vp9", "mpeg4", "mjpeg")
"""Others go to PyAV unasked: decord 0.6 opens neither AV1 nor GIF."""
TIME_TOLERANCE_S = 0.002
MEAN_TOLERANCE = 2.0
"""Mean absolute difference (0-255) between the two decoders' RGB; another frame differs by more."""
SHORT_GROUP = 48
"""The last frame is compared only if it is at most this many frames from a keyframe."""


WHILE_DECODING = "decord fails on some of its frames, or differs from PyAV"


class Disagreement(Exception):
    """decord fails on this file or differs from PyAV; the message says how."""

    def __init__(self, message: str, note: str = "") -> None:
        super().__init__(message)
        self.note = note or message
        """For the manifest: decord decodes in a thread of its own; where it notices a fault differs from run to run."""


def unsuited(facts: VideoFacts, choice: str, start_s: float, end_s: float) -> str:
    """Why decord is not even tried; an empty string where it is. `choice`: "pyav" or "decord"."""
    if facts.showing.words:  # first: the manifest names it, whoever decodes
        return f"decord is not used for video that is {facts.showing.words}"
    if facts.stored is not None:
        return "decord is not used for times other than the file's"
    if choice == "pyav":
        return "PyAV was chosen"
    if facts.codec not in CHECKED_CODECS:
        return f"decord is not used for {facts.codec}"
    if facts.bits > 8:
        return f"decord is not used for {facts.bits} bits"
    if not facts.seekable or not facts.constant_rate:
        return "decord is not used for a variable frame rate"
    if facts.truncated:
        return "decord is not used for truncated files"
    if start_s > float(facts.times[0]) or end_s < facts.duration_s:
        return "decord is not used for part of a file"
    return ""


def read_with_decord(
    path: str | os.PathLike[str], facts: VideoFacts, *, side: int, sampler: FrameSampler
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """As `corpora.video.decode.read_frames` for a whole file. Raises Disagreement, possibly after some frames."""
    with _listening() as heard:
        reader, error_type = _open(path)
        _compare_times(reader, facts)
        expected = _reference(path, facts)
        size = analysis_size(facts, side)
        skipped = 0
        for index, t_s in enumerate(facts.times):
            time_s = float(t_s)
            wanted = sampler.wants(time_s)
            if not wanted and index not in expected:
                skipped += 1
                continue
            try:
                if skipped:
                    reader.skip_frames(skipped)
                image = reader.next().asnumpy()
            except (error_type, StopIteration) as error:
                raise Disagreement(f"decord stops at {time_s:.2f} s: {_line(error)}", WHILE_DECODING) from error
            skipped = 0
            if index in expected:
                _compare_images(image, expected.pop(index), time_s)
            if wanted:
                yield time_s, by_area(image, size)
        complaint = heard()
        if complaint:
            raise Disagreement(f"decord goes on after: {complaint}", WHILE_DECODING)


@contextlib.contextmanager
def _listening() -> Iterator[Callable[[], str]]:
    """Catches what native code writes to standard error meanwhile: decord patches damaged images up from their
    neighbours, and reports it on the terminal alone. Yields a function that returns the first line so far."""
    with tempfile.TemporaryFile() as caught:
        saved = os.dup(2)
        os.dup2(caught.fileno(), 2)

        def first_line() -> str:
            line = os.pread(caught.fileno(), 200, 0).decode(errors="replace").partition("\n")[0]
            return line.partition("]")[2].strip() or line

        try:
            yield first_line
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _open(path: str | os.PathLike[str]) -> tuple[Any, type[Exception]]:
    try:
        import decord
    except (ImportError, OSError) as error:  # its wheels do not exist for every machine
        raise Disagreement(f"decord cannot be imported: {_line(error)}") from error
    decord.logging.set_level(decord.logging.ERROR)
    try:
        return decord.VideoReader(os.fspath(here(path)), num_threads=1), decord.DECORDError
    except (decord.DECORDError, RuntimeError, UnicodeEncodeError) as error:  # names that are no UTF-8 it cannot take
        raise Disagreement(f"decord does not open it: {_line(error)}") from error


def _compare_times(reader: Any, facts: VideoFacts) -> None:
    if len(reader) != len(facts.times):
        raise Disagreement(f"decord counts {len(reader)} frames, PyAV {len(facts.times)}")
    stamps = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)[:, 0]
    difference = float(np.abs(stamps - stamps[0] - (facts.times - facts.times[0])).max())
    if not difference <= TIME_TOLERANCE_S:
        raise Disagreement(f"decord's times differ by up to {difference:.3f} s")


def _reference(path: str | os.PathLike[str], facts: VideoFacts) -> dict[int, NDArray[np.uint8]]:
    """Frame number -> RGB as PyAV decodes it: the first three, two after each of two inner keyframes, and the last."""
    inner = facts.keyframes[(facts.keyframes > 8) & (facts.keyframes < len(facts.times) - 3)]
    starts = [0, *(int(inner[len(inner) * part // 3]) for part in (1, 2) if len(inner) > 0)]
    last_key = int(facts.keyframes[-1]) if len(facts.keyframes) else 0
    spans = [(start, min(start + 3, len(facts.times))) for start in sorted(set(starts))]
    if len(facts.times) - last_key <= SHORT_GROUP:
        spans.append((len(facts.times) - 1, len(facts.times)))
    expected: dict[int, NDArray[np.uint8]] = {}
    for first, end in spans:
        end_s = float(facts.times[end]) - 1e-4 if end < len(facts.times) else math.inf
        for t_s, frame in decoded_frames(
            path, facts, report=DecodingReport(), start_s=float(facts.times[first]), end_s=end_s
        ):
            index = int(np.argmin(np.abs(facts.times - t_s)))
            if first <= index < end:
                expected[index] = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    if not expected:
        raise Disagreement("PyAV decodes no frame to compare with")
    return expected


def _compare_images(image: NDArray[np.uint8], expected: NDArray[np.uint8], t_s: float) -> None:
    if image.shape != expected.shape:
        raise Disagreement(f"decord's images are {image.shape}, PyAV's {expected.shape}", WHILE_DECODING)
    difference = float(cv2.absdiff(image, expected).mean())
    if difference > MEAN_TOLERANCE:
        message = f"decord's frame at {t_s:.2f} s differs from PyAV's by {difference:.1f} of 255"
        raise Disagreement(message, WHILE_DECODING)


def _line(error: BaseException) -> str:
    """What a message says, without the place in decord's source and the stack that may come with it."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text.rpartition('Check failed: ')[2]}"[:120]
