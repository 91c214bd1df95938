"""Clips and arrays as bytes, the same bytes every time: H.264 with short groups of pictures, and npz."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

TICKS_PER_S = 90_000
"""Resolution of presentation times in a stored clip."""


def encode_clip(frames: Sequence[NDArray[np.uint8]], t_s: Sequence[float], *, crf: int, gop: int) -> bytes:
    """An mp4 of uint8 [size, size, 3] RGB frames shown at `t_s` (seconds, ascending, from the clip's start).

    One thread, no B-frames, a keyframe at least every `gop` frames.
    """
    assert len(frames) == len(t_s) > 0
    height, width = frames[0].shape[:2]
    buffer = io.BytesIO()
    ticks = [round(t * TICKS_PER_S) for t in t_s]
    assert all(a < b for a, b in itertools.pairwise(ticks))
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        base = Fraction(1, TICKS_PER_S)
        stream.time_base = base
        stream.codec_context.time_base = base
        stream.codec_context.thread_count = 1
        stream.options = {
            "crf": str(crf),
            "preset": "veryfast",
            "x264-params": f"keyint={gop}:min-keyint=1:bframes=0:threads=1:scenecut=0:mbtree=0",
        }
        for picture, tick in zip(frames, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = tick, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def codec_facts(size: int, crf: int, gop: int) -> dict[str, Any]:
    """What a reader may want to know of a stored clip."""
    return {"codec": "h264", "pixel_format": "yuv420p", "crf": crf, "gop": gop, "b_frames": 0, "size": size}


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An npz; numpy writes a fixed date, so equal arrays are equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()
