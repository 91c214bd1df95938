"""Where videos are: odd names, links, tars, lists; and beside what in their container."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.builders.datasets import webdataset
from tests.builders.odd.case import COUNT, RATE, Case, kind, pick, plain, scene, steady, write
from tests.builders.videos import audio_only, without_frames

NAMES = (
    *(
        "a b",
        "a\nb",
        "tab\tb",
        "-i",
        "--help",
        "~",
        "#1?x=1&y",
        "100%",
        "%03d",
        "[a]*?",
        "'quote\"",
        "a;b|c",
        "$(x)",
        "`x`",
    ),
    *(
        "\u65e5\u672c\u8a9e",
        "cafe\u0301",
        "\U0001f600",
        "\u202egnp",
        "a:b",
        "http:",
        "file:x",
        "concat:a|b",
        "x" * 200,
        "a.b.c",
        "CON",
    ),
    *(
        "\\",
        "..a",
        "a.",
        " ",
        "pipe:0",
        "\x7f",
        "nul\x01",
        "e=mc^2",
        "@list",
        "a,b",
        "{1..3}",
        "\udcff\udcfe",
        "caf\udce9",
    ),
)


@kind
def odd_name(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """Also of the folder, and in capitals."""
    path, case = plain(folder, stem, rng, suffix=pick(rng, (".mp4", ".mkv", ".avi")), codec="mpeg4")
    name, below = pick(rng, NAMES), bool(rng.integers(2))
    target = folder / f"{stem}{name}" / path.name if below else folder / f"{stem}{name}{path.suffix.upper()}"
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    relative = str(target.relative_to(folder)).encode("utf-8", "backslashreplace").decode()
    return [case.with_(source=relative)]


@kind
def hidden(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """In a hidden folder it is counted; what macOS leaves is no video."""
    if rng.integers(2):
        (folder / f".{stem}").mkdir()
        (folder / f".{stem}" / "a.mp4").write_bytes(b"x")
        return [Case(f".{stem}", left_out="(hidden folder)")]
    (folder / f"._{stem}.mp4").write_bytes(b"\0\5\x16\7")
    return [Case(f"._{stem}.mp4", left_out=".mp4")]


@kind
def linked(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """By a link to the file or to its folder, that lies elsewhere."""
    (folder / ".linked").mkdir(exist_ok=True)
    place = folder / ".linked" / stem
    place.mkdir()
    path, case = plain(place, "v", rng, codec="mpeg4")
    if rng.integers(2):
        os.symlink(place, folder / stem)
        return [case.with_(source=f"{stem}/v.mp4")]
    os.symlink(path, folder / f"{stem}.mp4")
    return [case.with_(source=f"{stem}.mp4")]


@kind
def linked_nowhere(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    os.symlink(pick(rng, ("gone.mp4", f"{stem}.mp4")), folder / f"{stem}.mp4")
    return [Case(f"{stem}.mp4", reasons=frozenset({"missing_file", "unreachable"}))]


@kind
def in_a_tar(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    made = [plain(folder, f"{stem}-{index}", rng, codec="mpeg4") for index in range(2)]
    names = pick(
        rng,
        (("vol. 1.mp4", "vol. 2.mp4"), ("c_0.5-1.mp4", "c_0.5-2.mp4"), ("a.left.mp4", "a.right.mp4"), ("a", "b.LRV")),
    )
    members = {}
    for name, (path, _) in zip(names, made, strict=True):
        members[name] = path.read_bytes()
        members[f"{os.path.splitext(name)[0] if name.endswith(('.mp4', '.LRV')) else name}.txt"] = name.encode()
        path.unlink()
    webdataset(folder / f"{stem}.tar", members)
    return [
        case.with_(source=f"{stem}.tar/{name.removesuffix('.mp4').removesuffix('.LRV')}", text=name)
        for name, (_, case) in zip(names, made, strict=True)
    ]


@kind
def listed(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """Two stretches of one video, that meet between two frames, or on one."""
    (folder / ".listed").mkdir(exist_ok=True)
    suffix = pick(rng, (".mp4", ".mkv", ".avi", ".ts", ".mpg"))
    images, count = scene(rng), 90
    path = folder / ".listed" / f"{stem}{suffix}"
    codec = "mpeg2video" if suffix == ".mpg" else "mpeg4"
    write(path, [images(number) for number in range(count)], codec=codec)
    middle = float(pick(rng, (1.8, 1.82, 1.4, 2.01)))
    lines = [{"start": 0, "end": middle, "text": "one"}, {"start": middle, "text": "two"}]
    records = [json.dumps({"path": f".listed/{path.name}", **line}) for line in lines]
    (folder / f"{stem}.jsonl").write_text("\n".join(records))
    return [Case(f".listed/{path.name}", images, steady(count))]


@kind
def beside_others(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """A small stream or a still first, the video second; the one that is marked as default, or else the larger, is shown."""
    images, path = scene(rng), folder / f"{stem}.{pick(rng, ('mkv', 'mp4', 'mov'))}"
    still, small_marked = bool(rng.integers(2)), bool(rng.integers(3) == 0)
    other = scene(rng, 352, 288) if still else scene(rng, 64, 64)
    with av.open(str(path), "w") as container:
        first = container.add_stream("mjpeg" if still else "mpeg4", rate=RATE)
        first.width, first.height, first.pix_fmt = (352, 288, "yuvj420p") if still else (64, 64, "yuv420p")
        second = container.add_stream("mpeg4", rate=RATE)
        second.width, second.height, second.pix_fmt = 176, 144, "yuv420p"
        for stream in (first, second):
            stream.bit_rate = 2_000_000
        default = av.stream.Disposition.default
        first.disposition, second.disposition = (default, 0) if small_marked else (0, default)
        for number in range(COUNT):
            for stream, image in ((first, other), (second, images)):
                if stream is first and still and number:
                    continue
                frame = av.VideoFrame.from_ndarray(image(number), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                container.mux(stream.encode(frame))
        container.mux(first.encode(None))
        container.mux(second.encode(None))
    return [Case(path.name, other if small_marked and not still else images, steady())]


@kind
def without_pictures(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    path = folder / f"{stem}.{pick(rng, ('mp4', 'mkv', 'mov'))}"
    if rng.integers(2):
        audio_only(path)
        return [Case(path.name, reasons=frozenset({"no_video_stream"}))]
    without_frames(path)
    return [Case(path.name, reasons=frozenset({"no_frames", "unreadable"}))]
