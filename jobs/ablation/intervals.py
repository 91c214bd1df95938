"""Intervals of successes, and of paired differences of them, over the seeds, tasks and starts of an ablation.

In the design **joint** all arms and seeds play the same starts, so that a difference is taken start by start and seed by
seed before anything is resampled. The bootstrap has two levels, crossed rather than nested (the pigeonhole bootstrap of
Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007): seeds are resampled, and starts are resampled within
each task, jointly for all seeds and for both arms. Tasks are not resampled: they are what was asked about, not a sample of
tasks. Of n seeds or starts n - 1 are drawn (Rao and Wu 1988), because n of n understate the variance of a mean by (n -
1) / n, a third with 3 seeds. The crossed bootstrap counts the noise of single rollouts more than once, which makes it
wide where seeds hardly differ; where seeds differ more than anything else, an interval from 3 of them is too narrow.

In the design **transfer** a seed is a replicate in which everything varies: starts are nested in it. The mean of a
replicate is then one independent measurement, with the noise of its starts in it, and the interval is Student's t over
replicates ("Student", "The probable error of a mean", Biometrika 1908), tasks fixed. A bootstrap over replicates and
tasks, crossed as above, tells how much wider it would be were the tasks a sample too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtr

from jobs.ablation.power import CONFIDENCE, critical, detectable
from jobs.evaluation.statistics import wilson

Grid = NDArray[np.float64]
"""Successes of one run [tasks, starts], 0 or 1, or differences of two; of an arm's full seeds [seeds, tasks, starts]."""
Design = Literal["joint", "transfer"]
Over = Literal["seeds and starts", "replicates", "starts", "nothing"]
TAILS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, tasks and starts with its interval; shares of 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """What some seeds say of an arm, or of a difference between two."""

    over: Over
    """What the interval is over; with one seed starts alone."""
    overall: Estimate | None
    """None without a seed."""
    wide: Estimate | None
    """Over replicates and tasks, in the design transfer, with two or more of both."""
    tasks: dict[str, Estimate | None]
    p: float | None
    """Two-sided, of the mean being 0, by the same method as the interval."""
    detectable: float | None
    """The lift that such a run would show in 80% of cases."""
    spread: float | None
    """Standard deviation of replicates by which it is; None where it is over none, or they tell no spread."""


@dataclass(frozen=True)
class Method:
    """How seeds are made into intervals; the same for all arms and differences of an ablation."""

    design: Design
    tasks: tuple[str, ...]
    draws: int
    seed: int
    """Of the bootstrap: the same number of seeds, tasks and starts draws the same resamples."""

    def measure(self, grids: Sequence[Grid], *, least: float) -> Measured:
        """Of one grid a seed, whose values lie between `least` and 1."""
        if not grids:
            return Measured("nothing", None, None, dict.fromkeys(self.tasks), None, None, None)
        values = np.stack(grids)
        if self.design == "transfer" and len(values) > 1:
            return self._nested(values, least)
        means = resampled(values, self.draws, self.seed)
        overall, p, reach = _crossed(values, means.mean(1), least)
        by_task: dict[str, Estimate | None] = {
            task: _crossed(values[:, [k]], means[:, k], least)[0] for k, task in enumerate(self.tasks)
        }
        return Measured("seeds and starts" if len(values) > 1 else "starts", overall, None, by_task, p, reach, None)

    def _nested(self, values: Grid, least: float) -> Measured:
        overall, p, reach = student(values, least)
        by_task: dict[str, Estimate | None] = {
            task: student(values[:, [k]], least)[0] for k, task in enumerate(self.tasks)
        }
        spread = None if _silent(values) else math.sqrt(len(values)) * reach / detectable(1.0, len(values) - 1)
        return Measured("replicates", overall, self._wide(values), by_task, p, reach, spread)

    def _wide(self, values: Grid) -> Estimate | None:
        replicates, tasks, _ = values.shape
        if tasks < 2 or _silent(values):
            return None
        by_replicate, by_task = _weights(replicates, 1, tasks, self.draws, self.seed)
        drawn = np.einsum("dr,rt,dt->d", by_replicate, values.mean(2), by_task[:, 0])
        low, high = np.percentile(drawn, TAILS)
        return Estimate(float(values.mean()), float(low), float(high))


