"""Are the codes alive? Usage and perplexity over the whole data set, the latent's rank, and the collapse alarm.

Perplexity is exp(entropy) of how often each code occurs over all extracted pairs: the number of codes that would be as
uncertain if all were equally likely. Over a batch it would mostly say how large the batch is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLLAPSED_USED_SHARE = 0.25
"""With less of the code book in use than this, the codes count as collapsed."""
COLLAPSED_PERPLEXITY_SHARE = 0.1
COLLAPSED_PERPLEXITY = 1.5
"""Of any code book: one code takes nearly all pairs."""
THIN_USED_SHARE = 0.9
THIN_PERPLEXITY_SHARE = 0.5
"""Below these the code book works, but much of it is idle."""
COLLAPSED_DIMENSIONS = 1.5
"""A continuous latent whose variance lies in fewer dimensions than this."""


def perplexity(counts: NDArray[np.integer]) -> float:
    """exp of the entropy of `counts` [K]; 0 for no counts at all."""
    total = int(counts.sum())
    if total == 0:
        return 0.0
    share = counts[counts > 0] / total
    return float(math.exp(-(share * np.log(share)).sum()))


def effective_dimensions(latent: NDArray[np.floating]) -> float:
    """Participation ratio (sum of variances)^2 / sum of squared variances along the principal axes of latent [N, D]: D
    where all axes vary alike, 1 where one does, 0 where nothing varies."""
    centred = np.asarray(latent, np.float64) - np.mean(latent, axis=0, dtype=np.float64)
    variances = np.maximum(np.linalg.eigvalsh(centred.T @ centred / max(1, len(centred))), 0.0)
    scale = float((np.asarray(latent, np.float64) ** 2).mean())
    if variances.sum() <= 1e-10 * max(scale, 1e-30) * len(variances):
        return 0.0
    return float(variances.sum() ** 2 / (variances**2).sum())


def between_group_share(latent: NDArray[np.floating], groups: NDArray[Any]) -> float:
    """Share of the latent's variance that lies between the groups' means: 0 where all videos look alike to the latent, 1
    where it only tells which video it came from. Small groups' own scatter is taken off (epsilon squared)."""
    x = np.asarray(latent, np.float64)
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2 or len(x) <= len(names):
        return float("nan")
    sums = np.zeros((len(names), x.shape[1]))
    np.add.at(sums, inverse, x)
    total = float(((x - x.mean(0)) ** 2).sum())
    within = float(((x - (sums / counts[:, None])[inverse]) ** 2).sum())
    if total <= 0:
        return float("nan")
    noise = within / (len(x) - len(names))
    return max(0.0, (total - within - (len(names) - 1) * noise) / total)


@dataclass
class CodeCounter:
    """Counts codes as they stream by; what it holds does not grow with the number of pairs, but for the distinct
    combinations of codes."""

    size: int
    """Codes in one code book."""
    books: tuple[int, ...] = ()
    """Code book of each position in a row of codes; empty: one book for all, as tokens share it. The levels of a residual
    quantiser have books of their own."""
    pairs: int = 0
    counts: NDArray[np.int64] | None = None
    """[positions, size]."""
    combinations: dict[bytes, int] = field(default_factory=dict)

    def add(self, codes: NDArray[np.integer]) -> None:
        """`codes` [N, positions], each from 0 to size - 1. Raises ValueError for a code outside the code book."""
        if codes.size == 0:
            return
        if codes.min() < 0 or codes.max() >= self.size:
            raise ValueError(
                f"codes from {codes.min()} to {codes.max()} in a code book of {self.size}: these latents are of another "
                "model; extract them again with giza extract"
            )
        positions = codes.shape[1]
        if self.books and len(self.books) != positions:
            raise ValueError(
                f"{positions} codes a pair, the model has {len(self.books)}: these latents are of another model; extract "
                "them again with giza extract"
            )
        if self.counts is None:
            self.counts = np.zeros((positions, self.size), np.int64)
        for position in range(positions):
            self.counts[position] += np.bincount(codes[:, position], minlength=self.size)
        rows, times = np.unique(np.ascontiguousarray(codes, np.int32), axis=0, return_counts=True)
        for row, count in zip(rows, times, strict=True):
            key = row.tobytes()
            self.combinations[key] = self.combinations.get(key, 0) + int(count)
        self.pairs += len(codes)

    def summary(self) -> dict[str, Any]:
        """{size, used, perplexity, pairs, positions: [{used, perplexity}], books, combinations, collapsed, thin, top}.

        `used` and `perplexity` are of the code book, its tokens taken together; of several books, of the one that fares
        worst.
        """
        if self.counts is None:
            raise ValueError("no codes at all: the latents hold no pair; extract them again with giza extract")
        positions = len(self.counts)
        of_position = np.array(self.books or (0,) * positions)
        books = [self.counts[of_position == book].sum(0) for book in np.unique(of_position)]
        rated = [{"used": int((book > 0).sum()), "perplexity": perplexity(book)} for book in books]
        worst = min(rated, key=lambda book: book["perplexity"])
        used, value = int(min(book["used"] for book in rated)), float(worst["perplexity"])
        times = np.array(list(self.combinations.values()), np.int64)
        return {
            "size": self.size,
            "used": used,
            "perplexity": value,
            "pairs": self.pairs,
            "collapsed": codes_collapsed(self.size, used, value),
            "thin": used < THIN_USED_SHARE * self.size or value < THIN_PERPLEXITY_SHARE * self.size,
            "books": rated,
            "positions": [
                {"used": int((row > 0).sum()), "perplexity": perplexity(row), "counts": row.tolist()}
                for row in self.counts
            ],
            "combinations": {
                "distinct": len(times),
                "possible": float(self.size) ** positions,
                "perplexity": perplexity(times),
            },
        }


def books_of_positions(kind: str, tokens: int, levels: int, stage: int) -> tuple[int, ...]:
    """Code book of each code in a row, as the quantisers lay them out: a token's levels side by side (rvq); the tokens of
    stage 2 after those of stage 1."""
    per_token = list(range(levels)) if kind == "rvq" else [0]
    half = tokens // 2 if stage == 2 else tokens
    return tuple(book + (len(per_token) if token >= half else 0) for token in range(tokens) for book in per_token)


def codes_collapsed(size: int, used: int, value: float) -> bool:
    """The alarm: too few codes in use, or nearly all pairs on a few of them."""
    return (
        value <= COLLAPSED_PERPLEXITY or value < COLLAPSED_PERPLEXITY_SHARE * size or used < COLLAPSED_USED_SHARE * size
    )


def latent_health(latent: NDArray[np.floating], groups: NDArray[Any]) -> dict[str, Any]:
    """{dim, effective_dims, between_video_share, collapsed} of continuous latents [N, D]."""
    dims = effective_dimensions(latent)
    share = between_group_share(latent, groups)
    return {
        "dim": int(latent.shape[1]),
        "effective_dims": dims,
        "between_video_share": None if math.isnan(share) else share,
        "collapsed": dims < min(COLLAPSED_DIMENSIONS, 0.75 * latent.shape[1]),
    }
