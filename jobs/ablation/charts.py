"""Charts of an ablation: differences with intervals, learning curves, hours of tiers."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullLocator

from jobs.ablation.findings import Comparison, Statistics
from jobs.ablation.roles import ArmRole
from jobs.ablation.words import at, in_points
from lapa.reporting.figures import CARD, INK, LINE, SOFT, TIP, beside, chart

WIDTH = 480
ROW = 26
HOURS = "#2f76c0"
ARMS = {
    "robot-only": "#5f6368",
    "robot-half": "#8d9196",
    "robot-flare": "#7d7468",
    "robot-small": "#4a5a6a",
    "bc": "#a08a5b",
    "human-track": "#2f76c0",
    "human-latent": "#2f9180",
    "human-flare": "#c46a1c",
    "human-both": "#8a63c4",
    "human-as-is": "#b0568f",
    "human-idm": "#c0504d",
    "human-true": "#3d5a80",
    "synthetic": "#5a9a34",
    "everything": "#b8862b",
    "same-body": "#3e8e5a",
    "true": "#7155a6",
    "shuffled": "#6b8cae",
    "shuffled-within": "#a3b8cc",
    "latent-shuffled": "#86b0a8",
    "world-only": "#6a6f4f",
    "human-world": "#a5632a",
    "world-shuffled": "#c9a27e",
}
"""Of the arms that giza knows; others take theirs by their name."""
OTHERS = ("#7a8f1f", "#9c4f2e", "#4f79a8", "#a83f74", "#2b8a9c", "#806d3a", "#5d4a8a", "#946060")
MARKERS = {"arm": "o", "baseline": "s", "control": "o", "positive": "D", "ceiling": "^"}
"""A control's is hollow."""
TIERS = {"robot": 0, "neural": 1, "synthetic": 2, "human": 3}
Curve = Sequence[Sequence[float]]
"""(step, loss) at each validation."""


def colours_of(arms: Sequence[ArmRole]) -> dict[str, str]:
    """Of each arm, the same on all charts and in all runs; two that giza does not know may change theirs to differ."""
    found: dict[str, str] = {}
    for arm in arms:
        first = zlib.crc32(arm.name.encode()) % len(OTHERS)
        turns = OTHERS[first:] + OTHERS[:first]
        free = next((colour for colour in turns if colour not in found.values()), turns[0])
        found[arm.name] = ARMS.get(arm.name, free)
    return found


def forest(comparisons: Sequence[Comparison], statistics: Statistics) -> Figure:
    """Differences in points with their intervals about a line at zero, at each number of demonstrations: arms to the best
    baseline, under each its controls, then the instrument and what stands beside.

    Thin: over replicates and tasks, where that was estimated. Dashed: the lift looked for.
    """
    colours, roles = colours_of(statistics.arms), {arm.name: arm.role for arm in statistics.arms}
    rows = _forest_rows(comparisons)
    figure, axes = _rows(["" if comparison is None else name for name, comparison in rows])
    reach = 100 * statistics.lift
    for row, (name, comparison) in enumerate(rows):
        if comparison is None:
            across = axes.get_yaxis_transform()
            axes.text(0, row, _plain(name), transform=across, color=INK, size=12, weight="bold", va="center")
            continue
        found, wide = comparison.overall, comparison.wide
        if found is None:
            axes.text(1, row, "no common seed", color=SOFT, size=12, va="center")
            continue
        colour = colours[comparison.arm]
        if wide is not None:
            axes.hlines(row, 100 * wide.low, 100 * wide.high, color=colour, linewidth=1, alpha=0.7)
            reach = max(reach, -100 * wide.low, 100 * wide.high)
        under = comparison.question == "control"
        axes.hlines(row, 100 * found.low, 100 * found.high, color=colour, linewidth=1.8 if under else 3.2)
        if under:
            axes.get_yticklabels()[row].set(color=SOFT, size=11)
        role = roles[comparison.arm]
        face, size = CARD if role == "control" else colour, 5 if under else 8
        how: dict[str, Any] = {
            "color": colour,
            "markersize": size,
            "markerfacecolor": face,
            "gid": f"{TIP}{comparison}",
        }
        axes.plot([100 * found.value], [row], MARKERS[role], **how)
        beside(axes, row, in_points(found), INK if comparison.shown in ("lifts", "lowers") else SOFT)
        reach = max(reach, -100 * found.low, 100 * found.high)
    axes.axvline(0, color=INK, linewidth=1.2, zorder=0.9)
    axes.axvline(100 * statistics.lift, color=SOFT, linewidth=1, dashes=(4, 3), zorder=0.9)
    step = next(size for size in (5, 10, 20, 25, 50) if reach / size <= 4 or size == 50)
    reach = step * math.ceil(reach / step)
    axes.set(xlim=(-reach, reach))
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda points, _: f"{points:+.0f}" if points > 0 else f"{points:.0f}"))
    return figure