def student(values: Grid, least: float) -> tuple[Estimate, float, float]:
    """The mean of replicates [replicates, tasks, starts] with Student's t interval, the two-sided p of 0, and the lift
    that is detectable.

    Where all replicates come out alike to the last rollout, the noise of their starts stands for their spread.
    """
    if _silent(values):
        return _unseen(values, least)
    means = values.mean((1, 2))
    value, degrees = float(means.mean()), len(means) - 1
    error = float(means.std(ddof=1)) / math.sqrt(len(means))
    if error < 1e-9:
        error = math.sqrt(values.var((0, 2), ddof=1).mean() / values.size)
    reach = critical(degrees) * error
    p = 2 * float(stdtr(degrees, -abs(value) / error))
    return Estimate(value, max(least, value - reach), min(1.0, value + reach)), p, detectable(error, degrees)


def resampled(values: Grid, draws: int, seed: int) -> NDArray[np.float64]:
    """Means of each task, float64 [draws, tasks], in `draws` resamples of values [seeds, tasks, starts].

    One resample draws seeds, and within each task starts, which are the same for all seeds.
    """
    seeds, tasks, starts = values.shape
    by_seed, by_start = _weights(seeds, tasks, starts, draws, seed)
    mixed = (by_seed @ values.reshape(seeds, -1)).reshape(draws, tasks, starts)
    return np.einsum("dts,dts->dt", mixed, by_start)


@functools.lru_cache(maxsize=8)
def _weights(
    seeds: int, tasks: int, starts: int, draws: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[draws, seeds] and [draws, tasks, starts]; kept, since all arms and comparisons take the same."""
    rng = np.random.default_rng(seed)
    return _drawn(rng, seeds, (draws,)), _drawn(rng, starts, (draws, tasks))


def _drawn(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Weights [*shape, count] that sum to 1: count - 1 of `count` drawn with replacement, the one there is if it is
    one."""
    drawn = max(1, count - 1)
    return rng.multinomial(drawn, np.full(count, 1 / count), size=shape) / drawn


def _crossed(values: Grid, means: NDArray[np.float64], least: float) -> tuple[Estimate, float, float]:
    """Percentiles of the bootstrap's `means`, the two-sided p of 0, and the lift that is detectable."""
    if _silent(values):
        return _unseen(values, least)
    low, high = np.percentile(means, TAILS)
    beyond = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p = min(1.0, 2 * (beyond + 1) / (len(means) + 1))
    return Estimate(float(values.mean()), float(low), float(high)), p, detectable(float(means.std()), None)


def _silent(values: Grid) -> bool:
    """Whether each task came out alike in all its starts and seeds: the values then tell no spread."""
    return bool(np.all(np.ptp(values, axis=(0, 2)) == 0))


def _unseen(values: Grid, least: float) -> tuple[Estimate, float, float]:
    """Where values tell no spread, what was not seen in so many starts is bounded by Wilson's interval: a share of the
    starts may have come out otherwise. p is the sign test's over starts, which are the fewest independent trials."""
    value, first = float(values.mean()), values[0]
    others = wilson(0, first.size).high
    most = others if least == 0 or value == 0 else 2 * others  # a difference of 1 may turn into -1
    signs = sorted((int((first > 0).sum()), int((first < 0).sum())))
    p = min(1.0, 2 * float(bdtr(signs[0], sum(signs), 0.5))) if sum(signs) else 1.0
    reach = detectable(most / critical(None), None)
    return Estimate(value, max(least, value - most), min(1.0, value + most)), p, reach
