"""What an ablation found: success of each arm, paired differences between arms, and what they were asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jobs.ablation.arms import Role
from jobs.ablation.intervals import Design, Estimate, Measured, Over
from jobs.ablation.power import CONFIDENCE, replicates_needed
from jobs.ablation.roles import ArmRole
from jobs.ablation.words import at, joined, points, seeds_in_words, size, span

LIFT = 0.15
"""The lift looked for, where an ablation does not say."""

Shown = Literal["lifts", "lowers", "no difference shown", "too small to tell", "cannot tell"]
Question = Literal["lift", "control", "instrument", "beside"]
"""Does an arm beat the best baseline; does it beat its own control; do positive controls and the ceiling beat the best
baseline; how do controls and other baselines stand to it. Each is a family of Holm's."""


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
    rollouts: int
    """Of each full seed."""
    over: Over
    """What the interval is over; with one seed starts alone."""
    overall: Estimate | None
    """None without a full seed."""
    tasks: dict[str, Estimate | None]

    @property
    def won(self) -> list[int]:
        """Successes of each full seed."""
        return [round(share * self.rollouts) for share in self.by_seed.values()]

    def to_json(self) -> dict[str, Any]:
        keyed = {name: {str(k): v for k, v in getattr(self, name).items()} for name in ("without", "by_seed")}
        return {**dataclasses.asdict(self), **keyed, **_estimates(self)}


@dataclass(frozen=True)
class Comparison(Measured):
    """`arm` minus `reference` at one number of demonstrations, on the seeds that both have in full."""

    arm: str
    reference: str
    demos: int
    question: Question
    seeds: tuple[int, ...]
    without: tuple[int, ...]
    """Planned seeds that one of the two lacks."""
    lift: float
    """The one looked for."""
    p_holm: float | None = None
    """Corrected for all comparisons of the same question (Holm 1979)."""
    compared: int = 1
    """Number of comparisons that it was corrected for."""

    @property
    def shown(self) -> Shown:
        if self.overall is None:
            return "cannot tell"
        if self.overall.low > 0:
            return "lifts"
        if self.overall.high < 0:
            return "lowers"
        return "too small to tell" if self.overall.high >= self.lift else "no difference shown"

    @property
    def survives(self) -> bool:
        """Shown to differ even once all comparisons of the same question are counted."""
        return self.shown in ("lifts", "lowers") and self.p_holm is not None and self.p_holm <= 1 - CONFIDENCE

    @property
    def needed(self) -> int | None:
        """Replicates by which the lift looked for would be detectable, if they spread as these; None where it is not
        known."""
        return None if self.spread is None else replicates_needed(self.spread, self.lift)

    def to_json(self) -> dict[str, Any]:
        told = {"shown": self.shown, "needed": self.needed, "verdict": verdict(self)}
        return {**dataclasses.asdict(self), **_estimates(self), **told}

    def __str__(self) -> str:
        return verdict(self)


def _record(estimate: Estimate | None) -> dict[str, float | None]:
    return dataclasses.asdict(estimate) if estimate else dict.fromkeys(("value", "low", "high"))


def _estimates(of: Success | Comparison) -> dict[str, Any]:
    return {"overall": _record(of.overall), "tasks": {task: _record(found) for task, found in of.tasks.items()}}


@dataclass(frozen=True)
class Statistics:
    """All that the runs show."""

    arms: tuple[ArmRole, ...]
    references: Mapping[int, str]
    """Number of demonstrations -> the best baseline, which arms are compared with."""
    success: list[Success]
    comparisons: list[Comparison]
    """At each number of demonstrations in turn: each arm with the best baseline, then with its controls."""
    design: Design
    lift: float
    """The one looked for."""
    draws: int

    @property
    def headline(self) -> str:
        """The ablation in one sentence."""
        return headline(self)

    def names(self, *roles: Role) -> list[str]:
        """Arms of these roles."""
        return [arm.name for arm in self.arms if arm.role in roles]

    def of(self, arm: str, demos: int) -> Success:
        """Raises KeyError for a cell that was not planned."""
        for cell in self.success:
            if (cell.arm, cell.demos) == (arm, demos):
                return cell
        raise KeyError(f"{arm} at {demos} demonstrations")

    def asked(self, question: Question, demos: int, arm: str | None = None) -> list[Comparison]:
        """Comparisons of this question, of one arm or of all."""
        mine = [c for c in self.comparisons if (c.question, c.demos) == (question, demos)]
        return [c for c in mine if arm in (None, c.arm)]

    def comparison(self, arm: str, reference: str | None, demos: int) -> Comparison:
        """`arm` minus `reference` (None: the best baseline). Raises KeyError for two that were not compared."""
        reference = reference or self.references.get(demos)
        for found in self.comparisons:
            if (found.arm, found.reference, found.demos) == (arm, reference, demos):
                return found
        raise KeyError(f"{arm} against {reference} at {demos} demonstrations")

    def planned(self, demos: int) -> list[str]:
        """Arms that are run with so many demonstrations."""
        return [cell.arm for cell in self.success if cell.demos == demos]

    def lacking(self, arm: str, demos: int) -> list[str]:
        """Controls of an arm that are not run with so many demonstrations."""
        names = self.planned(demos)
        return [control for mine in self.arms if mine.name == arm for control in mine.controls if control not in names]

    def told_from_controls(self, comparison: Comparison) -> bool:
        """Whether the arm beats all controls that it has, at this number of demonstrations."""
        controls = self.asked("control", comparison.demos, comparison.arm)
        return not self.lacking(comparison.arm, comparison.demos) and all(
            control.shown == "lifts" for control in controls
        )

    def shows_positives(self, demos: int) -> bool | None:
        """Whether the lift of any positive control is shown; None where none was run to its end."""
        positives = self.names("positive")
        known = [c for c in self.asked("instrument", demos) if c.arm in positives and c.shown != "cannot tell"]
        return any(c.shown == "lifts" for c in known) if known else None

    def to_json(self) -> dict[str, Any]:
        return {
            "headline": self.headline,
            "references": {str(demos): name for demos, name in self.references.items()},
            "success": [cell.to_json() for cell in self.success],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "draws": self.draws,
        }


