"""Several evaluations side by side: the same metric of each, with its interval, beside the baselines that each measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from corpora.store.told import listed
from jobs.evaluation.open_loop import BASELINES, STILL_TITLES, episodes_told
from jobs.evaluation.rollout_log import benchmark_told
from jobs.evaluation.tables import LANGUAGE
from jobs.evaluation.verdict import DOING

TEMPLATE = Path(__file__).with_name("compare.html.j2")
Records = Mapping[str, Mapping[str, Any]]
"""Name -> evaluation.json."""


@dataclass(frozen=True)
class Cell:
    """A number of one evaluation."""

    value: float | None
    low: float | None = None
    high: float | None = None
    told: str = ""
    """As people read it."""


@dataclass(frozen=True)
class Row:
    """A metric of all evaluations."""

    title: str
    kind: Literal["policy", "baseline", "ratio"]
    cells: Mapping[str, Cell]
    """Of the evaluations by name."""
    better: Literal["lower", "higher", ""] = ""
    """"": it is not the policies that it compares."""

    def standing(self, name: str) -> str:
        """ "best", "worse" than the best, or "not shown" where its interval meets the best's; "" where nothing can be said."""
        known = {each: cell for each, cell in self.cells.items() if cell.value is not None}
        if not self.better or len(known) < 2 or name not in known:
            return ""
        sign = 1 if self.better == "lower" else -1
        best = min(known, key=lambda each: sign * float(known[each].value or 0.0))
        mine, other = known[name], known[best]
        if mine.value == other.value:
            return "best"
        if None in (mine.low, mine.high, other.low, other.high):
            return ""
        assert mine.low is not None and mine.high is not None and other.low is not None and other.high is not None
        return "not shown" if mine.low <= other.high and other.low <= mine.high else "worse"


@dataclass(frozen=True)
class Part:
    """Open loop or closed loop."""

    title: str
    told: str
    """What was asked of all."""
    rows: Sequence[Row]

    @property
    def bars(self) -> list[tuple[str, str, float, tuple[float, float] | None, str, str, None]]:
        """For the page's macro: the first row of all, then the baselines, which are the same for all or nearly so, of the first."""
        first, *others = self.rows
        drawn = [(name, cell, "latent") for name, cell in first.cells.items()]
        drawn += [(row.title, next(iter(row.cells.values())), "shuffled") for row in others if row.kind == "baseline"]
        return [
            (
                title,
                "",
                cell.value,
                None if cell.low is None or cell.high is None else (cell.low, cell.high),
                colour,
                cell.told,
                None,
            )
            for title, cell, colour in drawn
            if cell.value is not None
        ]

    @property
    def scale(self) -> float:
        """Where the bars' axis ends."""
        highest = max((interval[1] if interval else value for _, _, value, interval, *_ in self.bars), default=1.0)
        return 1.0 if self.rows[0].better == "higher" else math.ceil(max(highest, 0.1) * 2.5) / 2.5

    @property
    def ticks(self) -> list[float]:
        """Whole tenths, which is what the page writes."""
        parts = 5 if self.scale == 1.0 else 4
        return [round(self.scale * k / parts, 1) for k in range(parts + 1)]


@dataclass(frozen=True)
class Evaluated:
    """One of the evaluations."""

    name: str
    policy: str
    fingerprint: str
    training: Mapping[str, Any]
    verdicts: Mapping[str, str]
    """Part -> headline."""


@dataclass(frozen=True)
class EvaluationComparison:
    """What is measured alike in all."""

    evaluations: Sequence[Evaluated]
    parts: Sequence[Part]
    notes: Sequence[str]


def compare_evaluations(records: Records) -> EvaluationComparison:
    """Raises ValueError for evaluations that were asked something else than the first, and where they share neither part."""
    if len(records) < 2:
        raise ValueError("one evaluation: give at least two to compare")
    parts, notes = [], []
    for key, make in _PARTS.items():
        having = [name for name, record in records.items() if key in record]
        if len(having) == len(records):
            found = {name: record[key] for name, record in records.items()}
            part, said = make(found, records)
            parts.append(part)
            notes += said
        elif having:
            notes.append(f"{key.replace('_', ' ').capitalize()}: only of {listed(having, 4)}, so it is left out.")
    if not parts:
        has = "; ".join(f"{name}: {' and '.join(key for key in _PARTS if key in one)}" for name, one in records.items())
        raise ValueError(
            f"the evaluations have no part in common ({has}): make them alike with giza evaluate --data, or --benchmark"
        )
    made = [
        Evaluated(
            name,
            str(record["policy"]),
            str(record["fingerprint"]),
            record.get("training", {}),
            {key: verdict["headline"] for key, verdict in record.get("verdict", {}).items()},
        )
        for name, record in records.items()
    ]
    return EvaluationComparison(made, parts, notes)


