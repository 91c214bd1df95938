"""What the codes look like: clips per code, and the pairs whose latents lie nearest, from other videos and embodiments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from lapa.codes import Codes
from lapa.latents import LatentSample
from lapa.reporting.palette import Kinds, colours_of

MAX_CODES = 12
MORE_CODES = 48
"""Of all positions after what is shown first, together."""
CLIPS_PER_CODE = 4
QUERIES = 5
NEIGHBOURS = 4
REPEATS = 10
"""Whole sequences of codes are shown where they occur this often on average; else those of each position are."""


@dataclass(frozen=True)
class AtlasEntry:
    """One code and some of its pairs."""

    name: str
    """"3", or "3 1 0 7" for a sequence."""
    colour: int
    """Index into the palette, or REST."""
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
class AtlasUnit:
    """The most used of one kind."""

    kinds: Kinds
    """Of all pairs of the sample: "sequences of codes", "codes of position 1" or "k-means clusters of the continuous latent"."""
    entries: tuple[AtlasEntry, ...]


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

    units: tuple[AtlasUnit, ...]
    """What strips are sorted by first; then the codes of each position."""
    neighbours: tuple[Neighbours, ...]

    def rows(self) -> NDArray[np.int64]:
        """All rows that are shown."""
        rows = [row for unit in self.units for entry in unit.entries for row in entry.rows]
        rows += [row for found in self.neighbours for row in (found.query, *found.rows)]
        return np.unique(np.array(rows, np.int64))


def label_pairs(sample: LatentSample, codes: Codes | None, seed: int) -> list[Kinds]:
    """What the strips of a page are sorted by, first; then the codes of each position. `codes`: of all pairs; what is a colour's
    of its own goes by them, so that bars over all pairs have the same."""
    if sample.codes is None:
        clusters = min(MAX_CODES, len(sample))
        all_points = {"min_points_per_centroid": 1, "max_points_per_centroid": 10**6}
        kmeans = faiss.Kmeans(sample.latent.shape[1], clusters, niter=20, seed=seed, **all_points)
        latent = np.ascontiguousarray(sample.latent, np.float32)
        kmeans.train(latent)
        _, found = kmeans.index.search(latent, 1)
        names = tuple(str(k) for k in range(clusters))
        of = found[:, 0].astype(np.int64)
        return [_kinds("k-means clusters of the continuous latent", names, of)]
    positions = []
    for position, of in enumerate(sample.codes.T.astype(np.int64)):
        counts = codes.positions[position].counts if codes else tuple(np.bincount(of).tolist())
        names = tuple(str(code) for code in range(len(counts)))
        positions.append(Kinds(position_name(position, sample.codes.shape[1]), names, tuple(colours_of(counts)), of))
    sequences, inverse = np.unique(sample.codes, axis=0, return_inverse=True)
    if sample.codes.shape[1] > 1 and len(sequences) * REPEATS <= len(sample):
        names = tuple(" ".join(str(code) for code in row) for row in sequences)
        return [_kinds("sequences of codes", names, inverse.ravel().astype(np.int64)), *positions]
    return positions


def _kinds(name: str, labels: tuple[str, ...], of: NDArray[np.int64]) -> Kinds:
    return Kinds(name, labels, tuple(colours_of(np.bincount(of, minlength=len(labels)).tolist())), of)


def position_name(position: int, positions: int) -> str:
    """What the codes of one position are called; the first is position 1."""
    return f"codes of position {position + 1}" if positions > 1 else "codes"


def build_atlas(sample: LatentSample, codes: Codes | None, *, prefer: NDArray[np.bool_], seed: int = 0) -> Atlas:
    """The most used codes with some of their pairs, and nearest neighbours of some moving pairs.

    `codes`: of all pairs; `prefer` [N]: pairs (held out of training) that queries are taken from where there are enough.
    """
    rng = np.random.default_rng([seed, 11])
    kinds = label_pairs(sample, codes, seed)
    more = max(3, MORE_CODES // max(1, len(kinds) - 1))
    units = tuple(
        _unit(sample, each, MAX_CODES if k == 0 else min(MAX_CODES, more), rng) for k, each in enumerate(kinds)
    )
    return Atlas(units, tuple(find_neighbours(sample, prefer, rng)))


def _unit(sample: LatentSample, kinds: Kinds, most: int, rng: np.random.Generator) -> AtlasUnit:
    counts = np.bincount(kinds.of, minlength=len(kinds.labels))
    entries = []
    for label in np.argsort(-counts, kind="stable")[:most].tolist():
        rows = np.flatnonzero(kinds.of == label)
        if len(rows) == 0:
            continue
        entries.append(
            AtlasEntry(
                kinds.labels[label],
                kinds.colours[label],
                float(counts[label] / len(sample)),
                len(np.unique(sample.group[rows])),
                len(np.unique(sample.embodiment[rows])),
                float(sample.motion[rows].mean()),
                tuple(spread_over_groups(rows, sample.group, CLIPS_PER_CODE, rng)),
            )
        )
    return AtlasUnit(kinds, tuple(entries))


def spread_over_groups(
    rows: NDArray[np.integer], groups: NDArray[Any], most: int, rng: np.random.Generator
) -> list[int]:
    """Up to `most` of `rows` at random, a second of one group only when every group has one."""
    return [int(row) for row in in_turn(rng.permutation(rows), groups)[:most]]


def in_turn(rows: NDArray[np.integer], labels: NDArray[Any]) -> NDArray[np.integer]:
    """`rows` in another order: one of each label (of `labels`, of every row there is), then a second of each ..."""
    seen: dict[str, int] = {}
    turn = []
    for row in rows.tolist():
        name = str(labels[row])
        turn.append(seen.get(name, 0))
        seen[name] = turn[-1] + 1
    return rows[np.argsort(turn, kind="stable")]


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
