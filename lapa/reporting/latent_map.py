"""The map of the latents: some pairs as points in the plane, what may colour them, and what lies nearest to each in the
latent space itself.

A point is a pair of the sample. Points are drawn by seed, evenly over few enough clips that a page can hold their videos.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from lapa.latents import LatentSample
from lapa.reporting.atlas import in_turn
from lapa.reporting.known_motion import KnownMotion
from lapa.reporting.palette import Kinds, colours_of

POINTS = 1500
MAP_CLIPS = 300
NEAREST = 4
"""Neighbours of other sources, one of each."""
NEAREST_BODIES = 3
"""The nearest of so many other bodies."""
TSNE_STEPS = 500
"""Half of scikit-learn's default, which moves few points any more and doubles the time."""
PERPLEXITY = 30.0
LEAST_POINTS = 12
"""With fewer there is no map but PCA's."""
FIRST_AXES = 50
"""t-SNE and UMAP start from so many principal components."""


@dataclass(frozen=True)
class Amounts:
    """Colours points by a number."""

    name: str
    low: float
    """What the scale begins with: 0, or as far below it as it ends above."""
    high: float
    of: NDArray[np.float64]
    """[N], NaN where it is not known."""

    def to_json(self) -> dict[str, Any]:
        of = [None if np.isnan(value) else float(f"{value:.4g}") for value in self.of.tolist()]
        return {"name": self.name, "low": float(f"{self.low:.4g}"), "high": float(f"{self.high:.4g}"), "of": of}


@dataclass(frozen=True)
class LatentMap:
    """All of it, for N points."""

    rows: NDArray[np.int64]
    """[N], of the sample."""
    clips: tuple[str, ...]
    """Ids of the points' clips, in the order in which they were drawn."""
    clip: NDArray[np.int64]
    """[N]: which of `clips`."""
    places: dict[str, NDArray[np.float64]]
    """How the map was made -> [N, 2]."""
    colourings: tuple[Kinds | Amounts, ...]
    near: list[list[int]]
    """Of each point: the nearest points of other sources, one of each, the nearest first."""
    near_bodies: list[list[int]]
    """Of each point: the nearest point of each other body, the nearest first."""
    typical: float
    """Median distance of two points in the latent space."""
    distances: NDArray[np.float64]
    """[N, N], in the latent space."""


def draw_map(sample: LatentSample, motions: Sequence[KnownMotion], kinds: Sequence[Kinds], seed: int) -> LatentMap:
    """The map of `sample`. `kinds`: of all its pairs, what colours the points beside their body, source and motion."""
    rng = np.random.default_rng([seed, 17])
    clips, rows = draw_points(sample, rng)
    number = {clip: k for k, clip in enumerate(clips)}
    latent = np.asarray(sample.latent[rows], np.float64)
    distances = cdist(latent, latent)
    off = distances[np.triu_indices(len(rows), 1)]
    groups, bodies = sample.group[rows], sample.embodiment[rows]
    return LatentMap(
        rows=rows,
        clips=tuple(clips),
        clip=np.array([number[str(clip)] for clip in sample.clip_id[rows]], np.int64),
        places=places_of(latent, seed),
        colourings=(
            *(Kinds(each.name, each.labels, each.colours, each.of[rows]) for each in kinds),
            *_by_place(sample, rows),
            *_by_motion(motions, rows),
        ),
        near=nearest_of_others(distances, groups, NEAREST),
        near_bodies=nearest_of_others(distances, bodies, NEAREST_BODIES),
        typical=float(np.median(off)) if len(off) else 0.0,
        distances=distances,
    )


def draw_points(sample: LatentSample, rng: np.random.Generator) -> tuple[list[str], NDArray[np.int64]]:
    """(clips, in the order in which they are drawn; rows of the sample, ascending): clips evenly over bodies and, within
    each, over sources; pairs evenly over those clips."""
    _, first = np.unique(sample.clip_id, return_index=True)
    order = in_turn(in_turn(rng.permutation(first), sample.group), sample.embodiment)[:MAP_CLIPS]
    clips = [str(clip) for clip in sample.clip_id[order]]
    of_clips = np.flatnonzero(np.isin(sample.clip_id, clips))
    return clips, np.sort(in_turn(rng.permutation(of_clips), sample.clip_id)[:POINTS])