def _same(found: Records, facts: Mapping[str, Callable[[Mapping[str, Any]], Any]], remedy: str) -> None:
    """Raises ValueError where a fact of one is not the first's."""
    first, *others = found
    for name in others:
        for fact, of in facts.items():
            mine, its = of(found[name]), of(found[first])
            if mine != its:
                told = f" ({_short(mine)}, there {_short(its)})" if not isinstance(mine, dict) else ""
                raise ValueError(f"'{name}' was measured with another {fact} than '{first}'{told}: {remedy}")


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _open_loop(found: Records, records: Records) -> tuple[Part, list[str]]:
    facts: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "format": lambda one: one["settings"].get("open_loop_format"),
        "dataset": lambda one: one["settings"]["data_contents"],
        "set of episodes": lambda one: one.get("episode_numbers"),
        "--every": lambda one: one["settings"]["every"],
        "action": lambda one: one["dimensions"],
        "scale of the action (--train-episodes)": lambda one: {"std": one["std"]},
        "number of steps in a chunk": lambda one: len(one["normalised_squared_error_per_step"]["policy"]),
    }
    _same(found, facts, "evaluate both with the same --data, --episodes, --every and --train-episodes")
    one = next(iter(found.values()))
    methods = list(dict.fromkeys(method for each in found.values() for method in each["normalised_squared_error"]))

    def cells(key: str, method: str) -> dict[str, Cell]:
        return {name: _error(each[key].get(method), each["episodes"]) for name, each in found.items()}

    rows = [Row("policy", "policy", cells("normalised_squared_error", "policy"), "lower")]
    rows += [
        Row(BASELINES.get(method, method), "baseline", cells("normalised_squared_error", method))
        for method in methods
        if method != "policy"
    ]
    rows += [
        Row(f"policy / {DOING.get(method, method)}", "ratio", cells("policy_over_baseline", method))
        for method in methods
        if method != "policy"
    ]
    told = episodes_told(one["episodes"], "not known").partition(" (")[0]
    notes = []
    for name, each in found.items():
        if each["standing"] != "held out":
            notes.append(f"{name}, open loop: its policy has {episodes_told(each['episodes'], each['standing'])}.")
    if len({tuple(each["hold_still_is"]) for each in found.values()}) > 1:
        notes.append(f"Holding still is not the same in all ({', '.join(STILL_TITLES.values())}): see each evaluation.")
    title = "Open loop, on recorded episodes"
    asked = f"{one['settings']['data']}: {one['samples']} chunks of {told}; squared error / variance, lower is better"
    return Part(title, asked, rows), notes


def _closed_loop(found: Records, records: Records) -> tuple[Part, list[str]]:
    facts: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "format": lambda one: one["settings"].get("rollout_format"),
        "benchmark": lambda one: benchmark_told(one["settings"]),
        "set of tasks": lambda one: [task for task in one["success"] if task != "all"],
        "number of starts": lambda one: one["settings"]["starts"],
        "seed of the starts": lambda one: one["settings"]["seed"],
        "limit of steps": lambda one: one["settings"]["max_steps"],
        "camera": lambda one: one["settings"]["camera"],
    }
    _same(found, facts, "evaluate both with the same --benchmark, --tasks, --starts, --max-steps, --camera and --seed")
    one = next(iter(found.values()))
    tasks = list(one["success"])

    def shares(key: str, name: str) -> dict[str, Cell]:
        return {each: _share(part[key][name]) for each, part in found.items()}

    rows = [Row(task, "policy", shares("success", task), "higher") for task in (*tasks[-1:], *tasks[:-1])]
    notes = []
    if all("language" in part for part in found.values()):
        rows += [Row(LANGUAGE[name], "policy", shares("language", name)) for name in one["language"]]
    for name in ("execute", "size", "step_s"):
        if len({part["settings"].get(name) for part in found.values()}) > 1:
            told = ", ".join(f"{each} {part['settings'].get(name)}" for each, part in found.items())
            notes.append(f"Closed loop: {name} is not the same in all ({told}).")
    told = f"{one['settings']['starts']} unseen starts of each task, the same for all; share of successes, higher is better"
    return Part(f"Closed loop, in {benchmark_told(one['settings'])}", told, rows), notes


_PARTS: dict[str, Callable[[Records, Records], tuple[Part, list[str]]]] = {
    "closed_loop": _closed_loop,
    "open_loop": _open_loop,
}


def _error(found: Mapping[str, Any] | None, episodes: int) -> Cell:
    if found is None or found["value"] is None:
        return Cell(None, told="-")
    low, high = found["bootstrap95"]
    if episodes < 2 or low is None or high is None or math.isnan(low + high):
        return Cell(found["value"], told=f"{found['value']:.3g}")
    return Cell(found["value"], low, high, f"{found['value']:.3g} [{low:.3g}, {high:.3g}]")


def _share(found: Mapping[str, Any]) -> Cell:
    if not found["trials"]:
        return Cell(None, told="-")
    low, high = found["wilson95"]
    return Cell(found["rate"], low, high, f"{found['successes']} of {found['trials']} [{low:.0%}, {high:.0%}]")