def verdict(comparison: Comparison, *, brief: bool = False) -> str:
    """One comparison in words; what limits it is said with it. `brief`: the reference and the demonstrations are named
    elsewhere."""
    found, reference, shown = comparison.overall, comparison.reference, comparison.shown
    where = "" if brief else f" {at(comparison.demos)}"
    against = "" if brief else f" against {reference}{where}"
    if found is None:
        return f"{comparison.arm}{against}: cannot tell, no seed ran to its end in both"
    limits = _limits(comparison)
    if shown in ("lifts", "lowers"):
        other = "" if brief else f" {'over' if shown == 'lifts' else 'below'} {reference}"
        text = f"{comparison.arm} {shown} success by {size(found)}{other}{where}"
    else:
        text = f"{comparison.arm}{against}: {shown} ({span(found)})"
        ruled = "not ruled out" if shown == "too small to tell" else "ruled out"
        limits.insert(0, f"a lift of {points(comparison.lift)} is {ruled}")
    return text + "".join(f"; {limit}" for limit in limits)


def _limits(comparison: Comparison) -> list[str]:
    limits = []
    if comparison.shown in ("lifts", "lowers") and not comparison.survives:
        limits.append(f"not significant once all {comparison.compared} comparisons are counted")
    return limits + seeds_told(comparison)


def seeds_told(comparison: Comparison) -> list[str]:
    """What limits its seeds, in words."""
    limits = []
    if comparison.over == "starts":
        limits.append("one seed, so the interval is over starts alone")
    if comparison.without and comparison.seeds:
        limits.append(f"on {seeds_in_words(comparison.seeds)} alone, which both have")
    return limits


def headline(statistics: Statistics) -> str:
    """The ablation in one sentence: which arms lift success over the best baseline and their controls, by intervals."""
    counts = list(statistics.references)
    known = [c for demos in counts for c in statistics.asked("lift", demos) if c.shown != "cannot tell"]
    if not known:
        return "Cannot tell: no arm can be compared with a baseline"
    blind = [demos for demos in counts if statistics.shows_positives(demos) is False]
    seen = [c for c in known if c.demos not in blind]
    if not seen:
        positives = joined(statistics.names("positive"))
        return (
            f"This run shows nothing: a lift of {positives} over {_over(statistics, blind)} is not shown {at(*blind)}"
        )
    against = _over(statistics, [c.demos for c in seen])
    lifting = [c for c in seen if c.shown == "lifts"]
    told = [c for c in lifting if statistics.told_from_controls(c)]
    untold = [c for c in lifting if c not in told]
    small = [c for c in seen if c.shown == "too small to tell"]
    if told:
        text = f"Success is lifted over {against} by {_cells(told)}"
    elif untold:
        text = f"No lift of success over {against} and controls shown"
    elif small:
        of = "any arm" if len(small) == len(seen) else _cells(small)
        text = f"No lift of success over {against} shown; too small to tell of {of}"
    else:
        text = f"No lift of success over {against} shown, and {points(statistics.lift)} points are ruled out"
    weak = [c for c in told if not c.survives]
    if weak:
        which = "none" if len(weak) == len(told) > 1 else "it" if len(told) == 1 else _cells(weak)
        text += f"; {which} {'is' if which == 'none' else 'is not'} significant once all {told[0].compared} are counted"
    if untold:
        text += f"; {_cells(untold)} {'is' if len({c.arm for c in untold}) == 1 else 'are'} not told from controls"
    if blind:
        text += f"; {at(*blind)} this run shows nothing, not even the positive controls"
    return text


def _over(statistics: Statistics, counts: Sequence[int]) -> str:
    """The baseline that is the best at each of these numbers of demonstrations."""
    names = list(dict.fromkeys(statistics.references[demos] for demos in counts))
    alone = len(statistics.names("baseline")) == 1
    return names[0] if alone else "the best baseline" + (f" ({names[0]})" if len(names) == 1 else "")


def _cells(comparisons: Sequence[Comparison]) -> str:
    """`human-track and human-both at 1 demonstration, and human-flare at 3 demonstrations`."""
    counts: dict[str, list[int]] = {}
    for c in comparisons:
        counts.setdefault(c.arm, []).append(c.demos)
    together: dict[tuple[int, ...], list[str]] = {}
    for arm, found in counts.items():
        together.setdefault(tuple(found), []).append(arm)
    return ", and ".join(f"{joined(names)} {at(*found)}" for found, names in together.items())