def _pca(latent: NDArray[np.float64]) -> NDArray[np.float64]:
    left, spread, axes = np.linalg.svd(latent - latent.mean(0), full_matrices=False)
    signs = np.where(axes.sum(1) < 0, -1.0, 1.0)  # which way an axis points is not told by the data
    return (left * spread * signs)[:, :FIRST_AXES]


def pca_map(latent: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """[N, 2]: the two directions in which latents [N, D] vary most."""
    found = _pca(latent)[:, :2]
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def tsne_map(latent: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """[N, 2]. By one thread: several add up in another order each time."""
    perplexity = min(PERPLEXITY, (len(latent) - 1) / 3)
    method = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", max_iter=TSNE_STEPS, random_state=seed)
    with threadpool_limits(1):
        return np.asarray(method.fit_transform(_pca(latent).astype(np.float32)), np.float64)


def umap_map(latent: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """[N, 2]. Raises ImportError where UMAP is not installed."""
    from umap import UMAP

    return np.asarray(UMAP(n_components=2, random_state=seed, n_jobs=1).fit_transform(_pca(latent)), np.float64)


MAPS: dict[str, Callable[[NDArray[np.float64], int], NDArray[np.float64]]] = {
    "t-SNE": tsne_map,
    "UMAP": umap_map,
    "PCA": pca_map,
}
"""The first of them is shown first."""


def places_of(latent: NDArray[np.float64], seed: int) -> dict[str, NDArray[np.float64]]:
    """Each map of latents [N, D] that can be made: UMAP where it is installed, and PCA alone of few points, or of latents that
    are all the same."""
    varied = len(np.unique(latent, axis=0)) >= LEAST_POINTS and float(latent.std(0).max()) > 1e-6
    able = {"PCA": True, "t-SNE": varied, "UMAP": varied and importlib.util.find_spec("umap") is not None}
    return {name: make(latent, seed) for name, make in MAPS.items() if able[name]}


def nearest_of_others(distances: NDArray[np.float64], labels: NDArray[Any], most: int) -> list[list[int]]:
    """For each of N points the nearest point of each other label, the nearest `most` of these; `distances` [N, N]."""
    names = np.unique(labels)
    nearest = np.empty((len(labels), len(names)), np.int64)
    for k, name in enumerate(names):
        of = np.flatnonzero(labels == name)
        nearest[:, k] = of[np.argmin(distances[:, of], 1)]
    apart = np.take_along_axis(distances, nearest, 1)
    apart[labels[:, None] == names] = np.inf
    order = np.argsort(apart, axis=1, kind="stable")[:, :most]
    return [
        [int(nearest[point, k]) for k in ranked if np.isfinite(apart[point, k])] for point, ranked in enumerate(order)
    ]


def _by_place(sample: LatentSample, rows: NDArray[np.int64]) -> list[Kinds]:
    found = []
    for name, values in (("body", sample.embodiment), ("source", sample.group)):
        names, of, counts = np.unique(values[rows], return_inverse=True, return_counts=True)
        found.append(Kinds(name, tuple(names.tolist()), tuple(colours_of(counts.tolist())), of.astype(np.int64)))
    return found


def _by_motion(motions: Sequence[KnownMotion], rows: NDArray[np.int64]) -> list[Amounts]:
    """Of each body the size of its motion, each dimension in units of its own spread, and each dimension by itself."""
    found = []
    for motion in motions:
        at = {int(row): k for k, row in enumerate(motion.rows)}
        index = np.array([at.get(int(row), -1) for row in rows], np.int64)
        if not (index >= 0).any():
            continue
        y = np.where(index[:, None] >= 0, motion.y[index], np.nan)
        size = np.sqrt(((y / np.maximum(motion.y.std(0), 1e-12)) ** 2).mean(1))
        told = f"{motion.embodiment}, {motion.what}"
        found.append(Amounts(f"{told}: size", 0.0, float(np.nanpercentile(size, 98)), size))
        for k, dim in enumerate(motion.dims):
            high = float(np.nanpercentile(np.abs(y[:, k]), 98))
            found.append(Amounts(f"{told}: dimension {dim}", -high, high, y[:, k]))
    return found
