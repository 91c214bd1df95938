"""What an ablation shows: success of each arm, paired differences between arms, and the verdict in words.

All arms and seeds play the same starts, so that a difference is taken start by start and seed by seed before anything is
resampled. The bootstrap has two levels, crossed rather than nested (the pigeonhole bootstrap of Owen, "The pigeonhole
bootstrap", Annals of Applied Statistics 2007): seeds are resampled, and starts are resampled within each task, jointly
for all seeds and for both arms. Tasks are not resampled: they are what was asked about, not a sample of tasks.
Of n seeds or starts n - 1 are drawn (Rao and Wu 1988), because n of n understate the variance of a mean by (n - 1) / n,
a third with 3 seeds. The crossed bootstrap counts the noise of single rollouts more than once, which makes it wide where
seeds hardly differ; where seeds differ more than anything else, an interval from 3 of them is too narrow.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jobs.evaluation.statistics import wilson

REFERENCES = ("robot-only", "bc")
"""What each arm is compared with, where they are among the arms."""
CONTROL = "shuffled"
CONTROLLED = "human-latent"
"""Its latents must beat those of the control, or it is not the latents that help."""
CONFIDENCE = 0.95

Shown = Literal["lifts", "lowers", "no difference shown", "cannot tell"]
Over = Literal["seeds and starts", "starts", "nothing"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, tasks and starts with its interval; shares of 1, all None without a full seed."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, float | None]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Success:
    """Success of one arm at one number of demonstrations."""

    arm: str
    demos: int
    seeds: tuple[int, ...]
    """Those with a full run: every start of every task."""
    without: dict[int, str]
    """Planned seeds that are left out, and why."""
    by_seed: dict[int, float]
    """Mean over tasks and starts of each full seed."""
    over: Over
    """What the interval is over; with one seed starts alone."""
    overall: Estimate
    tasks: dict[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        keyed = {name: {str(k): v for k, v in getattr(self, name).items()} for name in ("without", "by_seed")}
        return {**dataclasses.asdict(self), **keyed}


@dataclass(frozen=True)
class Comparison:
    """`arm` minus `reference` at one number of demonstrations, on the seeds that both have in full."""

    arm: str
    reference: str
    demos: int
    seeds: tuple[int, ...]
    without: tuple[int, ...]
    """Planned seeds that one of the two lacks."""
    over: Over
    overall: Estimate
    tasks: dict[str, Estimate]
    p: float | None
    """Two-sided, from the same bootstrap."""
    shown: Shown
    p_holm: float | None = None
    """Corrected for all comparisons with this reference (Holm 1979)."""
    compared: int = 1
    """Number of comparisons that it was corrected for."""

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "verdict": verdict(self)}


@dataclass(frozen=True)
class Statistics:
    """All that the runs show."""

    success: list[Success]
    comparisons: list[Comparison]
    """With each reference in turn, then with the control."""
    headline: str
    draws: int

    def of(self, arm: str, demos: int) -> Success:
        """Raises KeyError for a cell that was not planned."""
        for cell in self.success:
            if (cell.arm, cell.demos) == (arm, demos):
                return cell
        raise KeyError(f"{arm} at {demos} demonstrations")

    def to_json(self) -> dict[str, Any]:
        return {
            "headline": self.headline,
            "success": [cell.to_json() for cell in self.success],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "draws": self.draws,
        }


def summarise(result: Mapping[str, Any], *, draws: int = 10_000, seed: int = 0) -> Statistics:
    """Statistics of an ablation's result (`arms`, `runs`, `settings` with tasks, demos, seeds and starts).

    The same seed and number of seeds, tasks and starts draw the same resamples, for all arms and comparisons.
    Raises ValueError where two runs claim the same arm, demonstrations and seed.
    """
    settings = result["settings"]
    tasks = tuple(settings["tasks"])
    grids = _Grids(result["runs"], tasks, settings["starts"], tuple(settings["seeds"]))
    arms = [arm["name"] for arm in result["arms"]]
    success = []
    for demos in settings["demos"]:
        for arm in arms:
            full, without = grids.of(arm, demos)
            overall, by_task, _ = _estimate(_stack(full, full), tasks, draws, seed, least=0.0)
            by_seed = {number: float(grid.mean()) for number, grid in full.items()}
            success.append(Success(arm, demos, tuple(full), without, by_seed, _over(full), overall, by_task))
    comparisons = []
    for arm, reference in _pairs(arms):
        for demos in settings["demos"]:
            ours, theirs = grids.of(arm, demos)[0], grids.of(reference, demos)[0]
            both = [number for number in settings["seeds"] if number in ours and number in theirs]
            differences = _stack(ours, both) - _stack(theirs, both)
            overall, by_task, p = _estimate(differences, tasks, draws, seed, least=-1.0)
            lacking = tuple(number for number in settings["seeds"] if number not in both)
            comparisons.append(
                Comparison(
                    arm, reference, demos, tuple(both), lacking, _over(both), overall, by_task, p, _shown(overall)
                )
            )
    comparisons = _corrected(comparisons)
    return Statistics(success, comparisons, headline(comparisons), draws)


def _pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    """(arm, reference): a pair of references once, in the order of REFERENCES; then the control."""
    pairs = []
    for position, reference in enumerate(REFERENCES):
        if reference in arms:
            pairs += [(arm, reference) for arm in arms if arm not in REFERENCES[: position + 1]]
    if CONTROL in arms and CONTROLLED in arms:
        pairs.append((CONTROLLED, CONTROL))
    return pairs


class _Grids:
    """Successes of each run by task and start, where the run is full."""

    def __init__(
        self, runs: Sequence[Mapping[str, Any]], tasks: tuple[str, ...], starts: int, seeds: tuple[int, ...]
    ) -> None:
        self.tasks, self.starts, self.seeds = tasks, starts, seeds
        self.runs: dict[tuple[str, int, int], Mapping[str, Any]] = {}
        for run in runs:
            key = (run["arm"], run["demos"], run["seed"])
            if key in self.runs:
                raise ValueError(
                    f"two runs of arm '{key[0]}', {key[1]} demonstrations, seed {key[2]}: keep one of them"
                )
            self.runs[key] = run

    def of(self, arm: str, demos: int) -> tuple[dict[int, NDArray[np.float64]], dict[int, str]]:
        """Full seeds -> successes [tasks, starts]; the other planned seeds -> why they are left out."""
        full, without = {}, {}
        for seed in self.seeds:
            grid = self._grid(self.runs.get((arm, demos, seed)))
            if isinstance(grid, str):
                without[seed] = grid
            else:
                full[seed] = grid
        return full, without

    def _grid(self, run: Mapping[str, Any] | None) -> NDArray[np.float64] | str:
        if run is None or run["status"] == "missing":
            return "not run"
        if run["status"] != "done":
            return f"failed: {run.get('error') or 'no reason given'}"
        grid = np.full((len(self.tasks), self.starts), np.nan)
        for rollout in run["rollouts"]:
            task, start = rollout["task"], rollout["start"]
            if task not in self.tasks or not 0 <= start < self.starts:
                return f"played a start that is not planned: {task} {start}"
            place = (self.tasks.index(task), start)
            if not np.isnan(grid[place]):
                return f"played a start twice: {task} {start}"
            grid[place] = float(rollout["success"])
        lacking = int(np.isnan(grid).sum())
        return f"{lacking} of {grid.size} rollouts are missing" if lacking else grid


def _stack(grids: Mapping[int, NDArray[np.float64]], seeds: Sequence[int] | Mapping[int, Any]) -> NDArray[np.float64]:
    return np.stack([grids[seed] for seed in seeds]) if len(seeds) else np.empty((0, 0, 0))


def _over(seeds: Sequence[int] | Mapping[int, Any]) -> Over:
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
    """Weights [*shape, count] that sum to 1: count - 1 of `count` drawn with replacement, the one there is if it is one."""
    drawn = max(1, count - 1)
    return rng.multinomial(drawn, np.full(count, 1 / count), size=shape) / drawn


def _estimate(
    values: NDArray[np.float64], tasks: Sequence[str], draws: int, seed: int, *, least: float
) -> tuple[Estimate, dict[str, Estimate], float | None]:
    """Over all tasks, of each task, and the two-sided p of no difference; of values [seeds, tasks, starts]."""
    if not values.size:
        return Estimate(None), {task: Estimate(None) for task in tasks}, None
    means = resampled(values, draws, seed)
    overall = means.mean(1)
    by_task = {task: _interval(values[:, k], means[:, k], least) for k, task in enumerate(tasks)}
    estimate = _interval(values, overall, least)
    beyond = min(np.count_nonzero(overall <= 0), np.count_nonzero(overall >= 0))
    p = min(1.0, 2 * (beyond + 1) / (draws + 1))
    if _alike(values):  # all resamples are; the sign test over starts, which are the fewest independent trials
        p = 1.0 if estimate.value == 0 else min(1.0, 2 * 0.5 ** math.prod(values.shape[1:]))
    return estimate, by_task, p


def _interval(values: NDArray[np.float64], means: NDArray[np.float64], least: float) -> Estimate:
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


def _alike(values: NDArray[np.float64]) -> bool:
    return bool(np.all(values == values.flat[0]))


def _shown(estimate: Estimate) -> Shown:
    if estimate.low is None or estimate.high is None:
        return "cannot tell"
    return "lifts" if estimate.low > 0 else "lowers" if estimate.high < 0 else "no difference shown"


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


def points(value: float, sign: str = "") -> str:
    """A share in points; with a decimal where it would be rounded to 0."""
    whole = 100 * value
    digits = 1 if round(whole) == 0 and abs(whole) >= 0.05 else 0
    return f"{round(whole, digits) + 0.0:{sign}.{digits}f}"


def percent(estimate: Estimate) -> str:
    """`62% [51, 73]`; a dash without a full seed."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{points(estimate.value)}% [{points(estimate.low)}, {points(estimate.high)}]"


