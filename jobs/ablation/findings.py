"""What an ablation found: success of each arm, paired differences between arms, and both in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
    """A mean over seeds, tasks and starts with its interval; shares of 1."""

    value: float
    low: float
    high: float


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
    overall: Estimate | None
    """None without a full seed."""
    tasks: dict[str, Estimate | None]

    def to_json(self) -> dict[str, Any]:
        keyed = {name: {str(k): v for k, v in getattr(self, name).items()} for name in ("without", "by_seed")}
        return {**dataclasses.asdict(self), **keyed, **_estimates(self)}


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
    overall: Estimate | None
    """None without a seed that both have."""
    tasks: dict[str, Estimate | None]
    p: float | None
    """Two-sided, from the same bootstrap."""
    p_holm: float | None = None
    """Corrected for all comparisons with this reference (Holm 1979)."""
    compared: int = 1
    """Number of comparisons that it was corrected for."""

    @property
    def shown(self) -> Shown:
        if self.overall is None:
            return "cannot tell"
        return "lifts" if self.overall.low > 0 else "lowers" if self.overall.high < 0 else "no difference shown"

    @property
    def survives(self) -> bool:
        """Shown to differ even once all comparisons with the reference are counted."""
        return self.shown in ("lifts", "lowers") and self.p_holm is not None and self.p_holm <= 1 - CONFIDENCE

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), **_estimates(self), "shown": self.shown, "verdict": verdict(self)}

    def __str__(self) -> str:
        return verdict(self)


def _estimates(of: Success | Comparison) -> dict[str, Any]:
    def record(estimate: Estimate | None) -> dict[str, float | None]:
        return dataclasses.asdict(estimate) if estimate else dict.fromkeys(("value", "low", "high"))

    return {"overall": record(of.overall), "tasks": {task: record(found) for task, found in of.tasks.items()}}


@dataclass(frozen=True)
class Statistics:
    """All that the runs show."""

    success: list[Success]
    comparisons: list[Comparison]
    """With each reference in turn, then with the control."""
    draws: int

    @property
    def headline(self) -> str:
        """The ablation in one sentence."""
        return headline(self.comparisons)

    def of(self, arm: str, demos: int) -> Success:
        """Raises KeyError for a cell that was not planned."""
        for cell in self.success:
            if (cell.arm, cell.demos) == (arm, demos):
                return cell
        raise KeyError(f"{arm} at {demos} demonstrations")

    def comparison(self, arm: str, reference: str, demos: int) -> Comparison:
        """Raises KeyError for two that were not compared."""
        for found in self.comparisons:
            if (found.arm, found.reference, found.demos) == (arm, reference, demos):
                return found
        raise KeyError(f"{arm} against {reference} at {demos} demonstrations")

    def to_json(self) -> dict[str, Any]:
        return {
            "headline": self.headline,
            "success": [cell.to_json() for cell in self.success],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "draws": self.draws,
        }


def points(value: float, sign: str = "") -> str:
    """A share in points; with a decimal where it would be rounded to 0."""
    whole = 100 * value
    digits = 1 if round(whole) == 0 and abs(whole) >= 0.05 else 0
    return f"{round(whole, digits) + 0.0:{sign}.{digits}f}"


def percent(estimate: Estimate | None) -> str:
    """`62% [51, 73]`; a dash without a full seed."""
    if estimate is None:
        return "-"
    return f"{points(estimate.value)}% [{points(estimate.low)}, {points(estimate.high)}]"


def in_points(estimate: Estimate | None) -> str:
    """`+12 [3, 21]`, of a difference; a dash without a full seed."""
    if estimate is None:
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
    if found is None:
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
    if comparison.shown != "no difference shown" and not comparison.survives:
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
