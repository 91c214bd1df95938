"""What a report's page shows of the clips, in the videos' own aspect: both frames of some pairs, and short videos."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.clips.manifest import ClipRow
from corpora.video.encode import encode_clip
from lapa.pairs.config import PairConfig
from lapa.reporting.clip_pairs import ClipPairs
from lapa.reporting.images import Frame, Video

STILL = 128
"""Shorter side of a frame on the page."""
VIDEO_HEIGHT = 160
VIDEO_FPS = 12.0
"""At most."""
CRF = 30


def stored_aspect(row: ClipRow, fit: str) -> float:
    """Width by height of what the stored square frames of a clip show; `fit`: how they were made square."""
    return row.width / row.height if fit == "stretch" and row.width > 0 and row.height > 0 else 1.0


def model_aspect(row: ClipRow, fit: str, config: PairConfig) -> float:
    """The same of what a model is shown of the clip."""
    height, width = config.shape
    return width / height if config.crop else stored_aspect(row, fit)


def at_aspect(frame: Frame, aspect: float, side: int = STILL) -> Frame:
    """uint8 [H, W, 3] resized to this aspect (width by height), `side` its shorter side."""
    size = max(side, round(side * aspect)), max(side, round(side / aspect))
    grows = size[0] > frame.shape[1] or size[1] > frame.shape[0]
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC if grows else cv2.INTER_AREA), np.uint8)


@dataclass
class ClipPictures:
    """Gathers them while the clips are read."""

    rows: Collection[int]
    """Of the sample: pairs whose frames are kept."""
    clips: Collection[str]
    """Ids of clips that videos are made of."""
    fit: str
    """How the corpus' frames were made square."""

    def __post_init__(self) -> None:
        self.frames: dict[int, list[Frame]] = {}
        """Row of the sample -> first and second frame."""
        self.videos: dict[str, Video] = {}

    def add(self, clip: ClipPairs) -> None:
        aspect = stored_aspect(clip.row, self.fit)
        for k, row in enumerate(clip.rows.tolist()):
            if row in self.rows:
                self.frames[row] = [at_aspect(clip.frames[i], aspect) for i in (clip.first[k], clip.second[k])]
        if clip.row.clip_id in self.clips:
            self.videos[clip.row.clip_id] = small_video(clip.frames, clip.t_s, aspect)


def small_video(frames: NDArray[np.uint8], t_s: NDArray[np.float64], aspect: float) -> Video:
    """The whole clip [T, H, W, 3], `t_s` [T] seconds, at VIDEO_HEIGHT and this aspect, without sound."""
    size = max(2, 2 * round(VIDEO_HEIGHT * aspect / 2)), VIDEO_HEIGHT
    chosen = [0]
    for k in range(1, len(t_s)):
        if t_s[k] - t_s[chosen[-1]] >= 1 / VIDEO_FPS - 1e-3:
            chosen.append(k)
    images: Sequence[Frame] = [cv2.resize(frames[k], size, interpolation=cv2.INTER_AREA) for k in chosen]  # type: ignore[misc]
    mp4 = encode_clip(images, [float(t_s[k] - t_s[0]) for k in chosen], crf=CRF, gop=12)
    return Video(mp4, float(t_s[0]), size[0], size[1])
