"""What the codes look like: clips per code, and the pairs whose latents lie nearest, from other videos and embodiments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from lapa.latents import LatentSample

MAX_CODES = 12
CLIPS_PER_CODE = 5
QUERIES = 5
NEIGHBOURS = 4
REPEATS = 10
"""Whole sequences of codes are shown where they occur this often on average; else the first token's codes are."""


@dataclass(frozen=True)
class AtlasEntry:
    """One code and some of its pairs."""

    name: str
    """"3", or "3 1 0 7" for a sequence."""
    share: float
    """Of the sample's pairs."""
    groups: int
    """Source videos it occurs in."""
    embodiments: int
    motion: float
    """Mean absolute difference of luma of its pairs, 0-255."""
    rows: tuple[int, ...]
    """Of the sample, drawn at random, from different source videos where there are enough."""


@dataclass(frozen=True)
class Neighbours:
    """A pair and those nearest to it."""

    query: int
    rows: tuple[int, ...]
    kind: str
    """"other videos" or the name of the other embodiment."""


@dataclass(frozen=True)
class Atlas:
    """All of it, as rows of the sample."""

    kind: str
    """What an entry is: "sequences of codes", "codes of the first token" or "k-means clusters of the continuous
    latent"."""
    entries: tuple[AtlasEntry, ...]
    neighbours: tuple[Neighbours, ...]

    def rows(self) -> NDArray[np.int64]:
        """All rows that are shown."""
        rows = [row for entry in self.entries for row in entry.rows]
        rows += [row for found in self.neighbours for row in (found.query, *found.rows)]
        return np.unique(np.array(rows, np.int64))


def label_pairs(sample: LatentSample, seed: int) -> tuple[NDArray[np.int64], list[str], str]:
    """(label of each pair [N], name of each label, what labels are)."""
    if sample.codes is None:
        clusters = min(MAX_CODES, len(sample))
        all_points = {"min_points_per_centroid": 1, "max_points_per_centroid": 10**6}
        kmeans = faiss.Kmeans(sample.latent.shape[1], clusters, niter=20, seed=seed, **all_points)
        latent = np.ascontiguousarray(sample.latent, np.float32)
        kmeans.train(latent)
        _, found = kmeans.index.search(latent, 1)
        names = [str(k) for k in range(clusters)]
        return found[:, 0].astype(np.int64), names, "k-means clusters of the continuous latent"
    sequences, inverse = np.unique(sample.codes, axis=0, return_inverse=True)
    if sample.codes.shape[1] > 1 and len(sequences) * REPEATS <= len(sample):
        names = [" ".join(str(code) for code in row) for row in sequences]
        return inverse.ravel().astype(np.int64), names, "sequences of codes"
    codes, inverse = np.unique(sample.codes[:, 0], return_inverse=True)
    return inverse.ravel().astype(np.int64), [str(code) for code in codes], "codes of the first token"


def build_atlas(sample: LatentSample, *, prefer: NDArray[np.bool_], seed: int = 0) -> Atlas:
    """The most used codes with some of their pairs, and nearest neighbours of some moving pairs.

    `prefer` [N]: pairs (held out of training) that queries are taken from where there are enough.
    """
    rng = np.random.default_rng([seed, 11])
    labels, names, kind = label_pairs(sample, seed)
    counts = np.bincount(labels, minlength=len(names))
    entries = []
    for label in np.argsort(-counts, kind="stable")[:MAX_CODES].tolist():
        rows = np.flatnonzero(labels == label)
        if len(rows) == 0:
            continue
        entries.append(
            AtlasEntry(
                names[label],
                float(counts[label] / len(labels)),
                len(np.unique(sample.group[rows])),
                len(np.unique(sample.embodiment[rows])),
                float(sample.motion[rows].mean()),
                tuple(spread_over_groups(rows, sample.group, CLIPS_PER_CODE, rng)),
            )
        )
    return Atlas(kind, tuple(entries), tuple(find_neighbours(sample, prefer, rng)))


