"""Normalisation of states and actions, per dimension or per step and dimension, inverted exactly.

min_max and q01_q99 map their range to [-1, 1], mean_std to zero mean and unit variance. Statistics are float64 from fit to
checkpoint. Dimensions that never move are mapped to 0, and back to their constant: a robot's unused joint neither divides by
zero nor turns measurement noise into a signal of full size.

What lies beyond the range is cut to it, in both directions (as GR00T does): an outlier does not outweigh all else, and no
prediction leaves what was seen in training. The range is q01 to q99, or, of min_max and mean_std, that of the data. What moves
so rarely that its quantiles leave the motion out (a gripper that closes once in an episode) keeps it: such a dimension is
scaled by its largest departure instead, and its range is that of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.parts import Normalisation, check_kind

Floats = NDArray[np.float64]

_FLOAT32_STEPS = 2
"""A dimension whose spread is within this many float32 roundings of its largest value counts as constant."""
_RARE = 4.0
"""Mean square over the half range q01 to q99 squared. What lies within gives at most 1, so from here on three quarters of the
motion lie in the 2% of values beyond."""
_STATISTICS = ("min", "max", "mean", "std", "q01", "q99")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of each dimension, float64 [D], or of each step and dimension, float64 [H, D]; all of one shape."""

    min: Floats
    """Smallest value seen."""
    max: Floats
    """Largest value seen."""
    mean: Floats
    """Mean."""
    std: Floats
    """Standard deviation (of the population: divided by count)."""
    q01: Floats
    """1st percentile, interpolated linearly."""
    q99: Floats
    """99th percentile, interpolated linearly."""
    count: NDArray[np.int64]
    """Values seen: not masked, not NaN, not infinite."""

    @classmethod
    def of(cls, values: NDArray[Any], mask: NDArray[np.bool_] | None = None, *, per_step: bool = False) -> Statistics:
        """Of values [..., D] over all leading axes, or with `per_step` of [..., H, D] over all but the last two.

        mask bool [...] (without D) is False where a row is unknown. NaN and infinite numbers are left out too, each for its
        own dimension. Raises ValueError where a dimension (of a step) has no value at all.
        """
        kept = 2 if per_step else 1
        if values.ndim < kept + 1:
            raise ValueError(
                f"values of shape {values.shape}: statistics {'per step ' if per_step else ''}want at least {kept + 1} axes"
            )
        if mask is not None and mask.shape != values.shape[:-1]:
            raise ValueError(f"mask of shape {mask.shape}: values {values.shape} want a mask of {values.shape[:-1]}")
        shape = values.shape[-kept:]
        count_rows = int(np.prod(values.shape[:-kept]))  # not -1, which fails where D is 0
        rows = values.reshape(count_rows, *shape)
        known = None if mask is None else mask.reshape(count_rows, *shape[:-1])
        result = np.empty((len(_STATISTICS), *shape), np.float64)
        count = np.empty(shape, np.int64)
        for place in np.ndindex(*shape):
            column = rows[(slice(None), *place)]
            if known is not None:
                column = column[known[(slice(None), *place[:-1])]]
            column = column[np.isfinite(column)].astype(np.float64)
            if not len(column):
                where = f"step {place[0]}, dimension {place[1]}" if per_step else f"dimension {place[0]}"
                raise ValueError(
                    f"{where}: all {len(rows)} values are masked or NaN, so it has no statistics; "
                    + ("shorten the horizon, or do without statistics per step" if per_step else "leave it out")
                )
            count[place] = len(column)
            low, high = np.quantile(column, [0.01, 0.99])
            result[(slice(None), *place)] = (column.min(), column.max(), column.mean(), column.std(), low, high)
        return cls(**dict(zip(_STATISTICS, result, strict=True)), count=count)

    def to_json(self) -> dict[str, Any]:
        """Nested lists; Python writes floats so that they read back to the same bits."""
        return {name: getattr(self, name).tolist() for name in (*_STATISTICS, "count")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Statistics:
        """Inverse of `to_json`. Raises ValueError for what is missing, not finite or of another shape."""
        if missing := [name for name in (*_STATISTICS, "count") if name not in values]:
            raise ValueError(
                f"statistics without {', '.join(missing)}: the file was not written by this version of giza"
            )
        arrays = {name: np.asarray(values[name], np.float64) for name in _STATISTICS}
        count = np.asarray(values["count"], np.int64)
        for name, array in arrays.items():
            if array.shape != count.shape or not np.isfinite(array).all():
                raise ValueError(
                    f"statistic '{name}' of shape {array.shape}: finite numbers of shape {count.shape} are wanted"
                )
        return cls(**arrays, count=count)


@dataclass(frozen=True, eq=False)
class Normaliser:
    """y = (x - offset) / scale, and x = offset + scale * y. Applies to [..., D], or [..., H, D] if fitted per step."""

    statistics: Statistics
    """What offset and scale follow from; all of it is kept, whatever the kind."""
    kind: Normalisation = "q01_q99"
    """Which statistics make offset and scale."""
    clip: float | None = None
    """Normalised values are cut to [-clip, clip], in both directions. None: to the range of the kind; 0: not at all, and
    `decode` inverts `encode` for every number."""
    resolution: float | Floats = 0.0
    """Spreads up to this size, in the data's unit, count as constant; [D] or one for all."""

    def __post_init__(self) -> None:
        check_kind("normalisation", self.kind, Normalisation)
        if self.clip is not None and not self.clip >= 0:
            raise ValueError(
                f"clip {self.clip}: a bound above 0, or 0 to cut nothing; without one, the range of the data"
            )
        if np.any(np.asarray(self.resolution) < 0):
            raise ValueError(f"resolution {self.resolution}: a spread of at least 0")

    @classmethod
    def fit(
        cls,
        values: NDArray[Any],
        kind: Normalisation = "q01_q99",
        *,
        mask: NDArray[np.bool_] | None = None,
        per_step: bool = False,
        clip: float | None = None,
        resolution: float | Floats = 0.0,
    ) -> Normaliser:
        """From values [..., D]; with `per_step` from [..., H, D], each step by its own statistics (GR00T N1.7's relative
        actions). mask bool [...] is False where a row is unknown; NaN are left out. Raises ValueError as `Statistics.of`."""
        return cls(Statistics.of(values, mask, per_step=per_step), kind, clip, resolution)

    @property
    def per_step(self) -> bool:
        """Whether each step of a chunk has statistics of its own."""
        return self.statistics.count.ndim == 2

    @property
    def horizon(self) -> int | None:
        """Steps of the chunks it was fitted on; None if it is not per step."""
        return self.statistics.count.shape[0] if self.per_step else None

    @property
    def dim(self) -> int:
        """Dimensions, D."""
        return self.statistics.count.shape[-1]

    @cached_property
    def still(self) -> NDArray[np.bool_]:
        """bool [D] or [H, D]: True where the fitted values do not move, so that normalised values are 0."""
        if self.kind == "none":
            return np.zeros(self.statistics.count.shape, np.bool_)
        return self.statistics.max - self.statistics.min <= self._floor

    @property
    def constant(self) -> tuple[int, ...]:
        """Dimensions that do not move at any step: the policy learns nothing of them, and they decode to their constant."""
        everywhere = self.still.all(0) if self.per_step else self.still
        return tuple(int(dim) for dim in np.flatnonzero(everywhere))

    @cached_property
    def offset(self) -> Floats:
        """float64 [D] or [H, D]: what is mapped to 0."""
        s = self.statistics
        centre = {"min_max": (s.min + s.max) / 2, "mean_std": s.mean, "q01_q99": (s.q01 + s.q99) / 2}
        # the centre of a constant is the constant itself, its mean only nearly
        return np.where(self.still, (s.min + s.max) / 2, centre.get(self.kind, np.zeros_like(s.min)))

    @cached_property
    def scale(self) -> Floats:
        """float64 [D] or [H, D]: what is mapped to 1 above the offset; 0 where nothing moves."""
        s = self.statistics
        span = {"min_max": (s.max - s.min) / 2, "mean_std": s.std, "q01_q99": (s.q99 - s.q01) / 2}
        scale = span.get(self.kind, np.ones_like(s.min))
        departure = np.maximum(s.max - self.offset, self.offset - s.min)
        return np.where(self.still, 0.0, np.where(self._rare, departure, scale))

    @cached_property
    def bounds(self) -> tuple[Floats, Floats]:
        """Least and largest normalised value, each float64 [D] or [H, D]."""
        if self.clip is not None or self.kind == "none":
            edge = np.full(self.statistics.min.shape, self.clip or np.inf)
            return -edge, edge
        low, high = self._range
        return self._scaled(low), self._scaled(high)

    def outside(self, values: NDArray[Any], mask: NDArray[np.bool_]) -> Floats:
        """float64 [D]: share of the known values [..., D] that lie beyond the range that it was fitted on."""
        low, high = self._range
        known = mask[..., None] & np.isfinite(values)
        beyond = (values < low - self._floor) | (values > high + self._floor)
        axes = tuple(range(values.ndim - 1))
        return (known & beyond).sum(axes) / np.maximum(1, known.sum(axes))

    def encode(self, values: NDArray[Any]) -> Floats:
        """Normalised [..., D] (or [..., H, D]), float64; NaN stays NaN. Raises ValueError for another D or H."""
        self._check(values)
        return np.clip(self._scaled(values), *self.bounds)

    def decode(self, normalised: NDArray[Any]) -> Floats:
        """The inverse of `encode` within the bounds: float64 [..., D] (or [..., H, D])."""
        self._check(normalised)
        return self.offset + self.scale * np.clip(normalised.astype(np.float64), *self.bounds)

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; `from_json` restores the same bits."""
        resolution = np.asarray(self.resolution, np.float64).tolist()
        return {"kind": self.kind, "clip": self.clip, "resolution": resolution, "statistics": self.statistics.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Normaliser:
        """Inverse of `to_json`. Raises ValueError for what is missing or wrong."""
        if missing := [name for name in ("kind", "clip", "resolution", "statistics") if name not in values]:
            raise ValueError(
                f"normaliser without {', '.join(missing)}: the file was not written by this version of giza"
            )
        resolution = np.asarray(values["resolution"], np.float64)
        return cls(
            Statistics.from_json(values["statistics"]),
            values["kind"],
            values["clip"],
            resolution if resolution.ndim else float(resolution),
        )

    @property
    def _range(self) -> tuple[Floats, Floats]:
        """The fitted data's, as the kind takes it."""
        s = self.statistics
        inner = np.full(s.min.shape, self.kind == "q01_q99") & ~self._rare
        return np.where(inner, s.q01, s.min), np.where(inner, s.q99, s.max)

    @property
    def _floor(self) -> Floats:
        largest = np.maximum(np.abs(self.statistics.min), np.abs(self.statistics.max))
        return np.maximum(_FLOAT32_STEPS * float(np.finfo(np.float32).eps) * largest, self.resolution)

    @cached_property
    def _rare(self) -> NDArray[np.bool_]:
        """Where most of the motion lies beyond q01 and q99: scaled by its largest departure."""
        s = self.statistics
        if self.kind != "q01_q99":
            return np.zeros(s.count.shape, np.bool_)
        within = np.square((s.q99 - s.q01) / 2)
        mean_square = np.square(s.std) + np.square(s.mean - self.offset)
        return ~self.still & ((s.q99 - s.q01 <= self._floor) | (mean_square > _RARE * within))

    def _scaled(self, values: NDArray[Any]) -> Floats:
        moves = self.scale > 0
        return (values - self.offset) / np.where(moves, self.scale, 1.0) * moves

    def _check(self, values: NDArray[Any]) -> None:
        shape = self.statistics.count.shape
        if values.shape[-len(shape) :] != shape:
            wanted = f"[..., {', '.join(str(size) for size in shape)}]"
            raise ValueError(
                f"values of shape {list(values.shape)}: this normaliser was fitted on {wanted}"
                + ("; statistics per step hold for that horizon alone, fit again for another" if self.per_step else "")
            )
