"""What happens to files: cut off, overwritten, joined, misnamed, or never a video."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.builders.odd.case import Case, kind, pick, plain

BASES = (
    *((".mp4", "libx264"), (".mkv", "libx265"), (".webm", "libvpx-vp9"), (".avi", "mpeg4"), (".ts", "libx264")),
    *((".flv", "flv"), (".mpg", "mpeg2video"), (".gif", "gif"), (".mov", "mjpeg"), (".mp4", "libsvtav1")),
    *((".wmv", "wmv2"), (".avi", "huffyuv"), (".mkv", "ffv1"), (".h264", "libx264"), (".nut", "ffv1")),
    *((".y4m", "rawvideo"), (".ivf", "libvpx"), (".mxf", "mpeg2video"), (".3gp", "h263"), (".hevc", "libx265")),
)
CLOCKLESS = (".h264", ".hevc", ".y4m", ".avi", ".gif", ".mxf", ".mjpeg")
"""Formats whose frames are counted, or have lengths instead of times."""
ENDLESS = (".mpg",)
"""Formats in which nothing tells that a video that ends behind a picture was longer."""
TRANSPORT_BYTES = 188
_BROKEN = """unreadable no_frames no_video_stream decode_error truncated too_short static blurred too_dark too_small empty_file
    frozen near_duplicate"""
BROKEN = frozenset(_BROKEN.split())


def base(folder: Path, stem: str, rng: np.random.Generator, **how) -> tuple[Path, Case]:
    suffix, codec = pick(rng, BASES)
    path, case = plain(folder, stem, rng, suffix=suffix, codec=codec, **how)
    tolerance = 14.0 if codec == "gif" else 6.0
    return path, case.with_(reasons=BROKEN, damaged=True, clockless=suffix in CLOCKLESS, tolerance=tolerance)


@kind
def cut_off(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    path, case = base(folder, stem, rng)
    data = path.read_bytes()
    kept = int(rng.uniform(0.02, 0.99) * len(data))
    path.write_bytes(data[:kept])
    between = path.suffix == ".ts" and kept % TRANSPORT_BYTES == 0
    return [case.with_(endless=path.suffix in ENDLESS or between, clockless=False)]


@kind
def bits_flipped(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    path, case = base(folder, stem, rng)
    data = bytearray(path.read_bytes())
    for place in rng.integers(0, len(data), int(pick(rng, (1, 3, 10, 100)))):
        data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return [case.with_(unnoticed=True)]


@kind
def zeroed(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    path, case = base(folder, stem, rng)
    data = bytearray(path.read_bytes())
    place, span = int(rng.integers(len(data))), int(rng.uniform(0.001, 0.3) * len(data))
    data[place : place + span] = bytes(len(data[place : place + span]))
    path.write_bytes(data)
    return [case.with_(unnoticed=True)]


@kind
def cut_out(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    path, case = base(folder, stem, rng)
    data = bytearray(path.read_bytes())
    place = int(rng.integers(len(data)))
    del data[place : place + int(rng.uniform(0.001, 0.3) * len(data))]
    path.write_bytes(data)
    return [case.with_(unnoticed=True)]


@kind
def put_in(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    path, case = base(folder, stem, rng)
    data = bytearray(path.read_bytes())
    place = int(rng.integers(len(data)))
    data[place:place] = rng.bytes(int(rng.uniform(0.001, 0.2) * len(data)))
    path.write_bytes(data)
    return [case.with_(unnoticed=True)]


@kind
def beheaded(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    path, case = base(folder, stem, rng)
    data = path.read_bytes()
    path.write_bytes(data[int(rng.uniform(0, 0.5) * len(data)) :])
    return [case.with_(floating=True, unnoticed=True)]


@kind
def rubbish_behind(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    path, case = base(folder, stem, rng)
    path.write_bytes(path.read_bytes() + rng.bytes(int(rng.integers(1, 5000))))
    return [case.with_(clockless=False)]


@kind
def twice_behind_itself(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """Of containers whose header says where everything is; the others are a clock that restarts."""
    suffix, codec = pick(rng, ((".mp4", "libx264"), (".mov", "mjpeg")))
    path, case = plain(folder, stem, rng, suffix=suffix, codec=codec)
    path.write_bytes(2 * path.read_bytes())
    return [case.with_(reasons=BROKEN, damaged=True)]


@kind
def other_suffix(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """Known by its content; also without any suffix."""
    suffix, codec = pick(rng, [each for each in BASES if each[0] not in (".h264", ".hevc", ".mxf")])
    path, case = plain(folder, stem, rng, suffix=suffix, codec=codec)
    path = path.rename(
        path.with_suffix(pick(rng, (".avi", ".mp4", ".mkv", ".webm", ".GIF", ".Mov", ".dat", "", ".mpg")))
    )
    case = case.with_(source=path.name, tolerance=14.0 if codec == "gif" else 6.0)
    known = (
        ".ts",
        ".flv",
        ".gif",
        ".mp4",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".wmv",
        ".3gp",
        ".nut",
        ".y4m",
        ".ivf",
        ".mpg",
    )
    assert suffix in known
    return [case]


@kind
def no_video_at_all(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """Named as one."""
    image = cv2.imencode(".png", rng.integers(0, 255, (96, 96, 3), np.uint8))[1].tobytes()
    content = pick(
        rng,
        (
            b"",
            b"this is text\n" * int(rng.integers(1, 400)),
            b"<html><body>404 not found</body></html>",
            b'{"error": "quota exceeded"}',
            b"PK\x03\x04" + rng.bytes(500),
            rng.bytes(int(rng.integers(1, 50_000))),
            bytes(int(rng.integers(1, 50_000))),
            image,
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
            b"ffconcat version 1.0\nfile /etc/hostname\n",
        ),
    )
    suffix = pick(
        rng, (".mp4", ".mkv", ".avi", ".webm", ".mov", ".gif", ".mpg", ".h264", ".hevc", ".ts", ".y4m", ".flv")
    )
    (folder / f"{stem}{suffix}").write_bytes(content)
    if suffix == ".ts" and content[:1] != b"G":
        return [Case(f"{stem}{suffix}", left_out=suffix)]
    return [Case(f"{stem}{suffix}", reasons=BROKEN, damaged=True)]
