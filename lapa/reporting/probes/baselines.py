"""What a latent must beat: the first frame alone, the difference image's principal components, the same network
untrained, and the latents of other pairs.

Each is a `lapa.reporting.probes.probe.Feature`: what it learns from data it learns from the split's training pairs,
without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from flare.targets import pool_grid
from flare.vision import FrozenVision
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch
from lapa.pairs.pair import resize_frames
from lapa.reporting.clip_pairs import BATCH
from lapa.reporting.probes.probe import Feature, Split

PCA_PAIRS = 4000
"""Training pairs that principal components are computed from; more change them little."""


GRID = 4
"""Cells on a side that a frozen vision model's patches are pooled to."""
FEATURE_SIZE, FEATURE_GRID, FEATURE_NUMBERS = 112, 8, 512
"""Of `token_change`: pixels on a side, patches at most on a side, and the principal components that are read."""


@dataclass(frozen=True)
class Components:
    """Principal components of flattened images."""

    mean: NDArray[np.float32]
    """[P]."""
    axes: NDArray[np.float32]
    """[D, P], orthonormal rows."""

    def project(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """[N, P] -> [N, D]."""
        return np.asarray((x - self.mean) @ self.axes.T, np.float32)

    def rebuild(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """What the components keep of x [N, P]."""
        return np.asarray(self.project(x) @ self.axes + self.mean, np.float32)


def fit_components(x: NDArray[np.floating], dimension: int, seed: int) -> Components:
    """The leading `dimension` components of x [N, P]; fewer where N or P is smaller."""
    count = max(1, min(dimension, len(x) - 1, x.shape[1]))
    solver = "randomized" if count < 0.5 * min(x.shape) else "full"
    # Three power iterations: the energy kept is within 0.1% of an exact decomposition's on difference images.
    pca = PCA(count, svd_solver=solver, iterated_power=3, random_state=seed).fit(x)
    return Components(np.asarray(pca.mean_, np.float32), np.asarray(pca.components_, np.float32))


def change_images(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[N, 2, S, S, 3] -> second minus first, flattened, in [-1, 1]."""
    return np.asarray((thumbs[:, 1].astype(np.float32) - thumbs[:, 0]).reshape(len(thumbs), -1) / 255, np.float32)


def first_images(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[N, 2, S, S, 3] -> first frame, flattened, in [0, 1]."""
    return np.asarray(thumbs[:, 0].astype(np.float32).reshape(len(thumbs), -1) / 255, np.float32)


class ImageComponents:
    """Principal components of the first frame or of the difference image, fitted on the training pairs of a split."""

    def __init__(self, thumbs: NDArray[np.uint8], kind: str, dimension: int, seed: int) -> None:
        """`thumbs`: [N, 2, S, S, 3]; `kind`: "first" or "change"."""
        self._thumbs, self._dimension, self._seed = thumbs, dimension, seed
        self._of = {"first": first_images, "change": change_images}[kind]

    def components(self, train: NDArray[np.bool_]) -> Components:
        chosen = np.flatnonzero(train)
        if len(chosen) > PCA_PAIRS:
            chosen = chosen[np.linspace(0, len(chosen) - 1, PCA_PAIRS).round().astype(np.int64)]
        return fit_components(self._of(self._thumbs[chosen]), self._dimension, self._seed)

    def project(self, found: Components) -> NDArray[np.float32]:
        """All pairs [N, D]."""
        parts = [found.project(self._of(self._thumbs[k : k + 1024])) for k in range(0, len(self._thumbs), 1024)]
        return np.concatenate(parts)

    def __call__(self, split: Split) -> list[NDArray[np.floating]]:
        return [self.project(self.components(split.train))]


class FeatureComponents:
    """Principal components of the change of a frozen vision model's features, fitted on the training pairs of a split."""

    def __init__(self, change: NDArray[np.float16], dimension: int, seed: int) -> None:
        """`change`: [N, F], of `feature_change`."""
        self._change, self._dimension, self._seed = change, dimension, seed

    def __call__(self, split: Split) -> list[NDArray[np.floating]]:
        chosen = np.flatnonzero(split.train)[:: max(1, int(split.train.sum()) // PCA_PAIRS)]
        found = fit_components(self._change[chosen].astype(np.float32), self._dimension, self._seed)
        parts = np.array_split(self._change, len(self._change) // 1024 + 1)
        return [np.concatenate([found.project(part) for part in parts])]


def feature_change(vision: FrozenVision, images: Tensor) -> NDArray[np.float16]:
    """[P, 2, 3, S, S] uint8 -> [P, cells x D]: second minus first of the patches' features, pooled to GRID x GRID cells."""
    parts = []
    for part in images.split(BATCH // 2):
        tokens = vision(part.flatten(0, 1))
        cells = pool_grid(tokens, min(GRID**2, tokens.shape[1])).unflatten(0, (len(part), 2))
        parts.append((cells[:, 1] - cells[:, 0]).flatten(1).half().numpy())
    return np.concatenate(parts)


def token_change(
    vision: FrozenVision, frames: NDArray[np.uint8], first: NDArray[np.integer], second: NDArray[np.integer]
) -> NDArray[np.float16]:
    """[P, tokens x D]: second minus first of all the features of a clip's frames [T, S, S, 3], as they are, whatever the model
    is shown of them; each frame is looked at once."""
    used, where = np.unique(np.concatenate([first, second]), return_inverse=True)
    tokens = torch.from_numpy(vision.of_frames(resize_frames(frames[used], FEATURE_SIZE))).float()
    cells = pool_grid(tokens, min(FEATURE_GRID**2, tokens.shape[1])).flatten(1).numpy()
    return np.asarray(cells[where[len(first) :]] - cells[where[: len(first)]], np.float16)


def fixed(*variants: NDArray[np.floating]) -> Feature:
    """A feature that learns nothing from the data."""
    return lambda split: list(variants)


def shuffled(latent: NDArray[np.floating], seed: int, variants: int = 3) -> Feature:
    """The latents of other pairs, within the training pairs and within the tested ones."""

    def feature(split: Split) -> list[NDArray[np.floating]]:
        result = []
        for variant in range(variants):
            rng = np.random.default_rng([seed, 7, variant])
            order = np.arange(len(latent))
            for mask in (split.train, split.test):
                rows = np.flatnonzero(mask)
                order[rows] = rows[rng.permutation(len(rows))]
            result.append(latent[order])
        return result

    return feature


def untrained_models(model: LatentActionModel, seeds: Sequence[int]) -> list[LatentActionModel]:
    """The model's architecture at fresh random initialisations, in evaluation mode; torch's own generator is left as it
    was."""
    made = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            made.append(type(model)(model.config).eval())
    return made


@torch.inference_mode()
def encode_pairs(model: LatentActionModel, pairs: PairBatch) -> NDArray[np.float32]:
    """Continuous latents [P, D] before quantisation."""
    parts = []
    for start in range(0, len(pairs), BATCH):
        part = pairs.take(slice(start, start + BATCH)).floats()
        parts.append(model.encode(part).latent.flatten(1).cpu().numpy())
    return np.concatenate(parts)
