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
"""With less of the codebook in use than this, the codes count as collapsed."""
COLLAPSED_PERPLEXITY_SHARE = 0.1
COLLAPSED_PERPLEXITY = 1.5
"""Of any codebook: one code takes nearly all pairs."""
COLLAPSED_ROWS_SHARE = 0.25
"""Of whole rows of codes: log(perplexity) as a share of what as many positions, or as many pairs, could reach."""
THIN_USED_SHARE = 0.5
THIN_PERPLEXITY_SHARE = 0.25
THIN_ROWS_SHARE = 0.5
"""Below these the codes work, but much of what they could say is idle. No position need use all of a codebook: those that
share one divide it among themselves."""
COLLAPSED_DIMENSIONS = 1.5
"""A continuous latent whose variance lies in fewer dimensions than this."""


def perplexity(counts: NDArray[np.integer]) -> float:
    """exp of the entropy of `counts` [K]; 0 for no counts at all."""
    total = int(counts.sum())
    if total == 0:
        return 0.0
    share = counts[counts > 0] / total
    return float(math.exp(-(share * np.log(share)).sum()))


def effective_rank(latent: NDArray[np.floating]) -> float:
    """exp of the entropy of the normalised spectrum of the covariance of latent [N, D] (Roy and Vetterli 2007)."""
    centred = np.asarray(latent, np.float64) - np.mean(latent, axis=0, dtype=np.float64)
    spectrum = np.linalg.svd(centred, compute_uv=False) ** 2
    share = spectrum / max(float(spectrum.sum()), 1e-12)
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-12))).sum()))


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


@dataclass(frozen=True)
class PositionUse:
    """Of one position of the row of codes."""

    used: int
    """Codes that occur."""
    perplexity: float
    counts: tuple[int, ...]
    """How often each code occurs."""


@dataclass(frozen=True)
class Combinations:
    """Of whole rows of codes."""

    distinct: int
    possible: float
    perplexity: float


@dataclass(frozen=True)
class Codes:
    """How the codes of a data set are used: by the position that fares worst, and by all of them together."""

    size: int
    """Codes to choose from at the worst position."""
    used: int
    """Of them, that occur there."""
    perplexity: float
    """There."""
    pairs: int
    collapsed: bool
    """The alarm: too few codes in use at a position, nearly all pairs on a few of them, or positions that repeat each other."""
    thin: bool
    """The codebook works, but much of it is idle."""
    positions: tuple[PositionUse, ...]
    combinations: Combinations


@dataclass
class CodeCounter:
    """Counts codes as they stream by; what it holds does not grow with the number of pairs, but for the distinct
    combinations of codes."""

    sizes: tuple[int, ...]
    """How many codes there are for each position of a row (`Quantiser.sizes`)."""
    pairs: int = 0
    counts: NDArray[np.int64] | None = None
    """[positions, largest size]."""
    combinations: dict[bytes, int] = field(default_factory=dict)

    def add(self, codes: NDArray[np.integer]) -> None:
        """`codes` [N, positions], each from 0 to its position's size - 1. Raises ValueError for other codes."""
        if codes.size == 0:
            return
        positions = codes.shape[1]
        if len(self.sizes) != positions:
            raise ValueError(
                f"{positions} codes a pair, the model has {len(self.sizes)}: these latents are of another model; extract "
                "them again with giza extract"
            )
        if codes.min() < 0 or (codes.max(0) >= np.array(self.sizes)).any():
            raise ValueError(
                f"codes from {codes.min()} to {codes.max()} in a codebook of {max(self.sizes)}: these latents are of another "
                "model; extract them again with giza extract"
            )
        if self.counts is None:
            self.counts = np.zeros((positions, max(self.sizes)), np.int64)
        for position in range(positions):
            self.counts[position] += np.bincount(codes[:, position], minlength=max(self.sizes))
        rows, times = np.unique(np.ascontiguousarray(codes, np.int32), axis=0, return_counts=True)
        for row, count in zip(rows, times, strict=True):
            key = row.tobytes()
            self.combinations[key] = self.combinations.get(key, 0) + int(count)
        self.pairs += len(codes)

    def summary(self) -> Codes:
        """Raises ValueError where no codes were added."""
        if self.counts is None:
            raise ValueError("no codes at all: the latents hold no pair; extract them again with giza extract")
        positions = [
            PositionUse(int((row > 0).sum()), perplexity(row), tuple(row[:of].tolist()))
            for row, of in zip(self.counts, self.sizes, strict=True)
        ]
        # of a codebook larger than the data set, no more codes can occur than there are pairs
        within = [min(size, self.pairs) for size in self.sizes]
        shares = [position.perplexity / size for position, size in zip(positions, within, strict=True)]
        worst = int(np.argmin(shares))
        used, share = positions[worst].used / within[worst], shares[worst]
        times = np.array(list(self.combinations.values()), np.int64)
        rows = Combinations(len(times), float(math.prod(self.sizes)), perplexity(times))
        rows_share = math.log(rows.perplexity) / math.log(max(2.0, min(rows.possible, self.pairs)))
        return Codes(
            size=self.sizes[worst],
            used=positions[worst].used,
            perplexity=positions[worst].perplexity,
            pairs=self.pairs,
            collapsed=positions[worst].perplexity <= COLLAPSED_PERPLEXITY
            or share < COLLAPSED_PERPLEXITY_SHARE
            or used < COLLAPSED_USED_SHARE
            or rows_share < COLLAPSED_ROWS_SHARE,
            thin=used < THIN_USED_SHARE or share < THIN_PERPLEXITY_SHARE or rows_share < THIN_ROWS_SHARE,
            positions=tuple(positions),
            combinations=rows,
        )


@dataclass(frozen=True)
class LatentHealth:
    """Of continuous latents."""

    dim: int
    effective_dims: float
    between_video_share: float | None
    """None where it is unknown."""
    collapsed: bool


def latent_health(latent: NDArray[np.floating], groups: NDArray[Any]) -> LatentHealth:
    """Of latents [N, D] of the source videos `groups` [N]."""
    dims = effective_dimensions(latent)
    share = between_group_share(latent, groups)
    return LatentHealth(
        dim=int(latent.shape[1]),
        effective_dims=dims,
        between_video_share=None if math.isnan(share) else share,
        collapsed=dims < min(COLLAPSED_DIMENSIONS, 0.75 * latent.shape[1]),
    )
