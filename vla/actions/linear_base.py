"""A linear guess of a chunk from the state alone, so that a policy need only learn what is left of it.

    guess_h = offset_h + clip(x, low, high) @ weights_h        x [D] the encoded state, guess_h [K] step h of the chunk

Ridge regression, each step of the chunk by itself. The penalty of each number, one for all steps, is chosen by
cross-validation over whole episodes: chunks of one episode overlap, so that chunks drawn at random would be predicted from
their neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FOLDS = 5
"""Of the cross-validation; fewer where there are fewer episodes."""
PENALTIES = (1e-9, *(10.0**power for power in range(-6, 3)), np.inf)
"""What is tried, for states of unit variance and a mean square error; inf: no weights, the mean chunk alone."""
ROUNDING = 2 * float(np.finfo(np.float32).eps)
"""A spread of this share of the largest value is float32 rounding, not motion."""
_ARRAYS = ("weights", "offset", "low", "high")


@dataclass(frozen=True, eq=False)
class LinearBase:
    """The fitted guess. H steps, D numbers of an encoded state, K numbers of a step."""

    weights: Floats
    """[H, D, K]."""
    offset: Floats
    """[H, K]."""
    low: Floats
    """[D]: least value of the state in the data; beyond it the guess stays as it is there."""
    high: Floats
    """[D]: largest value."""
    penalty: Floats
    """[K]: those of PENALTIES that were chosen."""

    def __post_init__(self) -> None:
        horizon, dim, width = self.weights.shape if self.weights.ndim == 3 else (0, 0, 0)
        shapes = {"offset": (horizon, width), "low": (dim,), "high": (dim,), "penalty": (width,)}
        for name in (*_ARRAYS, "penalty"):
            array = getattr(self, name)
            finite = np.isfinite(array).all() or name == "penalty"
            if array.shape != shapes.get(name, (horizon, dim, width)) or not finite:
                raise ValueError(
                    f"linear base: {name} of shape {list(array.shape)} beside weights of {list(self.weights.shape)}: finite "
                    "weights [H, D, K], offset [H, K], low and high [D], penalty [K] are wanted; the checkpoint is damaged"
                )

    @classmethod
    def fit(
        cls,
        states: NDArray[Any],
        chunks: NDArray[Any],
        mask: NDArray[np.bool_],
        groups: Sequence[Any] | NDArray[Any] | None = None,
        *,
        penalties: Sequence[float] = PENALTIES,
    ) -> LinearBase:
        """From states [M, D], chunks [M, H, K] and the mask [M, H] of what is known of them.

        groups [M]: which episode each chunk is of. Without them, or with one episode, the M chunks are taken in order, and
        stretches of them are held out in turn. NaN are left out. A step that is known of no chunk is guessed as the one
        before it (the first: as the first that is known). Raises ValueError where nothing at all is known.
        """
        x, y = np.asarray(states, np.float64), np.asarray(chunks, np.float64)
        seen = np.asarray(np.isfinite(x).all(1))
        known = mask & np.isfinite(y).all(-1) & seen[:, None]
        if not known.any():
            raise ValueError(f"linear base: nothing is known of any of {len(x)} chunks beside a state; it needs some")
        x, y = np.where(seen[:, None], x, 0.0), np.where(known[..., None], y, 0.0)
        low, high, shift, spread = (f(x[seen], 0) for f in (np.min, np.max, np.mean, np.std))
        moves = spread > ROUNDING * np.maximum(np.abs(low), np.abs(high))
        scale = np.where(moves, 1 / np.where(moves, spread, 1.0), 0.0)
        z = (x - shift) * scale
        fold_of = folds_of(len(x), groups)
        several = len(set(fold_of.tolist())) > 1
        penalty = _chosen(z, y, known, fold_of, penalties) if several else np.full(y.shape[2], np.inf)
        fitted = [_ridge(z[rows], y[rows, h], [penalty]) if rows.any() else None for h, rows in enumerate(known.T)]
        steps = _filled(fitted)
        weights = np.stack([scale[:, None] * slopes[0] for slopes, _, _ in steps])
        centre = np.stack([mean for _, _, mean in steps])
        offset = centre - np.stack([(shift * scale + middle) @ slopes[0] for slopes, middle, _ in steps])
        still = _still(y, known)
        weights[..., still] = 0.0
        offset[:, still] = y[known][:, still].min(0)  # exactly, where a mean would be rounded
        return cls(weights, offset, low, high, penalty)

    @property
    def horizon(self) -> int:
        """Steps of a chunk."""
        return self.weights.shape[0]

    def predict(self, states: NDArray[Any]) -> Floats:
        """Guesses [.., H, K] of encoded states [.., D]. Raises ValueError for another D."""
        if states.shape[-1:] != self.low.shape:
            raise ValueError(f"state of shape {list(states.shape)}: the linear base wants [..., {len(self.low)}]")
        inside = np.clip(np.asarray(states, np.float64), self.low, self.high)
        horizon, dim, width = self.weights.shape
        flat = inside @ self.weights.transpose(1, 0, 2).reshape(dim, horizon * width)
        return self.offset + flat.reshape(*inside.shape[:-1], horizon, width)

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; `from_json` restores the same bits."""
        penalty = [value if np.isfinite(value) else None for value in self.penalty.tolist()]  # JSON has no inf
        return {**{name: getattr(self, name).tolist() for name in _ARRAYS}, "penalty": penalty}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LinearBase:
        """Inverse of `to_json`. Raises ValueError for what is missing or of shapes that do not fit."""
        if missing := [name for name in (*_ARRAYS, "penalty") if name not in values]:
            raise ValueError(
                f"linear base without {', '.join(missing)}: the file was not written by this version of giza"
            )
        arrays = {name: np.asarray(values[name], np.float64) for name in _ARRAYS}
        penalty = np.array([np.inf if value is None else value for value in values["penalty"]], np.float64)
        return cls(**arrays, penalty=penalty)


