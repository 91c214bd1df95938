"""What a made video shows, known from how it was made, and the table of kinds."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.builders.videos import numbered_frame, tame

WIDTH, HEIGHT, COUNT, RATE = 176, 144, 45, 25
"""A size and a rate that old codecs take too."""

Images = Callable[[int], np.ndarray]
"""Number of a frame -> what a player shows of it, uint8 [H, W, 3]."""


class Unwritable(Exception):
    """This FFmpeg cannot write it; there is no such case."""


@dataclass(frozen=True)
class Case:
    """One video, and what is to come of it."""

    source: str
    """Its name in the manifest: the path below the folder."""
    images: Images = field(repr=False, default=lambda number: np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    seen: Sequence[tuple[float, int]] = ()
    """(time in seconds, number) of every frame that a player shows."""
    reasons: frozenset[str] = frozenset()
    """For which it may be dropped, whole or in part; without any, every frame is to be kept."""
    left_out: str = ""
    """It is no video: the suffix under which it is to be counted."""
    damaged: bool = False
    """Frames may be missing, where a row says so."""
    unnoticed: bool = False
    """The format cannot tell that bits were changed: pictures may be wrong, times not."""
    clockless: bool = False
    """The format has no times: after a loss those of later frames move forward."""
    endless: bool = False
    """The format cannot tell that the end is missing."""
    floating: bool = False
    """The beginning is lost, and with it where the times begin."""
    tolerance: float = 6.0
    """Mean absolute difference (0-255) of the small image."""
    tie_s: float = 0.002
    """To which times are exact in this format."""
    words: str = ""
    """What the manifest is to say of how it is shown."""
    text: str = ""

    def with_(self, **changes: object) -> Case:
        return replace(self, **changes)  # type: ignore[arg-type]


Make = Callable[[Path, str, np.random.Generator], list[Case]]
"""(folder, stem of the names to use, choice) -> what was put there."""
KINDS: dict[str, Make] = {}


def kind(make: Make) -> Make:
    """Registers a kind under its module and name."""
    KINDS[f"{make.__module__.rpartition('.')[2]}.{make.__name__}"] = make
    return make


def pick(rng: np.random.Generator, choices: Sequence):
    return choices[int(rng.integers(len(choices)))]


def scene(rng: np.random.Generator, width: int = WIDTH, height: int = HEIGHT) -> Images:
    """Frames of a scene that no other case has."""
    seed = int(rng.integers(1 << 30))
    return lambda number: numbered_frame(number, seed=seed, width=width, height=height)


def steady(count: int = COUNT, rate: float = RATE, start_s: float = 0.0) -> list[tuple[float, int]]:
    return [(start_s + number / rate, number) for number in range(count)]


os.environ.setdefault("SVT_LOG", "1")  # errors alone
QUIET = {
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "libvpx": {"cpu-used": "8", "deadline": "realtime"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
    "libx265": {"x265-params": "log-level=none:pools=none:frame-threads=1", "preset": "ultrafast"},
    "libx264": {"preset": "veryfast"},
    "dnxhd": {"profile": "dnxhr_hq"},
}
_LIKED = ("yuv420p", "yuvj420p", "yuv422p", "rgb24", "bgr24", "gbrp", "rgb8")


def write(
    path: Path,
    images: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    container: str | None = None,
    pixel: str = "",
    rate: int = RATE,
    options: dict[str, str] | None = None,
    bit_rate: int = 2_000_000,
    gop: int = 12,
    header: dict[str, str] | None = None,
) -> Path:
    """One stream at a constant rate. Raises Unwritable. `pixel`: its format; empty: the first that is common."""
    frames = iter(images)  # none is made where the first cannot be written
    first = next(frames)
    try:
        known = [each.name for each in av.Codec(codec, "w").video_formats or ()]
        pixel = pixel or next((name for name in _LIKED if name in known), known[0] if known else "yuv420p")
        with av.open(str(path), "w", format=container, options=header or {}) as out:
            stream = out.add_stream(codec, rate=rate)
            stream.height, stream.width = first.shape[:2]
            stream.pix_fmt = pixel
            stream.bit_rate = bit_rate
            stream.codec_context.gop_size = gop
            stream.codec_context.thread_count = 1
            stream.options = {"strict": "experimental", **QUIET.get(codec, {}), **(options or {})}
            tame(stream)
            for number, image in enumerate(itertools.chain([first], frames)):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, rate)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    except (av.error.FFmpegError, ValueError, OSError) as error:
        path.unlink(missing_ok=True)
        raise Unwritable(f"{container or path.suffix} {codec} {pixel}: {error}") from error
    return path


def plain(
    folder: Path, stem: str, rng: np.random.Generator, *, suffix: str = ".mp4", codec: str = "libx264", **how
) -> tuple[Path, Case]:
    """A video without oddities, to begin with."""
    images = scene(rng)
    path = write(folder / f"{stem}{suffix}", [images(number) for number in range(COUNT)], codec=codec, **how)
    return path, Case(path.name, images, steady())
