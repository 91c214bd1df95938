"""An ablation on the terminal: success, differences in words, costs, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.ablation.findings import Statistics, verdict
from jobs.ablation.sentences import arm_words, instrument_words, power_words, reference_words
from jobs.ablation.words import at, percent, seeds_in_words


def print_tables(result: Mapping[str, Any], found: Statistics, *, console: Console | None = None) -> None:
    """Prints the ablation."""
    out = console or Console()
    out.print(success_table(result, found))
    out.print(f"[bold]{escape(found.headline)}.[/bold]")
    for line in sentences(found):
        out.print(f"  {escape(line)}", soft_wrap=True)
    cost = Table(title="Mean cost of a run", title_justify="left")
    for column in ("", "demos", "runs", *COST):
        cost.add_column(column, justify="left" if not column else "right")
    rows = costs(result)
    for row in rows:
        cost.add_row(escape(row["arm"]), str(row["demos"]), str(row["runs"]), *cost_cells(row))
    out.print(cost)
    out.print(escape(matched_words(rows)), soft_wrap=True)
    for summary in found.success:
        for seed, why in summary.without.items():
            where = f"{summary.arm} {at(summary.demos)}, seed {seed}"
            out.print(f"[red]left out:[/red] {escape(where)}: {escape(why)}", soft_wrap=True)


def sentences(found: Statistics) -> list[str]:
    """What is said of each arm, then of what limits it: the reference, the instrument and its power."""
    said = [
        arm_words(found, arm, demos)
        for demos in found.references
        for arm in found.names("arm")
        if arm in found.planned(demos)
    ]
    said += [verdict(c) for c in found.comparisons if c.arm in found.names("ceiling")]
    return [*said, reference_words(found), instrument_words(found), *power_words(found)] if said else []


def success_table(result: Mapping[str, Any], statistics: Statistics) -> Table:
    """Arms by numbers of demonstrations."""
    demos = result["settings"]["demos"]
    table = Table(title="Success, mean over seeds [95%]", title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("role", no_wrap=True)
    for count in demos:
        table.add_column(at(count).removeprefix("at "), justify="right")
    for arm in statistics.arms:
        table.add_row(escape(arm.name), arm.role, *(_cell(statistics, arm.name, count) for count in demos))
    return table


def _cell(statistics: Statistics, arm: str, demos: int) -> str:
    if arm not in statistics.planned(demos):
        return "-"
    cell = statistics.of(arm, demos)
    return percent(cell.overall) + (f" ({seeds_in_words(cell.seeds)})" if cell.without and cell.seeds else "")


COST = {
    "steps": ("steps", ",.0f"),
    "minutes": ("minutes", ",.1f"),
    "samples seen": ("samples_seen", ",.0f"),
    "of robots": ("robot_samples_seen", ",.0f"),
}
"""Title -> a run's field and how it is written."""


def costs(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Means over the finished runs of each arm and number of demonstrations, None without one, and hours of all of
    them."""
    rows = []
    for arm in result["arms"]:
        for demos in arm.get("demos", result["settings"]["demos"]):
            cell = (arm["name"], demos, "done")
            runs = [run for run in result["runs"] if (run["arm"], run["demos"], run["status"]) == cell]
            means = {name: mean([run.get(name, 0) for run in runs]) if runs else None for name, _ in COST.values()}
            hours = sum(run.get("minutes", 0.0) for run in runs) / 60
            rows.append({"arm": arm["name"], "demos": demos, "runs": len(runs), "hours": hours, **means})
    return rows


def cost_cells(row: Mapping[str, Any]) -> list[str]:
    """The columns of COST, in its order."""
    return ["-" if row[name] is None else format(row[name], form) for name, form in COST.values()]


def matched_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether arms took as many steps and saw as many samples; where they did not, how they differ is said."""
    parts = []
    for name, what in (
        ("steps", "optimiser steps"),
        ("samples_seen", "samples seen"),
        ("robot_samples_seen", "robot samples seen"),
    ):
        values = [row[name] for row in rows if row[name] is not None]
        if not values:
            return "No run was finished."
        low, high = min(values), max(values)
        # samples are counted from shares of a mixture, which are rounded
        parts.append(f"{what} {'the same' if high - low <= 0.01 * high else f'{low:,.0f} to {high:,.0f}'}")
    return f"Means of finished runs, pretraining and grounding together. Over all arms: {'; '.join(parts)}."
