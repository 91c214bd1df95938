"""Intervals of what was measured: Wilson's for shares, the bootstrap's for means over groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Share:
    """Successes out of trials, with Wilson's interval."""

    successes: int
    trials: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """NaN without trials."""
        return self.successes / self.trials if self.trials else math.nan

    def __str__(self) -> str:
        """`95% [76, 99]`; a dash without trials."""
        if not self.trials:
            return "-"
        return f"{100 * self.rate:.0f}% [{100 * self.low:.0f}, {100 * self.high:.0f}]"

    def to_json(self) -> dict[str, Any]:
        return {
            "successes": self.successes,
            "trials": self.trials,
            "rate": self.rate if self.trials else None,
            "wilson95": [self.low, self.high],
        }


def wilson(successes: int, trials: int) -> Share:
    """Wilson's 95% score interval (1927) of a share; without trials it is [0, 1].

    Raises ValueError unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials: successes must be within 0 and trials")
    if trials == 0:
        return Share(0, 0, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + 0.95 / 2)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # at 0 and 1 the bound is exact; rounding may miss it
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Share(successes, trials, low, high)


@dataclass(frozen=True)
class Interval:
    """An estimate and its bootstrap percentile interval; each float64 [...], the shape of one statistic."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Interval:
        value, (low, high) = (found[name] for name in ("value", "bootstrap95"))
        return cls(*(np.asarray(each, np.float64) for each in (value, low, high)))  # null reads as NaN

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value.tolist(), "bootstrap95": [self.low.tolist(), self.high.tolist()]}


def resamples(groups: int, draws: int, seed: int) -> NDArray[np.float64]:
    """float64 [draws, groups]: how often each group occurs in each of `draws` resamples with replacement."""
    if groups < 1 or draws < 1:
        raise ValueError(f"{groups} groups, {draws} draws: both must be at least 1")
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(np.float64)


def bootstrap_ratio(top: NDArray[np.float64], bottom: NDArray[np.float64], weights: NDArray[np.float64]) -> Interval:
    """Ratio of sums over groups, top [G, ...] to bottom [G, ...], with the 95% percentile interval from resampling groups
    (Efron 1979) by the `weights` [draws, G] of `resamples`: the steps of one episode are not independent, episodes are.

    Of one group there is no interval: NaN. The same seed and number of groups draw the same resamples, so that two methods
    are compared on the same ones.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.tensordot(weights, top, 1) / np.tensordot(weights, bottom, 1)
        value = top.sum(0) / bottom.sum(0)
    if len(top) < 2:  # drawn again and again it is always itself, as if it were known exactly
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return Interval(value, low, high)
