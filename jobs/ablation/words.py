"""How figures of an ablation are written: shares, points, demonstrations, seeds."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.ablation.intervals import Estimate


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


def joined(names: Sequence[str | int]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = map(str, names)
    return f"{', '.join(most)} and {last}" if most else last


def at(*demos: int) -> str:
    """`at 1 demonstration`, `at 0, 1 and 3 demonstrations`."""
    return f"at {joined(demos)} demonstration{'' if demos == (1,) else 's'}"


def seeds_in_words(seeds: Sequence[int]) -> str:
    """`seed 1`, `seeds 0, 2`."""
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


def span(estimate: Estimate) -> str:
    """`+3 points [-5, 12]`."""
    return f"{points(estimate.value, '+')} points [{points(estimate.low)}, {points(estimate.high)}]"


def size(estimate: Estimate) -> str:
    """`3 points [1, 12]` of a difference with an interval without zero, whichever its sign."""
    low, high = sorted((abs(estimate.low), abs(estimate.high)))
    return f"{points(abs(estimate.value))} points [{points(low)}, {points(high)}]"
