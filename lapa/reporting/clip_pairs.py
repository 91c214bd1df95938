"""The pairs behind sampled latents: each clip decoded once, its pairs prepared as the model saw them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from lapa.latents import LatentSample, rows_by_clip
from lapa.pairs.batch import PairBatch
from lapa.pairs.pair import frames_at, resize_frames, shown
from lapa.pairs.reader import PairReader
from lapa.reporting.settings import Progress

THUMB = 64
"""Side of the images that the pixel baselines see."""
BATCH = 64


@dataclass(frozen=True)
class ClipPairs:
    """What one clip contributes."""

    row: ClipRow
    rows: NDArray[np.int64]
    """Rows of the sample."""
    pairs: PairBatch
    """In uint8, with the frames as they were."""
    thumbs: NDArray[np.uint8]
    """[P, 2, THUMB, THUMB, 3]: first and second frame, as the encoder sees them: stabilised, and black where one of them
    shows nothing. Of a model of features, which is not shown images, as they were."""
    ends: NDArray[np.uint8]
    """[2, H, W, 3]: the clip's first and its last frame, as the model is shown them."""
    frames: NDArray[np.uint8]
    """[T, H, W, 3]: all of the clip, as the corpus keeps it."""
    t_s: NDArray[np.float64]
    """[T]: their times in the source."""
    first: NDArray[np.int64]
    """[P]: which of `frames` each pair begins with."""
    second: NDArray[np.int64]


def read_pairs(
    corpus: Corpus, sample: LatentSample, reader: PairReader, progress: Progress | None = None
) -> Iterator[ClipPairs]:
    """The sample's clips, one at a time, each decoded once."""
    wanted = rows_by_clip(sample, np.arange(len(sample)))
    clips = [row for row in corpus.clips if row.clip_id in wanted]
    for number, clip in enumerate(corpus.read(row.clip_id for row in clips)):
        rows = wanted[clip.row.clip_id]
        pairs = reader.at(clip, sample.t_s[rows], sample.gap_s[rows], sample.camera[rows])
        ends = shown(clip.frames[[0, -1]], reader.config, clip.row)
        first, second = frames_at(clip, sample.t_s[rows], sample.gap_s[rows])
        yield ClipPairs(clip.row, rows, pairs, _thumbs(pairs), ends, clip.frames, clip.t_s, first, second)
        if progress is not None:
            progress("reading clips", number + 1, len(clips))


def seen_images(pairs: PairBatch) -> Tensor:
    """uint8 [P, 2, 3, S, S]: both frames as the encoder sees them, what it does not see black."""
    if pairs.valid is not None:
        return torch.stack([pairs.first, pairs.second], 1) * pairs.valid[:, None]
    assert pairs.plain is not None
    return pairs.plain


def _thumbs(pairs: PairBatch) -> NDArray[np.uint8]:
    frames = seen_images(pairs).permute(0, 1, 3, 4, 2).flatten(0, 1).numpy()
    return resize_frames(frames, THUMB).reshape(len(pairs), 2, THUMB, THUMB, 3)
