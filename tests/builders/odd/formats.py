"""Each container with each codec, and each pixel format."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import av
import cv2
import numpy as np

from tests.builders.odd.case import COUNT, HEIGHT, RATE, WIDTH, Case, Unwritable, kind, pick, scene, steady, write
from tests.builders.videos import number_of

_CONTAINERS = """3g2 3gp amv apng asf asf:wmv avi dirac:drc dnxhd dv dvd:vob f4v filmstrip:flm flv gif gxf h261 h263 h264 hevc
    ismv ivf m4v matroska:mkv mjpeg mov mp4 mpeg:mpg mpeg1video:m1v mpeg2video:m2v mpegts:ts mpegts:m2ts mpegts:mts mxf nut
    obu ogg ogv psp:mp4 rm smjpeg:mjpg svcd:vob swf vc1 vob webm webp wtv yuv4mpegpipe:y4m"""
"""Name of the format, and the suffix where that is another."""
_CODECS = """a64multi amv apng asv1 asv2 avrp bmp cfhd cinepak cljr dnxhd dpx dvvideo dxv exr ffv1 ffvhuff flashsv flashsv2 flv
    gif h261 h263 h263p huffyuv jpeg2000 jpegls libsvtav1 libvpx libvpx-vp9 libwebp_anim libx264 libx264rgb libx265 ljpeg
    magicyuv mjpeg mpeg1video mpeg2video mpeg4 msmpeg4 msmpeg4v2 msrle msvideo1 pam pcx png ppm prores prores_ks qoi qtrle
    r10k r210 rawvideo rpza rv10 rv20 sgi smc snow speedhq sunrast svq1 targa tiff utvideo v210 v308 v408 v410 vc2 wmv1 wmv2
    xwd y41p yuv4 zlib zmbv"""
COARSE = {
    "gif": 14,
    "libwebp_anim": 10,
    "cljr": 14,
    "msvideo1": 16,
    "rpza": 14,
    "roqvideo": 16,
    "cinepak": 14,
    "smc": 40,
}
COARSE |= {"msrle": 40, "apng": 8, "asv1": 10, "asv2": 10, "svq1": 12, "y41p": 8, "dxv": 14, "exr": 20, "snow": 8}
"""Codecs with few colours."""
STILLS = ("webp", "flm")
"""Suffixes of which few are videos: in a folder they are counted."""


@functools.cache
def pairs() -> list[tuple[str, str, str]]:
    """(format, suffix, codec) of all that might be written."""
    found = []
    for text in _CONTAINERS.split():
        container, _, suffix = text.partition(":")
        found += [(container, suffix or container, codec) for codec in _CODECS.split() if codec in av.codecs_available]
    return found


def container_and_codec(
    folder: Path, stem: str, rng: np.random.Generator, container: str, suffix: str, codec: str
) -> Case:
    """Unwritable where they do not go together."""
    width, height = (720, 576) if codec == "dvvideo" or container == "dv" else (WIDTH, HEIGHT)
    images = scene(rng, width, height)
    path = folder / f"{stem}.{suffix}"
    write(path, (images(number) for number in range(COUNT)), codec=codec, container=container)
    check_readable(path)
    if suffix in STILLS:
        return Case(path.name, left_out=f".{suffix}")
    case = Case(path.name, images, steady(), tolerance=COARSE.get(codec, 6.0))
    # Where streams say nothing of times, or not of every frame's, FFmpeg guesses them.
    if container in ("mpeg", "dvd", "svcd", "vob") and codec not in ("mpeg1video", "mpeg2video"):
        return case.with_(damaged=True, tie_s=0.081)
    if container in ("h261", "h263", "dirac"):
        return case.with_(damaged=True, clockless=True, reasons=frozenset({"too_short"}))
    return case


def check_readable(path: Path) -> None:
    """Unwritable where this FFmpeg cannot read all the frames of what it wrote."""
    numbers: list[int] = []
    with contextlib.suppress(av.error.FFmpegError, IndexError, ValueError), av.open(str(path)) as container:
        numbers += [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    if numbers != list(range(COUNT)):
        path.unlink(missing_ok=True)
        raise Unwritable(f"{path.suffix}: {len(numbers)} frames can be read")


PIXELS = {
    "libx264": "yuv420p yuvj420p yuv422p yuvj422p yuv444p yuvj444p nv12 nv16 nv21 yuv420p10le yuv422p10le gray",
    "libx265": "yuv420p yuv422p yuv444p gbrp yuv420p10le yuv444p10le yuv420p12le gray gray10le",
    "ffv1": "yuv420p yuva420p yuv444p yuv411p yuv410p yuv440p yuv420p9le yuv444p16le gbrp gbrp14le bgr0 gray gray16le",
    "rawvideo": "rgb24 bgr24 rgba argb uyvy422 yuyv422 rgb565le rgb48le yuv420p nv12 gray gray16le yuv444p pal8 gbrp",
    "libvpx-vp9": "yuv420p yuva420p yuv422p yuv440p yuv444p gbrp yuv420p10le",
    "png": "rgb24 rgba rgb48be gray gray16be ya8 pal8 monob",
    "prores_ks": "yuv422p10le yuv444p10le yuva444p10le",
    "utvideo": "gbrp gbrap yuv422p yuv420p yuv444p",
    "mjpeg": "yuvj420p yuvj422p yuvj444p yuv420p",
    "jpeg2000": "rgb24 yuv420p yuv444p gray gbrp",
}


@kind
def pixel_format(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    codec = pick(rng, list(PIXELS))
    pixel = pick(rng, PIXELS[codec].split())
    coloured = scene(rng)
    grey = pixel.startswith(("gray", "ya8"))

    def images(number: int) -> np.ndarray:
        image = coloured(number)
        return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) if grey else image

    path = folder / f"{stem}.{pick(rng, ('mkv', 'mkv', 'mov', 'nut'))}"
    write(path, [images(number) for number in range(COUNT)], codec=codec, pixel=pixel)
    check_readable(path)
    coarse = {"pal8": 40.0, "monob": 80.0, "rgb565le": 8.0}.get(pixel, 6.0)
    return [Case(path.name, images, steady(), tolerance=coarse, reasons=frozenset())]


@kind
def odd_rate(folder: Path, stem: str, rng: np.random.Generator) -> list[Case]:
    """Constant, but not 25."""
    rate = int(pick(rng, (4, 7, 10, 12, 24, 48, 50, 60, 120, 240)))
    suffix, codec = pick(
        rng, (("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4"), ("mov", "mjpeg"), ("ts", "libx264"))
    )
    count = min(240, max(12, rate * 2))
    images = scene(rng)
    path = write(folder / f"{stem}.{suffix}", [images(number) for number in range(count)], codec=codec, rate=rate)
    return [Case(path.name, images, steady(count, rate))]


assert RATE == 25  # that of raw streams, which have no times