def folds_of(count: int, groups: Sequence[Any] | NDArray[Any] | None = None) -> NDArray[np.int64]:
    """Fold of each of `count` chunks: whole episodes in turn, or stretches where there are no two episodes."""
    if groups is not None:
        if len(groups) != count:
            raise ValueError(f"{len(groups)} groups for {count} chunks: one each is wanted")
        names, episode = np.unique(np.asarray(groups), return_inverse=True)
        if len(names) > 1:
            return np.asarray(episode % FOLDS, np.int64)
    return np.arange(count, dtype=np.int64) * min(FOLDS, count) // max(count, 1)


def _chosen(
    z: Floats, y: Floats, known: NDArray[np.bool_], fold_of: NDArray[np.int64], penalties: Sequence[float]
) -> Floats:
    """[K]: the penalties of least held-out square error; of equals the largest."""
    falling = np.sort(np.asarray(penalties, np.float64))[::-1]
    errors = np.zeros((len(falling), y.shape[2]))
    for fold in range(int(fold_of.max()) + 1):
        out = fold_of == fold
        for h, there in enumerate(known.T):
            kept, held = there & ~out, there & out
            if kept.any() and held.any():
                slopes, middle, mean = _ridge(z[kept], y[kept, h], falling)
                errors += (((z[held] - middle) @ slopes + mean - y[held, h]) ** 2).sum(1)
    return np.asarray(falling[errors.argmin(0)], np.float64)


def _ridge(z: Floats, y: Floats, penalties: Sequence[Any] | Floats) -> tuple[Floats, Floats, Floats]:
    """Weights [P, D, K] of P penalties (or P times [K]) for states z [N, D] and numbers y [N, K], and the means [D] and [K]
    that they count from. Penalties are positive, so that directions in which z does not vary have no weight."""
    middle, mean = z.mean(0), y.mean(0)
    values, vectors = np.linalg.eigh((z - middle).T @ (z - middle) / len(z))
    projected = vectors.T @ ((z - middle).T @ (y - mean) / len(z))
    values = np.maximum(values, 0.0)
    slopes = [vectors @ (projected / (values[:, None] + penalty)) for penalty in penalties]
    return np.stack(slopes), middle, mean


def _filled(fitted: list[tuple[Floats, Floats, Floats] | None]) -> list[tuple[Floats, Floats, Floats]]:
    """The steps, those without a fit as the step before them, or as the first that has one."""
    last = next(found for found in fitted if found is not None)
    filled = []
    for found in fitted:
        last = last if found is None else found
        filled.append(last)
    return filled


def _still(y: Floats, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[K]: numbers that move in no known step."""
    low, high = y[known].min(0), y[known].max(0)
    return high - low <= ROUNDING * np.maximum(np.abs(low), np.abs(high))
