"""Charts of an ablation: success with intervals, differences with intervals, learning curves, hours of tiers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullLocator, PercentFormatter

from jobs.ablation.findings import Comparison, Success, in_points, percent
from lapa.reporting.figures import BAD, CARD, GOOD, INK, LINE, SOFT, TIP, beside, chart

WIDTH = 480
ROW = 26
ARMS = ("#8a8d91", "#b88a3a", "#2f76c0", "#2f9180", "#8a63c4", "#c0504d", "#c46a1c", "#5a9a34", "#b0568f")
TIERS = {"robot": 0, "neural": 1, "synthetic": 2, "human": 3}
Curve = Sequence[Sequence[float]]
"""(step, loss) at each validation."""


def colours_of(arms: Sequence[str]) -> dict[str, str]:
    """Of each arm, the same on all charts."""
    return {arm: ARMS[number % len(ARMS)] for number, arm in enumerate(arms)}


def success_bars(cells: Sequence[Success], colours: Mapping[str, str]) -> Figure:
    """A bar for each arm, its interval as a whisker, each seed as a dot; a cell without a full seed is said to have
    none."""
    figure, axes = _rows([cell.arm for cell in cells])
    for row, cell in enumerate(cells):
        found = cell.overall
        if found is None:
            axes.text(0.01, row, "no full seed", color=SOFT, size=12, va="center")
            continue
        axes.barh(row, found.value, 0.62, color=colours[cell.arm], gid=f"{TIP}{cell.arm}: {percent(found)}")
        axes.plot(
            [found.low, found.low, found.low, found.high, found.high, found.high],
            [row - 0.2, row + 0.2, row, row, row - 0.2, row + 0.2],
            color=INK,
            linewidth=1.4,
            clip_on=False,
        )
        for seed, share in cell.by_seed.items():
            tip = f"{TIP}seed {seed}: {100 * share:.0f}%"
            dot = {"markersize": 5, "markerfacecolor": CARD, "markeredgecolor": INK, "clip_on": False, "zorder": 3}
            axes.plot([share], [row], "o", gid=tip, **dot)  # type: ignore[arg-type]
        beside(axes, row, percent(found))
    axes.set(xlim=(0, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.xaxis.set_major_locator(MultipleLocator(0.25))
    return figure


def forest(comparisons: Sequence[Comparison]) -> Figure:
    """Differences in points with their intervals about a line at zero; names are given once where rows share them."""
    before = [None, *(c.arm for c in comparisons)]
    names = [
        ("" if c.arm == last else f"{_short(c.arm)}  ") + str(c.demos)
        for c, last in zip(comparisons, before, strict=False)
    ]
    figure, axes = _rows(names)
    reach = 10.0
    for row, comparison in enumerate(comparisons):
        found = comparison.overall
        if found is None:
            axes.text(1, row, "no common seed", color=SOFT, size=12, va="center")
            continue
        colour = {"lifts": GOOD, "lowers": BAD}.get(comparison.shown, SOFT)
        axes.hlines(row, 100 * found.low, 100 * found.high, color=colour, linewidth=2.4)
        axes.plot([100 * found.value], [row], "o", color=colour, markersize=8)
        beside(axes, row, in_points(found))
        reach = max(reach, -100 * found.low, 100 * found.high)
    axes.axvline(0, color=INK, linewidth=1.2, zorder=0.9)
    step = next(size for size in (5, 10, 20, 25, 50) if reach / size <= 4 or size == 50)
    reach = step * math.ceil(reach / step)
    axes.set(xlim=(-reach, reach))
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda points, _: f"{points:+.0f}" if points > 0 else f"{points:.0f}"))
    return figure


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
        axes.barh(row, wide, 0.75, left=-wide / 2, color=ARMS[2])
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
    short = name if len(name) <= 20 else name[:19] + "…"
    return short.replace("$", r"\$")  # no formula
