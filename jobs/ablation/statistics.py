"""Success of each arm and paired differences between arms, with intervals from a bootstrap.

All arms and seeds play the same starts, so that a difference is taken start by start and seed by seed before anything
is resampled. The bootstrap has two levels, crossed rather than nested (the pigeonhole bootstrap of Owen, "The
pigeonhole bootstrap", Annals of Applied Statistics 2007): seeds are resampled, and starts are resampled within each
task, jointly for all seeds and for both arms. Tasks are not resampled: they are what was asked about, not a sample of
tasks. Of n seeds or starts n - 1 are drawn (Rao and Wu 1988), because n of n understate the variance of a mean by (n -
1) / n, a third with 3 seeds. The crossed bootstrap counts the noise of single rollouts more than once, which makes it
wide where seeds hardly differ; where seeds differ more than anything else, an interval from 3 of them is too narrow.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.ablation.findings import (
    CONFIDENCE,
    CONTROL,
    CONTROLLED,
    REFERENCES,
    Comparison,
    Estimate,
    Over,
    Statistics,
    Success,
)
from jobs.evaluation.statistics import wilson

Grid = NDArray[np.float64]
"""Successes of one run [tasks, starts], 0 or 1; of an arm's full seeds [seeds, tasks, starts]."""


def summarise(result: Mapping[str, Any], *, draws: int = 10_000, seed: int = 0) -> Statistics:
    """Statistics of an ablation's result (`arms`, `runs`, `settings` with tasks, demos, seeds and starts).

    The same seed and number of seeds, tasks and starts draw the same resamples, for all arms and comparisons.
    Raises ValueError where two runs claim the same arm, demonstrations and seed.
    """
    settings = result["settings"]
    tasks, seeds = tuple(settings["tasks"]), tuple(settings["seeds"])
    arms = [arm["name"] for arm in result["arms"]]
    runs: dict[tuple[str, int, int], Mapping[str, Any]] = {}
    for run in result["runs"]:
        key = (run["arm"], run["demos"], run["seed"])
        if key in runs:
            raise ValueError(f"two runs of arm '{key[0]}', {key[1]} demonstrations, seed {key[2]}: keep one of them")
        runs[key] = run
    full: dict[tuple[str, int], dict[int, Grid]] = {}
    success = []
    for demos in settings["demos"]:
        for arm in arms:
            grids = {number: _grid(runs.get((arm, demos, number)), tasks, settings["starts"]) for number in seeds}
            mine = full[arm, demos] = {k: grid for k, grid in grids.items() if not isinstance(grid, str)}
            without = {k: why for k, why in grids.items() if isinstance(why, str)}
            overall, by_task, _ = _estimate(list(mine.values()), tasks, draws, seed, least=0.0)
            by_seed = {number: float(grid.mean()) for number, grid in mine.items()}
            success.append(Success(arm, demos, tuple(mine), without, by_seed, _over(mine), overall, by_task))
    comparisons = []
    for arm, reference in _pairs(arms):
        for demos in settings["demos"]:
            ours, theirs = full[arm, demos], full[reference, demos]
            both = tuple(number for number in seeds if number in ours and number in theirs)
            lacking = tuple(number for number in seeds if number not in both)
            found = _estimate([ours[k] - theirs[k] for k in both], tasks, draws, seed, least=-1.0)
            comparisons.append(Comparison(arm, reference, demos, both, lacking, _over(both), *found))
    return Statistics(success, _corrected(comparisons), draws)


def _pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    """(arm, reference): a pair of references once, in the order of REFERENCES; then the control."""
    pairs = []
    for position, reference in enumerate(REFERENCES):
        if reference in arms:
            pairs += [(arm, reference) for arm in arms if arm not in REFERENCES[: position + 1]]
    if CONTROL in arms and CONTROLLED in arms:
        pairs.append((CONTROLLED, CONTROL))
    return pairs