def _forest_rows(comparisons: Sequence[Comparison]) -> list[tuple[str, Comparison | None]]:
    """(label, comparison), and before those of a number of demonstrations a heading; controls follow their arm."""
    rows: list[tuple[str, Comparison | None]] = []
    for demos in dict.fromkeys(c.demos for c in comparisons):
        here = [c for c in comparisons if c.demos == demos]
        references = dict.fromkeys(c.reference for c in here if c.question != "control")
        rows.append((f"{at(demos).removeprefix('at ')}{''.join(f', minus {name}' for name in references)}", None))
        for question in ("lift", "instrument", "beside"):
            for c in (c for c in here if c.question == question):
                rows.append((c.arm, c))
                rows += [(f"minus {o.reference}", o) for o in here if o.question == "control" and o.arm == c.arm]
        shown = {id(c) for _, c in rows}
        rows += [(f"{c.arm} minus {c.reference}", c) for c in here if id(c) not in shown]
    return rows


def learning_curves(curves: Mapping[str, Sequence[Curve]], colours: Mapping[str, str]) -> Figure | None:
    """Loss (logarithmic) over steps; each run thin, the mean of an arm's runs thick at the steps that all of them have.

    `curves`: arm -> the curve of each run. Values that are not finite and positive are left out; None where none is
    left.
    """
    sound = {
        arm: [{step: loss for step, loss in run if math.isfinite(loss) and loss > 0} for run in runs]
        for arm, runs in curves.items()
    }
    losses = [loss for runs in sound.values() for run in runs for loss in run.values()]
    if not losses:
        return None
    figure, axes = chart(WIDTH, 290)
    for arm, runs in sound.items():
        for run in runs:
            if len(run) > 1:
                axes.plot(list(run), list(run.values()), color=colours[arm], linewidth=1, alpha=0.4)
        shared = sorted(set.intersection(*(set(run) for run in runs)))
        mean = [float(np.mean([run[step] for run in runs])) for step in shared]
        tip = f"{TIP}{arm}: {mean[-1]:.3g}" if mean else ""
        axes.plot(shared, mean, color=colours[arm], linewidth=2, zorder=3, label=arm, gid=tip)
    decades = math.log10(max(losses) / min(losses))
    axes.set(xlabel="steps", xlim=(0, None), yscale="log")
    leads = (1, 1.5, 2, 3, 4, 5, 7) if decades < 1 else (1, 2, 5) if decades < 2.5 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=leads))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:.2g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color=LINE)
    figure.legend(loc="outside lower left", ncols=4, frameon=False, fontsize=12, labelcolor=INK)
    return figure


def hour_bars(tiers: Sequence[Mapping[str, object]]) -> Figure:
    """Hours of each tier, robots on top, on a logarithmic scale: tiers differ by orders of magnitude."""
    found = sorted(tiers, key=lambda tier: TIERS.get(str(tier["tier"]), len(TIERS)))
    hours = [float(str(tier["hours"])) for tier in found]
    figure, axes = _rows([str(tier["tier"]) for tier in found])
    shortest = math.floor(math.log10(min((value for value in hours if value > 0), default=1.0))) - 0.5
    for row, (tier, value) in enumerate(zip(found, hours, strict=True)):
        wide = max(math.log10(value) - shortest, 0.0) if value > 0 else 0.0
        axes.barh(row, wide, 0.75, left=-wide / 2, color=HOURS)
        episodes = f", {tier['episodes']:,} episodes" if isinstance(tier.get("episodes"), int) else ""
        beside(axes, row, (f"{value:,.1f} h" if value >= 1 else f"{60 * value:.1f} min") + episodes)
    axes.set(xticks=[])
    axes.grid(False)
    return figure


def _rows(names: Sequence[str]) -> tuple[Figure, Axes]:
    """A chart of named rows, the first on top."""
    figure, axes = chart(WIDTH, ROW * len(names) + 26)
    axes.set(ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), [_short(name) for name in names], color=INK)
    axes.grid(axis="x", color=LINE)
    return figure, axes


def _short(name: str) -> str:
    return _plain(name if len(name) <= 24 else name[:23] + "…")


def _plain(name: str) -> str:
    return name.replace("$", r"\$")  # no formula
