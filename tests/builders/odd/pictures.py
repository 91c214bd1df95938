"""Pictures that a player shows otherwise than they are stored."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.builders.odd.case import COUNT, HEIGHT, WIDTH, Case, kind, pick, scene, steady, write
from tests.builders.videos import display_as, hdr_video

TURNS = {
    (0, 1, -1, 0): (lambda shown: np.rot90(shown, 1), "rotated"),
    (-1, 0, 0, -1): (lambda shown: np.rot90(shown, 2), "rotated"),
    (0, -1, 1, 0): (lambda shown: np.rot90(shown, 3), "rotated"),
    (-1, 0, 0, 1): (lambda shown: shown[:, ::-1], "mirrored"),
    (1, 0, 0, -1): (lambda shown: shown[::-1], "mirrored"),
    (0, 1, 1, 0): (lambda shown: shown.swapaxes(0, 1), "mirrored"),
    (0, -1, -1, 0): (lambda shown: shown[::-1, ::-1].swapaxes(0, 1), "mirrored"),
}
"""Display matrix -> (from what is shown to what is stored, its word)."""


@kind
def turned(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    matrix = pick(rng, list(TURNS))
    stored, word = TURNS[matrix]
    images = scene(rng, *pick(rng, ((WIDTH, HEIGHT), (HEIGHT, WIDTH), (320, 180))))
    path = folder / f"{stem}.{pick(rng, ('mp4', 'mov'))}"
    write(path, [stored(images(number)) for number in range(COUNT)], codec=pick(rng, ("libx264", "mpeg4", "mjpeg")))
    return [Case(display_as(path, matrix).name, images, steady(), words=word)]


@kind
def pixels_not_square(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    wide, high = pick(rng, ((64, 45), (4, 3), (8, 9), (2, 1), (1, 2), (10, 11)))
    images = scene(rng, round(WIDTH * wide / high), HEIGHT)
    frames = [cv2.resize(images(number), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for number in range(COUNT)]
    path = folder / f"{stem}.{pick(rng, ('mp4', 'mkv', 'ts', 'avi', 'h264'))}"
    write(path, frames, options={"x264-params": f"sar={wide}\\:{high}"})
    return [Case(path.name, images, steady(), words="of pixels")]


@kind
def interlaced(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """The field that comes second is half a step ahead."""
    images, topmost = scene(rng), bool(rng.integers(2))
    frames = []
    for number in range(COUNT):
        frame = images(number)
        later = np.roll(frame, 1, axis=1)
        later[: HEIGHT // 8] = frame[: HEIGHT // 8]
        frame[topmost::2] = later[topmost::2]
        frames.append(frame)
    path = folder / f"{stem}.{pick(rng, ('mp4', 'mkv', 'ts', 'mov'))}"
    write(path, frames, options={"x264-params": "tff=1" if topmost else "bff=1"})
    return [Case(path.name, images, steady(), tolerance=8.0, words="interlaced")]


@kind
def hdr(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    images = scene(rng)
    transfer, word = pick(rng, (("smpte2084", "HDR (PQ)"), ("arib-std-b67", "HDR (HLG)")))
    frames = [images(number) for number in range(30)]
    path = hdr_video(folder / f"{stem}.{pick(rng, ('mp4', 'mkv'))}", frames, transfer)
    return [Case(path.name, images, steady(30, 15), tolerance=16.0, words=word)]


@kind
def odd_sizes(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    width, height = pick(rng, ((65, 67), (101, 99), (640, 64), (64, 640), (171, 131), (1921, 65), (130, 98)))
    images = scene(rng, width, height)
    path = folder / f"{stem}.mkv"
    codec, pixel = pick(rng, (("libx264", "yuv444p"), ("ffv1", "yuv420p"), ("libvpx-vp9", "yuv420p"), ("png", "rgb24")))
    write(path, [images(number) for number in range(COUNT)], codec=codec, pixel=pixel)
    return [Case(path.name, images, steady(), tolerance=9.0)]


@kind
def too_small(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    images = scene(rng, *pick(rng, ((48, 48), (320, 32), (16, 16), (62, 62))))
    path = write(folder / f"{stem}.mkv", [images(number) for number in range(COUNT)], codec="ffv1")
    return [Case(path.name, reasons=frozenset({"too_small"}))]


@kind
def another_size_half_way(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """The same scene goes on at another resolution."""
    suffix, codec = pick(rng, ((".h264", "libx264"), (".ts", "libx264"), (".hevc", "libx265"), (".m2v", "mpeg2video")))
    images, half = scene(rng), COUNT // 2
    sizes = pick(rng, (((176, 144), (352, 288)), ((352, 288), (176, 144)), ((320, 240), (176, 144))))
    parts = []
    for numbers, size in ((range(half), sizes[0]), (range(half, COUNT), sizes[1])):
        frames = [cv2.resize(images(number), size, interpolation=cv2.INTER_AREA) for number in numbers]
        path = write(folder / f"{stem}-part{suffix}", frames, codec=codec)
        parts.append(path.read_bytes())
        path.unlink()
    path = folder / f"{stem}{suffix}"
    path.write_bytes(b"".join(parts))
    case = Case(path.name, images, steady(), tolerance=8.0)
    return [case.with_(damaged=suffix == ".m2v")]  # FFmpeg's decoder forgets the last frame of the first size


@kind
def tagged_colours(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """Full and limited range, BT.601 and BT.709, said in the stream."""
    images = scene(rng)
    full, matrix = bool(rng.integers(2)), pick(rng, ("bt709", "smpte170m"))
    frames = [images(number) for number in range(COUNT)]
    path = folder / f"{stem}.{pick(rng, ('mp4', 'mkv', 'ts'))}"
    write_tagged(path, frames, matrix, full)
    return [Case(path.name, images, steady())]


def write_tagged(path: Path, frames: list[np.ndarray], matrix: str, full: bool) -> None:
    import av

    red, blue = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114)}[matrix]
    weights = np.array([red, 1 - red - blue, blue])
    low, luma_span, chroma_span = (0, 255, 255) if full else (16, 219, 224)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        tags = f"colormatrix={matrix}:fullrange={'on' if full else 'off'}"
        stream.options = {"preset": "veryfast", "x264-params": tags}
        for image in frames:
            luma = image @ weights / 255
            half = (image.shape[1] // 2, image.shape[0] // 2)
            parts = [low + luma_span * luma]
            for channel, weight in ((2, blue), (0, red)):
                chroma = (image[..., channel] / 255 - luma) / (2 - 2 * weight)
                parts.append(128 + chroma_span * cv2.resize(chroma, half, interpolation=cv2.INTER_AREA))
            planes = np.concatenate([np.clip(np.round(part), 0, 255).ravel() for part in parts]).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(planes.reshape(-1, image.shape[1]), format="yuv420p")
            frame.color_range = 2 if full else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
