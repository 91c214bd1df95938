"""From the decoder's frames to images as a player shows them: orientation, the shape of pixels, fields, transfer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error
import av.filter
import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from corpora.video.clock import Stamped

_HDR = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}
_BT2020 = 9
"""Of primaries and of matrices alike; what HDR has unless it says one of these."""
_PRIMARIES = (int(ColorPrimaries.BT709), int(ColorPrimaries.SMPTE431), int(ColorPrimaries.SMPTE432))
_MATRICES = (0, 1)
"""RGB and BT.709."""
_INTERLACED = (2, 3, 4, 5)
"""libavcodec's field orders but for unknown and progressive."""
_HALVED = ("yuv420p", "yuvj420p")
"""Formats that are scaled as they are and then made RGB: twice as fast as both at once, and nearer to the mean of the area (by
0.8 of 255 on average instead of 1.3, of a worn camera's 720 x 480)."""
_SCALED = "yuv422p"
"""What they are scaled to: as much colour as swscale itself keeps on the way to RGB."""
MAX_PIXEL_ASPECT = 8.0
"""A pixel that is said to be wider or higher is a damaged header."""


@dataclass(frozen=True)
class Showing:
    """What a player does to stored images before it shows them."""

    transposed: bool = False
    """Rows become columns, before mirroring."""
    mirrored_x: bool = False
    mirrored_y: bool = False
    pixel_aspect: float = 1.0
    """Width of a stored pixel by its height."""
    interlaced: bool = False
    """Two moments in one image: made one by `deinterlaced`."""
    transfer: str = ""
    """"PQ" or "HLG": more light than a common screen has, tone-mapped. Empty: any other."""

    @property
    def turned(self) -> bool:
        return self.transposed or self.mirrored_x or self.mirrored_y

    @property
    def words(self) -> str:
        """For the manifest; empty where images are shown as they are stored."""
        mirrored = self.turned and self.transposed == (self.mirrored_x == self.mirrored_y)
        said = {
            "mirrored": mirrored,
            "rotated": self.turned and not mirrored,
            f"of pixels {self.pixel_aspect:.4g}:1": self.pixel_aspect != 1,
            "interlaced": self.interlaced,
            f"HDR ({self.transfer})": bool(self.transfer),
        }
        return ", ".join(word for word, holds in said.items() if holds)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) at which an image of `width` x `height` stored pixels is shown."""
        wide = max(1, round(width * self.pixel_aspect))
        return (height, wide) if self.transposed else (wide, height)

    def upright(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`rgb`, [H, W, 3] as stored, turned and mirrored as shown."""
        if not self.turned:
            return rgb
        image = rgb.swapaxes(0, 1) if self.transposed else rgb
        return np.ascontiguousarray(image[:: -1 if self.mirrored_y else 1, :: -1 if self.mirrored_x else 1])


def showing_of(stream: VideoStream, first: VideoFrame | None) -> Showing:
    """From the header and the first frame; what only frames tell is unknown where none decodes."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        aspect = 1.0
    transfer = _HDR.get(int(stream.codec_context.color_trc if first is None else first.color_trc), "")
    interlaced = stream.codec_context.field_order in _INTERLACED or (first is not None and first.interlaced_frame)
    a, b, c, d = (1, 0, 0, 1) if first is None else _display_matrix(first)
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    along_x, along_y = (c, b) if transposed else (a, d)
    return Showing(transposed, along_x < 0, along_y < 0, aspect, interlaced, transfer)


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """a, b, c, d: a stored point (x, y) is shown at (a x + c y, b x + d y)."""
    try:
        side: Any = frame.side_data  # PyAV's type hints do not know what it holds
    except ValueError:  # a kind that PyAV does not know, say EXIF, hides the others; quarter turns it gives apart
        turns = {-90: (0, 1, -1, 0), 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), -180: (-1, 0, 0, -1)}
        return turns.get(frame.rotation, (1, 0, 0, 1))
    if Type.DISPLAYMATRIX not in side:
        return 1, 0, 0, 1
    a, b, _, c, d = (int(number) for number in np.frombuffer(bytes(side[Type.DISPLAYMATRIX]), np.int32)[:5])
    return a, b, c, d  # 32-bit numbers: a b u c d v x y w


class Converter:
    """Frames of one video to RGB. Not to be shared by threads; it keeps the tables of the last conversion. By one thread: swscale
    takes one for each core unless it is told otherwise, and frames this small are not worth that."""

    def __init__(self, showing: Showing) -> None:
        self._showing = showing
        self._scaler, self._reformatter = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: VideoFrame, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] as shown; `size`: (width, height) to scale to by area before it is turned; None: as stored."""
        width, height = size or (frame.width, frame.height)
        to: dict[str, int] = {}
        if frame.color_trc in _HDR:
            frame.color_primaries = frame.color_primaries if frame.color_primaries in _PRIMARIES else _BT2020
            frame.colorspace = frame.colorspace if frame.colorspace in _MATRICES else _BT2020
            to = {"dst_color_trc": ColorTrc.BT709, "dst_color_primaries": ColorPrimaries.BT709}
        area = Interpolation.AREA if size else Interpolation.BILINEAR
        if not to and frame.format.name in _HALVED and (width < frame.width or height < frame.height):
            frame = self._scaler.reformat(frame, width, height, _SCALED, interpolation=area, threads=1)
            area = Interpolation.POINT
        image = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=area, threads=1, **to)
        return self._showing.upright(np.asarray(image.to_ndarray(), np.uint8))


def deinterlaced(frames: Iterable[Stamped]) -> Iterator[Stamped]:
    """(time, frame): frames of two moments keep the first and get its missing lines from their neighbours (bwdif); the
    others are left as they are. One frame late."""
    graph: av.filter.Graph | None = None
    layout: tuple[int, int, str] | None = None
    times: list[float | None] = []

    def pull() -> Iterator[Stamped]:
        while graph is not None:
            try:
                frame = graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield times.pop(0), frame

    for time_s, frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield time_s, frame
            continue
        if layout != (frame.width, frame.height, frame.format.name):
            if graph is not None:
                graph.vpush(None)
                yield from pull()
            layout = frame.width, frame.height, frame.format.name
            graph = _bwdif(frame)
        assert graph is not None
        times.append(time_s)
        graph.vpush(frame)
        yield from pull()
    if graph is not None:
        graph.vpush(None)
        yield from pull()


def _bwdif(like: VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=like.width, height=like.height, format=like.format, time_base=like.time_base, name="in"
    )
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph
