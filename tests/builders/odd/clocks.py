"""Times: uneven, late, restarting, in the order of decoding, or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.builders.odd.case import COUNT, RATE, Case, kind, pick, scene, steady, write
from tests.builders.odd.damage import BROKEN
from tests.builders.videos import write_video

REORDERED = {"x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0"}


@kind
def b_frames(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    suffix = pick(rng, ("avi", "asf", "h264", "mp4", "mkv", "ts", "flv", "mov", "mpg", "mxf", "wmv", "nut"))
    images = scene(rng)
    options = {**REORDERED, **pick(rng, ({}, {"x264-params": REORDERED["x264-params"] + ":open-gop=1"}))}
    path = write(
        folder / f"{stem}.{suffix}", [images(n) for n in range(COUNT)], options=options, gop=int(rng.integers(5, 40))
    )
    return [Case(path.name, images, steady())]


@kind
def reordered_codecs(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    codec, suffixes = pick(
        rng, (("mpeg4", "avi mp4 mkv m4v"), ("mpeg2video", "mpg ts m2v avi mxf"), ("libx265", "mp4 mkv hevc ts avi"))
    )
    images = scene(rng)
    path = folder / f"{stem}.{pick(rng, suffixes.split())}"
    options = {} if codec == "libx265" else {"bf": "2"}
    write(path, [images(number) for number in range(COUNT)], codec=codec, options=options)
    return [Case(path.name, images, steady())]


@kind
def uneven(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    suffix, codec = pick(
        rng, ((".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx"), (".mov", "mpeg4"), (".ts", "libx264"))
    )
    steps = rng.choice([0.01, 0.02, 0.04, 0.1, 0.25], COUNT)
    times = np.round(np.cumsum(steps) - steps[0], 3).tolist()
    images = scene(rng)
    path = write_video(
        folder / f"{stem}{suffix}", [images(n) for n in range(COUNT)], codec=codec, times=times, bit_rate=2_000_000
    )
    return [Case(path.name, images, list(zip(times, range(COUNT), strict=True)))]


@kind
def late(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """The container's clock begins late; the player's does not."""
    suffix, codec = pick(
        rng, ((".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx"), (".ts", "libx264"), (".flv", "flv"))
    )
    images = scene(rng)
    start_s = float(pick(rng, (0.4, 4.13, 100.0, 3600.0, 90000.0)))
    path = write_video(
        folder / f"{stem}{suffix}",
        [images(n) for n in range(COUNT)],
        codec=codec,
        fps=RATE,
        start_s=start_s,
        bit_rate=2_000_000,
    )
    return [Case(path.name, images, steady())]


@kind
def behind_its_sound(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """Times are those of a player, which begins with the sound."""
    images = scene(rng)
    start_s = float(pick(rng, (0.0, 0.4, 5.0)))
    path = write_video(
        folder / f"{stem}.{pick(rng, ('mp4', 'mkv', 'mov'))}",
        [images(number) for number in range(COUNT)],
        fps=RATE,
        start_s=start_s,
        audio=True,
    )
    return [Case(path.name, images, steady(start_s=start_s), tie_s=0.025)]


@kind
def restarting(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """Two recordings in one file, the second with another scene's numbers."""
    suffix = pick(rng, (".ts", ".mpg", ".h264", ".hevc", ".m2ts", ".m2v", ".avi", ".gif", ".webm"))
    codec = {
        ".gif": "gif",
        ".webm": "libvpx",
        ".mpg": "mpeg2video",
        ".m2v": "mpeg2video",
        ".hevc": "libx265",
        ".avi": "mpeg4",
    }.get(suffix, "libx264")
    images = scene(rng)
    numbers = [list(range(COUNT)), list(range(COUNT, 2 * COUNT))]
    parts = []
    for index, part in enumerate(numbers):
        path = write(folder / f"{stem}-{index}{suffix}", [images(number) for number in part], codec=codec)
        parts.append(path.read_bytes())
        path.unlink()
    (folder / f"{stem}{suffix}").write_bytes(b"".join(parts))
    return [Case(f"{stem}{suffix}", images, steady(2 * COUNT), tolerance=14.0 if codec == "gif" else 6.0)]


@kind
def of_few_frames(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    suffix, codec = pick(
        rng, ((".mp4", "libx264"), (".mkv", "ffv1"), (".gif", "gif"), (".avi", "mpeg4"), (".webm", "libvpx"))
    )
    images = scene(rng)
    path = write(folder / f"{stem}{suffix}", [images(n) for n in range(int(rng.integers(1, 4)))], codec=codec)
    return [Case(path.name, reasons=frozenset({"too_short"}))]


@kind
def with_a_gap(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """Nothing is shown anew for a long time, then it goes on."""
    suffix, codec = pick(rng, ((".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx")))
    gap_s = float(pick(rng, (3.0, 8.0, 40.0, 600.0)))
    times = [number / RATE + (gap_s if number >= COUNT // 2 else 0.0) for number in range(COUNT)]
    images = scene(rng)
    path = write_video(
        folder / f"{stem}{suffix}", [images(n) for n in range(COUNT)], codec=codec, times=times, bit_rate=2_000_000
    )
    return [Case(path.name, images, list(zip(times, range(COUNT), strict=True)), reasons=BROKEN)]


@kind
def edited(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """An edit list that begins within a group of pictures: the frames before are not shown."""
    images = scene(rng)
    path = folder / f"{stem}.mp4"
    skipped = int(rng.integers(1, 10))
    frames = [images(number) for number in range(COUNT)]
    write_video(path, frames, fps=RATE, start_s=-skipped / RATE, options={"x264-params": "bframes=0"})
    return [Case(path.name, images, [(number / RATE - skipped / RATE, number) for number in range(skipped, COUNT)])]