def spread_over_groups(
    rows: NDArray[np.integer], groups: NDArray[Any], most: int, rng: np.random.Generator
) -> list[int]:
    """Up to `most` of `rows` at random, a second of one group only when every group has one."""
    order = rng.permutation(rows)
    seen: dict[str, int] = {}
    turn = []
    for row in order.tolist():
        name = str(groups[row])
        turn.append(seen.get(name, 0))
        seen[name] = turn[-1] + 1
    return [int(row) for row in order[np.argsort(turn, kind="stable")][:most]]


def find_neighbours(sample: LatentSample, prefer: NDArray[np.bool_], rng: np.random.Generator) -> list[Neighbours]:
    """Nearest pairs (Euclidean, continuous latents) of moving pairs, one of each other video; then of each other
    embodiment."""
    moving = sample.motion >= np.percentile(sample.motion, 60)
    pool = np.flatnonzero(moving & prefer)
    if len(np.unique(sample.group[pool])) < 2:
        pool = np.flatnonzero(moving)
    result: list[Neighbours] = []
    for query in spread_over_groups(pool, sample.group, QUERIES, rng):
        found = nearest(sample, query, np.flatnonzero(sample.group != sample.group[query]))
        if found:
            result.append(Neighbours(query, tuple(found), "other videos"))
    bodies = np.unique(sample.embodiment)
    for body in bodies.tolist():
        of = np.flatnonzero(moving & (sample.embodiment == body))
        for other in bodies.tolist():
            if other == body:
                continue
            for query in spread_over_groups(of, sample.group, 2, rng):
                found = nearest(sample, query, np.flatnonzero(moving & (sample.embodiment == other)))
                if found:
                    result.append(Neighbours(query, tuple(found), other or "no named embodiment"))
    return result


def nearest(sample: LatentSample, query: int, candidates: NDArray[np.integer]) -> list[int]:
    """The nearest of `candidates`, at most one of each source video."""
    if len(candidates) == 0:
        return []
    index = faiss.IndexFlatL2(sample.latent.shape[1])
    index.add(np.ascontiguousarray(sample.latent[candidates], np.float32))
    wanted = np.ascontiguousarray(sample.latent[query : query + 1], np.float32)
    _, order = index.search(wanted, min(len(candidates), 256))
    chosen: list[int] = []
    seen: set[str] = set()
    for position in order[0].tolist():
        row = int(candidates[position])
        if str(sample.group[row]) not in seen and len(chosen) < NEIGHBOURS:
            seen.add(str(sample.group[row]))
            chosen.append(row)
    return chosen


def neighbour_agreement(
    latent: NDArray[np.floating], y: NDArray[np.floating], groups: NDArray[Any], seed: int
) -> float | None:
    """How much nearer in motion a pair's nearest neighbour (of another group) is than a random pair: 1 the same motion,
    0 no nearer than chance. None with a single group."""
    names = np.unique(groups)
    if len(names) < 2:
        return None
    rng = np.random.default_rng([seed, 13])
    rows = rng.permutation(len(latent))[:8000]
    x = np.ascontiguousarray(latent[rows], np.float32)
    motion = (y[rows] - y[rows].mean(0)) / np.maximum(y[rows].std(0), 1e-12)
    own = groups[rows]
    near, far = 0.0, 0.0
    for name in np.unique(own):
        inside = np.flatnonzero(own == name)
        outside = np.flatnonzero(own != name)
        if len(outside) == 0:
            continue
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x[outside])
        _, found = index.search(x[inside], 1)
        near += float(((motion[inside] - motion[outside[found[:, 0]]]) ** 2).sum())
        far += float(((motion[inside] - motion[rng.choice(outside, len(inside))]) ** 2).sum())
    return 1 - near / far if far > 0 else None