def in_points(estimate: Estimate) -> str:
    """`+12 [3, 21]`, of a difference; a dash without a full seed."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{points(estimate.value, '+')} [{points(estimate.low)}, {points(estimate.high)}]"


def at(*demos: int) -> str:
    """`at 1 demonstration`, `at 1 and 3 demonstrations`."""
    return f"at {' and '.join(map(str, demos))} demonstration{'' if demos == (1,) else 's'}"


def verdict(comparison: Comparison, *, brief: bool = False) -> str:
    """One comparison in words; what limits it is said with it. `brief`: the reference is named elsewhere."""
    found, reference = comparison.overall, comparison.reference
    where = f" {at(comparison.demos)}"
    against = where if brief else f" against {reference}{where}"
    if found.value is None or found.low is None or found.high is None:
        return f"{comparison.arm}{against}: cannot tell, no seed ran to its end in both"
    if comparison.shown == "no difference shown":
        span = f"{points(found.value, '+')} points [{points(found.low)}, {points(found.high)}]"
        text = f"{comparison.arm}{against}: no difference shown ({span})"
    else:
        low, high = sorted((abs(found.low), abs(found.high)))
        size = f"{points(abs(found.value))} points [{points(low)}, {points(high)}]"
        other = "" if brief else f" {'over' if comparison.shown == 'lifts' else 'below'} {reference}"
        text = f"{comparison.arm} {comparison.shown} success by {size}{other}{where}"
    limits = []
    if comparison.shown != "no difference shown" and comparison.p_holm is not None and comparison.p_holm > 0.05:
        limits.append(f"not significant once all {comparison.compared} comparisons are counted")
    if comparison.over == "starts":
        limits.append("one seed, so the interval is over starts alone")
    if comparison.without:
        limits.append(f"on {seeds_in_words(comparison.seeds)} alone, which both have")
    return text + "".join(f"; {limit}" for limit in limits)


def seeds_in_words(seeds: Sequence[int]) -> str:
    """`seed 1`, `seeds 0, 2`."""
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


def headline(comparisons: Sequence[Comparison]) -> str:
    """The ablation in one sentence: which arms lift success over every reference, by intervals."""
    tested = [c for c in comparisons if c.arm not in (*REFERENCES, CONTROL) and c.reference in REFERENCES]
    known = [c for c in tested if c.shown != "cannot tell"]
    if not known:
        return "Cannot tell: no arm can be compared with a reference"
    references = list(dict.fromkeys(c.reference for c in tested))
    against = " and ".join(references)
    lifting: dict[str, list[int]] = {}
    for arm, demos in dict.fromkeys((c.arm, c.demos) for c in known):
        cell = [c for c in tested if (c.arm, c.demos) == (arm, demos)]
        if all(c.shown == "lifts" for c in cell):
            lifting.setdefault(arm, []).append(demos)
    if lifting:
        together: dict[tuple[int, ...], list[str]] = {}
        for arm, counts in lifting.items():
            together.setdefault(tuple(counts), []).append(arm)
        said = [f"{' and '.join(names)} {at(*counts)}" for counts, names in together.items()]
        return f"Success is lifted over {against} by {', by '.join(said)}"
    if any(c.shown == "lifts" for c in known):
        return f"No arm lifts success over {against} alike"
    return f"No lift of success over {against} shown"
