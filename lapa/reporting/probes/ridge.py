"""Ridge regression whose penalty and coordinates are chosen by cross-validation over groups.

A penalty on the weights prefers directions of x that vary much, so what a fit on few labels finds depends on how x is
scaled. That is no property of what x holds. Three ways are tried, and the labelled pairs decide.

scikit-learn's RidgeCV chooses among penalties alone, one fold's mean error counting as much as another's, and fits each
penalty anew: here all penalties of a fold come from one eigendecomposition, and folds hold whole groups of a seeded
order. Its Ridge is the slow reference in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ALPHAS = 10.0 ** np.arange(-3.0, 6.5, 0.5)
FOLDS = 5
"""Of cross-validation over groups."""
FLOOR = 1e-3
"""Directions whose deviation is below this share of the overall (whitening: of the largest) are treated as if it were
this."""


@dataclass(frozen=True)
class Coordinates:
    """Ways to scale x [N, D] that a fit chooses among; made from pairs without labels, which are many."""

    shift: Array
    """[D]: subtracted first."""
    maps: Mapping[str, Array]
    """[D], factors of the dimensions, or [D, D], multiplied from the right."""

    def apply(self, x: NDArray[np.floating], name: str) -> Array:
        """x in the coordinates `name`, of mean variance 1 over the pairs that they were made from."""
        centred, by = np.asarray(x, np.float64) - self.shift, self.maps[name]
        return centred * by if by.ndim == 1 else centred @ by


def coordinates_of(x: NDArray[np.floating]) -> Coordinates:
    """Coordinates from x [N, D].

    global: one scale for all dimensions, which keeps their relative variance; per_dimension: each of variance 1;
    half_whitened: the covariance becomes its own square root, half-way (in the logarithm) between keeping the variances
    of the principal directions and making them equal.
    """
    x = np.asarray(x, np.float64)
    shift, spread = x.mean(0), x.std(0)
    overall = float(np.sqrt((spread**2).mean())) or 1.0
    values, vectors = np.linalg.eigh((x - shift).T @ (x - shift) / len(x))
    largest = float(values[-1]) if values[-1] > 0 else 1.0
    halved = vectors * np.maximum(values / largest, FLOOR**2) ** -0.25
    varied = float(np.sqrt((np.maximum(values, 0) * (halved**2).sum(0)).mean())) or 1.0
    return Coordinates(
        shift,
        {
            "global": np.full(x.shape[1], 1 / overall),
            "per_dimension": 1 / np.maximum(spread, FLOOR * overall),
            "half_whitened": halved / varied,
        },
    )


@dataclass(frozen=True)
class RidgeFit:
    """y = (x - shift) @ weights + offset."""

    shift: Array
    weights: Array
    """[D, K], of x as it is."""
    offset: Array
    alpha: float
    """Penalty, in the coordinates that were chosen."""
    scaling: str
    """Name of those coordinates."""

    def predict(self, x: NDArray[np.floating]) -> Array:
        """[N, K] from [N, D]."""
        return (np.asarray(x, np.float64) - self.shift) @ self.weights + self.offset


def assign_folds(groups: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """Fold of each pair [N]: whole groups, the largest first, each to the fold that has fewest pairs."""
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    filled = np.zeros(min(FOLDS, len(names)), np.int64)
    fold_of_group = np.zeros(len(names), np.int64)
    for group in order:
        fold_of_group[group] = filled.argmin()
        filled[fold_of_group[group]] += counts[group]
    return fold_of_group[inverse]


def ridge_path(x: Array, y: Array, alphas: Array) -> Array:
    """Ridge weights [len(alphas), D, K] of centred x [N, D] and y [N, K], by one eigendecomposition of the smaller
    Gram."""
    if len(x) >= x.shape[1]:
        values, vectors = np.linalg.eigh(x.T @ x)
        left, right = vectors, vectors.T @ (x.T @ y)
    else:
        values, vectors = np.linalg.eigh(x @ x.T)
        left, right = x.T @ vectors, vectors.T @ y
    values = np.maximum(values, 0.0)
    return np.stack([left @ (right / (values + alpha)[:, None]) for alpha in alphas])


def fit_ridge(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    groups: NDArray[Any],
    *,
    seed: int = 0,
    coordinates: Coordinates | None = None,
) -> RidgeFit:
    """Ridge regression of y [N, K] on x [N, D]; penalty and coordinates by cross-validation over `groups`.

    `coordinates`: of pairs without labels (default: of x itself); with few labels those know the spread of x far better
    than the labelled pairs do. With a single group the folds are of pairs.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    ways = coordinates_of(x) if coordinates is None else coordinates
    units = groups if len(np.unique(groups)) > 1 else np.arange(len(x))
    fold_of = assign_folds(units, np.random.default_rng(seed))
    weight = 1.0 / np.maximum(y.var(0), 1e-12 * max(float(y.var(0).max()), 1e-300))
    names = list(ways.maps)
    errors = np.zeros((len(names), len(ALPHAS)))
    for row, name in enumerate(names):
        z = ways.apply(x, name)
        for fold in range(int(fold_of.max()) + 1):
            kept = fold_of != fold
            if kept.all() or not kept.any():
                continue
            z_mean, y_mean = z[kept].mean(0), y[kept].mean(0)
            path = ridge_path(z[kept] - z_mean, y[kept] - y_mean, ALPHAS)
            residual = (z[~kept] - z_mean) @ path + y_mean - y[~kept]
            errors[row] += ((residual**2) * weight).sum((1, 2))
    best, column = np.unravel_index(int(errors.argmin()), errors.shape)
    name, alpha = names[int(best)], float(ALPHAS[column])
    z = ways.apply(x, name)
    z_mean, y_mean = z.mean(0), y.mean(0)
    weights = ridge_path(z - z_mean, y - y_mean, np.array([alpha]))[0]
    by = ways.maps[name]
    own = by[:, None] * weights if by.ndim == 1 else by @ weights
    return RidgeFit(ways.shift, own, y_mean - z_mean @ weights, alpha, name)