def _grid(run: Mapping[str, Any] | None, tasks: Sequence[str], starts: int) -> Grid | str:
    """Successes of a full run, or why it is left out."""
    if run is None or run["status"] == "missing":
        return "not run"
    if run["status"] != "done":
        return f"failed: {run.get('error') or 'no reason given'}"
    grid = np.full((len(tasks), starts), np.nan)
    for rollout in run["rollouts"]:
        task, start = rollout["task"], rollout["start"]
        if task not in tasks or not 0 <= start < starts:
            return f"played a start that is not planned: {task} {start}"
        place = (tasks.index(task), start)
        if not np.isnan(grid[place]):
            return f"played a start twice: {task} {start}"
        grid[place] = float(rollout["success"])
    lacking = int(np.isnan(grid).sum())
    return f"{lacking} of {grid.size} rollouts are missing" if lacking else grid


def _over(seeds: Collection[int]) -> Over:
    return "seeds and starts" if len(seeds) > 1 else "starts" if len(seeds) else "nothing"


def resampled(values: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """Means of each task, float64 [draws, tasks], in `draws` resamples of values [seeds, tasks, starts].

    One resample draws seeds, and within each task starts, which are the same for all seeds.
    """
    seeds, tasks, starts = values.shape
    by_seed, by_start = _weights(seeds, tasks, starts, draws, seed)
    mixed = (by_seed @ values.reshape(seeds, -1)).reshape(draws, tasks, starts)
    return np.einsum("dts,dts->dt", mixed, by_start)


@functools.lru_cache(maxsize=4)
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


def _estimate(
    grids: Sequence[Grid], tasks: Sequence[str], draws: int, seed: int, *, least: float
) -> tuple[Estimate | None, dict[str, Estimate | None], float | None]:
    """Over all tasks, of each task, and the two-sided p of no difference; of one grid a seed."""
    if not grids:
        return None, dict.fromkeys(tasks), None
    values = np.stack(grids)
    means = resampled(values, draws, seed)
    overall = means.mean(1)
    by_task: dict[str, Estimate | None] = {
        task: _interval(values[:, k], means[:, k], least) for k, task in enumerate(tasks)
    }
    estimate = _interval(values, overall, least)
    beyond = min(np.count_nonzero(overall <= 0), np.count_nonzero(overall >= 0))
    p = min(1.0, 2 * (beyond + 1) / (draws + 1))
    if _alike(values):  # all resamples are; the sign test over starts, which are the fewest independent trials
        p = 1.0 if estimate.value == 0 else min(1.0, 2 * 0.5 ** math.prod(values.shape[1:]))
    return estimate, by_task, p


def _interval(values: Grid, means: Grid, least: float) -> Estimate:
    """Percentiles of the bootstrap; where all values are alike it would be a point, so what was not seen in so many
    starts is bounded by Wilson's interval: a share of the starts may have come out otherwise."""
    value = float(values.mean())
    if _alike(values):
        others = wilson(0, math.prod(values.shape[1:])).high
        most = others if least == 0 or value == 0 else 2 * others  # a difference of 1 may turn into -1
        return Estimate(value, max(least, value - most), min(1.0, value + most))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))


def _alike(values: Grid) -> bool:
    return bool(np.all(values == values.flat[0]))


def _corrected(comparisons: list[Comparison]) -> list[Comparison]:
    """With Holm's step-down p-values over all that could be compared with the same reference: one question each."""
    corrected = list(comparisons)
    for reference in {comparison.reference for comparison in comparisons}:
        family = [
            (comparison.p, place)
            for place, comparison in enumerate(comparisons)
            if comparison.reference == reference and comparison.p is not None
        ]
        reached = 0.0
        for rank, (p, place) in enumerate(sorted(family)):
            reached = max(reached, min(1.0, p * (len(family) - rank)))
            corrected[place] = dataclasses.replace(comparisons[place], p_holm=reached, compared=len(family))
    return corrected
