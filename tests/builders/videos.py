"""Small videos made on the fly, whose frames carry their own number."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

WIDTH, HEIGHT = 160, 96
BITS = 8
_WRITTEN: dict[bytes, bytes] = {}


def textured(width: int, height: int, seed: int) -> np.ndarray:
    """uint8 [height, width, 3] with detail everywhere, of moderate contrast, the same for the same seed."""
    return _texture(width, height, seed).copy()


@functools.lru_cache(maxsize=16)
def _texture(width: int, height: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 2.0)
    soft = (soft - soft.mean()) / soft.std()
    return np.clip(128 + 35 * soft, 0, 255).astype(np.uint8)


def numbered_frame(
    index: int, *, seed: int = 0, width: int = WIDTH, height: int = HEIGHT, still: bool = False
) -> np.ndarray:
    """A textured scene in which a bright block wanders; the top row of cells is the frame's number in binary."""
    image = textured(width, height, seed)
    if not still:
        side = height // 4
        rng = np.random.default_rng(1000 + seed)
        x = round((0.5 + 0.4 * np.sin(index / rng.uniform(6, 14) + rng.uniform(0, 6))) * (width - side))
        y = round((0.6 + 0.3 * np.cos(index / rng.uniform(6, 14) + rng.uniform(0, 6))) * (height - side))
        image[y : y + side, x : x + side] = (230, 200, 60)
    cell = width // BITS
    for bit in range(BITS):
        image[: height // 8, bit * cell : (bit + 1) * cell] = 235 if index >> bit & 1 else 20
    return image


def number_of(image: np.ndarray) -> int:
    """The number that `numbered_frame` wrote, after any resizing."""
    height, width = image.shape[:2]
    cell = width / BITS
    row = image[: max(1, height // 10)].mean(axis=(0, 2))
    return sum(int(row[int((bit + 0.3) * cell) : int((bit + 0.7) * cell)].mean() > 127) << bit for bit in range(BITS))


def tame(stream: VideoStream) -> None:
    """SVT-AV1, run as root, opens by making its threads and its caller's ones of real time, which starve all others."""
    if stream.codec_context.name == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        stream.codec_context.open()
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    fps: float = 15.0,
    times: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    audio: bool = False,
    start_s: float = 0.0,
    gop: int = 12,
    bit_rate: int = 0,
) -> Path:
    """Writes `frames` shown at `times` (seconds; default: at `fps`), shifted by `start_s`. The same video is encoded once."""
    made_of = (path.suffix, codec, pixel_format, fps, times, options, audio, start_s, gop, bit_rate, frames[0].shape)
    key = hashlib.blake2b(repr(made_of).encode() + b"".join(map(np.ascontiguousarray, frames))).digest()
    if key in _WRITTEN:
        path.write_bytes(_WRITTEN[key])
        return path
    rate = Fraction(fps).limit_denominator(1001)
    base = Fraction(1, 100) if codec == "gif" else Fraction(1, 12000)
    shown = [index / rate for index in range(len(frames))] if times is None else list(times)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        if path.suffix != ".avi":
            stream.codec_context.time_base = base
            stream.time_base = base
        else:
            base = 1 / rate
        stream.codec_context.gop_size = gop
        if bit_rate:
            stream.bit_rate = bit_rate
        quiet = {
            "libx265": {"x265-params": "log-level=none"},
            "libsvtav1": {"preset": "10"},
            "libvpx-vp9": {"cpu-used": "8"},
        }
        stream.options = {**quiet.get(codec, {}), **(options or {})}
        tame(stream)
        sound = container.add_stream("aac", rate=16000) if audio else None
        for image, second in zip(frames, shown, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = round((float(second) + start_s) / base)
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            samples = np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype(np.float32)
            noise = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            noise.sample_rate = 16000
            noise.pts = 0
            container.mux(sound.encode(noise))
            container.mux(sound.encode(None))
    _WRITTEN[key] = path.read_bytes()
    return path


def numbered_video(
    path: Path, count: int = 30, *, seed: int = 0, width: int = WIDTH, height: int = HEIGHT, **how
) -> Path:
    """`write_video` with `count` numbered frames."""
    return write_video(path, [numbered_frame(i, seed=seed, width=width, height=height) for i in range(count)], **how)


def audio_only(path: Path) -> Path:
    """An mp4 that holds a second of noise and no image."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        samples = np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def without_frames(path: Path) -> Path:
    """An mp4 with a video track that holds not a single frame."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=15)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        frame = av.VideoFrame.from_ndarray(numbered_frame(0), format="rgb24")
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = buffer.getvalue()
    path.write_bytes(data[: data.index(b"moof") - 4])  # the header alone
    return path


def turn_clockwise(path: Path, quarter_turns: int) -> Path:
    """Writes the display matrix that phones write, into an mp4 or mov."""
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns % 4]
    return display_as(path, (cosine, sine, -sine, cosine))


def display_as(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Writes the display matrix [a, b, c, d] into an mp4 or mov: (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (number << 16 for number in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
LUMA = np.array([0.2627, 0.6780, 0.0593])
WHITE_NITS = 203


def pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084."""
    power = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(nits: np.ndarray) -> np.ndarray:
    """ARIB STD-B67 of a screen of 1000 nits."""
    scene = nits / 1000 * np.maximum(nits @ LUMA / 1000, 1e-9)[..., None] ** (1 / 1.2 - 1)
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    )


def hdr_video(path: Path, images: list[np.ndarray], transfer: str) -> Path:
    """10-bit HEVC of BT.2020, `transfer` as x265 calls it, that shows what `images` (SDR) show."""
    curve = {"smpte2084": pq, "arib-std-b67": hlg}[transfer]
    tags = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:range=limited"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=15)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p10le", {"x265-params": tags}
        for image in images:
            rgb = curve((image / 255.0) ** 2.4 @ TO_BT2020.T * WHITE_NITS)
            luma = rgb @ LUMA
            blue, red = (rgb[..., 2] - luma) / 1.8814, (rgb[..., 0] - luma) / 1.4746
            half = (image.shape[1] // 2, image.shape[0] // 2)
            chroma = [512 + 896 * cv2.resize(part, half, interpolation=cv2.INTER_AREA) for part in (blue, red)]
            planes = np.concatenate([part.ravel() for part in (64 + 876 * luma, *chroma)])
            planar = np.round(planes).astype(np.uint16).reshape(-1, image.shape[1])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planar, format="yuv420p10le")))
        container.mux(stream.encode(None))
    return path
