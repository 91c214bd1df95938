"""The pictures behind sampled latents: each clip decoded once, its pairs prepared as the model saw them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corpora.clips.corpus import Clip, Corpus
from lapa.latents import LatentSample, Progress, rows_by_clip
from lapa.model.config import LamConfig
from lapa.pairs.flow import pair_flow
from lapa.pairs.pair import resize_frames, stabilise
from lapa.pairs.table import Featurise

THUMB = 64
"""Side of the pictures that the pixel baselines see."""
BATCH = 64


@dataclass(frozen=True)
class ModelPairs:
    """Pairs as the model is fed; P pairs."""

    first: NDArray[np.generic]
    """uint8 [P, S, S, 3], stabilised where the model compensates the camera; features [P, N, F] for feature targets."""
    second: NDArray[np.generic]
    """Likewise."""
    valid: NDArray[np.bool_]
    """[P, S, S]."""
    flow: NDArray[np.float32] | None
    """[P, 2, S/4, S/4]."""
    plain: NDArray[np.uint8]
    """[P, 2, S, S, 3]: both frames as they were."""

    def __len__(self) -> int:
        return len(self.first)

    def take(self, chosen: NDArray[np.integer] | slice) -> ModelPairs:
        flow = None if self.flow is None else self.flow[chosen]
        return ModelPairs(self.first[chosen], self.second[chosen], self.valid[chosen], flow, self.plain[chosen])

    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """(first, second, valid, flow) as `LatentActionModel.encode` takes them."""
        if self.first.ndim == 3:
            return torch.from_numpy(self.first).float(), torch.from_numpy(self.second).float(), None, None
        valid = torch.from_numpy(self.valid[:, None]).float()
        flow = None if self.flow is None else torch.from_numpy(self.flow).float()
        return pictures(self.first), pictures(self.second), valid, flow

    @staticmethod
    def joined(parts: list[ModelPairs]) -> ModelPairs:
        flows = [part.flow for part in parts if part.flow is not None]
        return ModelPairs(
            np.concatenate([part.first for part in parts]),
            np.concatenate([part.second for part in parts]),
            np.concatenate([part.valid for part in parts]),
            np.concatenate(flows) if flows else None,
            np.concatenate([part.plain for part in parts]),
        )


@dataclass(frozen=True)
class ClipPictures:
    """What one clip contributes."""

    clip: Clip
    rows: NDArray[np.int64]
    """Rows of the sample."""
    pairs: ModelPairs
    thumbs: NDArray[np.uint8]
    """[P, 2, THUMB, THUMB, 3]: first and second frame, as they were."""
    ends: NDArray[np.uint8]
    """[2, S, S, 3]: the clip's first and its last frame."""


def pictures(frames: NDArray[np.generic]) -> Tensor:
    """uint8 [B, S, S, 3] -> float32 [B, 3, S, S] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1))).float() / 255


def frame_indices(
    clip: Clip, t_s: NDArray[np.floating], gap_s: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Stored frames nearest to t and t + gap.

    Raises ValueError where a time is no frame's: latents and corpus do not belong together.
    """
    found = []
    for wanted in (np.asarray(t_s), np.asarray(t_s) + np.asarray(gap_s)):
        right = np.searchsorted(clip.t_s, wanted).clip(1, max(1, len(clip.t_s) - 1))
        left = right - 1
        right = np.minimum(right, len(clip.t_s) - 1)
        nearest = np.where(np.abs(clip.t_s[right] - wanted) < np.abs(wanted - clip.t_s[left]), right, left)
        step = float(np.median(np.diff(clip.t_s))) if len(clip.t_s) > 1 else 0.0
        if (np.abs(clip.t_s[nearest] - wanted) > 0.25 * step + 1e-3).any():
            raise ValueError(
                f"clip {clip.row.clip_id} has no frame at some of its latents' times: the corpus was made again since; "
                "extract the latents again with giza extract"
            )
        found.append(nearest.astype(np.int64))
    return found[0], found[1]


def model_pairs(
    config: LamConfig,
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    h: NDArray[np.floating],
    featurise: Featurise | None,
) -> ModelPairs:
    """Frames [P, S, S, 3] and the camera's motion [P, 3, 3] as the model wants them."""
    if featurise is not None:
        features = [np.asarray(featurise(frames)) for frames in (first, second)]
        return ModelPairs(features[0], features[1], np.ones(first.shape[:3], bool), None, np.stack([first, second], 1))
    made = [
        stabilise(a, b, m, compensate=config.pair.camera_compensation) for a, b, m in zip(first, second, h, strict=True)
    ]
    before, after, valid = (np.stack(part) for part in zip(*made, strict=True))
    flow = np.stack([pair_flow(a, b) for a, b in zip(before, after, strict=True)]) if config.sees_flow else None
    return ModelPairs(before, after, valid, flow, np.stack([first, second], 1))


def read_pairs(
    corpus: Corpus,
    sample: LatentSample,
    config: LamConfig,
    featurise: Featurise | None = None,
    progress: Progress | None = None,
) -> Iterator[ClipPictures]:
    """The sample's clips, one at a time, each decoded once."""
    wanted = rows_by_clip(sample, np.arange(len(sample)))
    clips = [row for row in corpus.clips if row.clip_id in wanted]
    for number, clip in enumerate(corpus.read_clips(clips)):
        rows = wanted[clip.row.clip_id]
        i, j = frame_indices(clip, sample.t_s[rows], sample.gap_s[rows])
        used, where = np.unique(np.concatenate([i, j, [0, len(clip.frames) - 1]]), return_inverse=True)
        frames = resize_frames(clip.frames[used], config.pair.image_size)
        small = frames if config.pair.image_size == THUMB else resize_frames(clip.frames[used], THUMB)
        a, b = where[: len(i)], where[len(i) : 2 * len(i)]
        pairs = model_pairs(config, frames[a], frames[b], sample.camera[rows], featurise)
        yield ClipPictures(clip, rows, pairs, np.stack([small[a], small[b]], axis=1), frames[where[-2:]])
        if progress is not None:
            progress("reading clips", number + 1, len(clips))


def pair_pictures(
    corpus: Corpus, sample: LatentSample, rows: NDArray[np.integer], size: int
) -> dict[int, NDArray[np.uint8]]:
    """Row of the sample -> [2, size, size, 3], first and second frame, for looking at."""
    wanted = rows_by_clip(sample, np.unique(rows))
    result: dict[int, NDArray[np.uint8]] = {}
    for clip in corpus.read_clips([row for row in corpus.clips if row.clip_id in wanted]):
        of_clip = wanted[clip.row.clip_id]
        i, j = frame_indices(clip, sample.t_s[of_clip], sample.gap_s[of_clip])
        for row, a, b in zip(of_clip.tolist(), i, j, strict=True):
            result[row] = np.stack(
                [cv2.resize(clip.frames[k], (size, size), interpolation=cv2.INTER_AREA) for k in (a, b)]
            )
    return result
