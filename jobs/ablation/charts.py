"""Charts of an ablation as inline SVG: success with intervals, differences with intervals, learning curves, hours of tiers.

All are 480 units wide and grow or shrink with the page; they take their colours from its style sheet, by classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from jobs.ablation.statistics import Comparison, Success, in_points, percent

WIDTH = 480
_NAME, _FIGURE = 108, 92
"""Room for names at the left and figures at the right."""
_ROW = 26

STYLE = """
svg.panel { width: 100%; max-width: 600px; height: auto; display: block; } svg.panel text { font-size: 12px; }
svg.panel .name { fill: var(--ink); } svg.panel .value { fill: var(--ink); font-variant-numeric: tabular-nums; }
svg.panel .seed { fill: var(--card); stroke: var(--ink); stroke-width: 1.2; } svg.panel .zero { stroke: var(--ink); stroke-width: 1.2; }
svg.panel .mean { stroke: var(--ink); fill: var(--ink); stroke-width: 1.6; }
svg.panel .lifts { stroke: var(--good); fill: var(--good); } svg.panel .lowers { stroke: var(--bad); fill: var(--bad); }
svg.panel .none { stroke: var(--soft); fill: var(--soft); } svg.panel .span { stroke-width: 2.4; fill: none; }
svg.panel .bar { fill: var(--arm); } svg.panel .curve { stroke: var(--arm); } svg.panel .once { stroke-width: 1; opacity: .4; }
svg.panel .key { stroke: var(--arm); stroke-width: 3; } .a0 { --arm: #8a8d91; } .a1 { --arm: #b88a3a; } .a2 { --arm: #2f76c0; }
.a3 { --arm: #2f9180; } .a4 { --arm: #8a63c4; } .a5 { --arm: #c0504d; } .a6 { --arm: #c46a1c; } .a7 { --arm: #5a9a34; }
.a8 { --arm: #b0568f; }
""".strip()
COLOURS = 9


def success_bars(cells: Sequence[Success], colours: Mapping[str, int]) -> str:
    """A bar for each arm, its interval as a whisker, each seed as a dot; a cell without a full seed is said to have none."""
    left, right = _NAME, WIDTH - _FIGURE
    height = _ROW * len(cells) + 24

    def x(share: float) -> float:
        return left + share * (right - left)

    parts = []
    for tick in range(0, 101, 25):
        at = x(tick / 100)
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="0" x2="{at:.1f}" y2="{height - 20}"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - 5}" text-anchor="middle">{tick}%</text>')
    for row, cell in enumerate(cells):
        middle = _ROW * row + _ROW / 2
        parts.append(_name(cell.arm, middle))
        found = cell.overall
        if found.value is None or found.low is None or found.high is None:
            parts.append(f'<text x="{left + 5}" y="{middle + 4:.1f}">no full seed</text>')
            continue
        parts.append(
            f'<rect class="bar a{colours[cell.arm]}" x="{left}" y="{middle - 8:.1f}" width="{max(x(found.value) - left, 1):.1f}" '
            f'height="16" rx="2"><title>{escape(cell.arm)}: {percent(found)}</title></rect>'
        )
        parts += [
            f'<circle class="seed" cx="{x(share):.1f}" cy="{middle:.1f}" r="2.6"><title>seed {seed}: {100 * share:.0f}%</title></circle>'
            for seed, share in cell.by_seed.items()
        ]
        parts.append(
            f'<path class="whisker" d="M{x(found.low):.1f} {middle:.1f}H{x(found.high):.1f}M{x(found.low):.1f} {middle - 5:.1f}v10'
            f'M{x(found.high):.1f} {middle - 5:.1f}v10"/>'
        )
        parts.append(f'<text class="value" x="{right + 8}" y="{middle + 4:.1f}">{percent(found)}</text>')
    return _svg(parts, height, "success of each arm")


def forest(comparisons: Sequence[Comparison]) -> str:
    """Differences in points with their intervals about a line at zero; names are given once where rows share them."""
    left, right = _NAME + 24, WIDTH - _FIGURE - 10
    bounds = [edge for c in comparisons for edge in (c.overall.low, c.overall.high) if edge is not None]
    reach = 100 * max([0.1, *(abs(edge) for edge in bounds)])
    step = next(size for size in (5, 10, 20, 25, 50) if reach / size <= 4 or size == 50)
    reach = step * math.ceil(reach / step)
    height = _ROW * len(comparisons) + 24

    def x(points: float) -> float:
        return left + (points + reach) / (2 * reach) * (right - left)

    parts = []
    for tick in range(-reach, reach + 1, step):
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x(tick):.1f}" y1="0" x2="{x(tick):.1f}" y2="{height - 20}"/>')
        sign = "+" if tick > 0 else ""
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 5}" text-anchor="middle">{sign}{tick}</text>')
    before = ""
    for row, comparison in enumerate(comparisons):
        middle = _ROW * row + _ROW / 2
        if comparison.arm != before:
            parts.append(_name(comparison.arm, middle))
        before = comparison.arm
        parts.append(f'<text x="{_NAME + 6}" y="{middle + 4:.1f}">{comparison.demos}</text>')
        found = comparison.overall
        if found.value is None or found.low is None or found.high is None:
            parts.append(f'<text x="{x(0) + 6:.1f}" y="{middle + 4:.1f}">no common seed</text>')
            continue
        kind = comparison.shown if comparison.shown in ("lifts", "lowers") else "none"
        parts.append(
            f'<path class="span {kind}" d="M{x(100 * found.low):.1f} {middle:.1f}H{x(100 * found.high):.1f}"/>'
            f'<circle class="{kind}" cx="{x(100 * found.value):.1f}" cy="{middle:.1f}" r="4.5"/>'
        )
        parts.append(f'<text class="value" x="{right + 12}" y="{middle + 4:.1f}">{in_points(found)}</text>')
    return _svg(parts, height, "paired differences in points")


def learning_curves(curves: Mapping[str, Sequence[Sequence[Sequence[float]]]], colours: Mapping[str, int]) -> str:
    """Loss (logarithmic) over steps; each run thin, the mean of an arm's runs thick at the steps that all of them have.

    `curves`: arm -> a curve of (step, loss) for each run. Values that are not finite and positive are left out.
    """
    sound = {
        arm: [[(s, v) for s, v in run if math.isfinite(v) and v > 0] for run in runs] for arm, runs in curves.items()
    }
    values = [value for runs in sound.values() for run in runs for _, value in run]
    if not values:
        return ""
    last = max(step for runs in sound.values() for run in runs for step, _ in run)
    low, high = math.log10(min(values)), math.log10(max(values))
    low, high = low - 0.05 * (high - low) - 0.01, high + 0.05 * (high - low) + 0.01
    left, right, top, bottom = 46, WIDTH - 10, 6, 226

    def x(step: float) -> float:
        return left + step / max(last, 1) * (right - left)

    def y(value: float) -> float:
        return top + (high - math.log10(value)) / (high - low) * (bottom - top)

    parts = []
    for tick in _log_ticks(low, high):
        parts.append(f'<line class="grid" x1="{left}" y1="{y(tick):.1f}" x2="{right}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.2g}</text>')
    for part in range(5):
        step = last * part / 4
        anchor = "end" if part == 4 else "middle"
        parts.append(f'<text x="{x(step):.1f}" y="{bottom + 16}" text-anchor="{anchor}">{step:,.0f}</text>')
    parts.append(f'<text x="{(left + right) / 2:.0f}" y="{bottom + 32}" text-anchor="middle">steps</text>')
    thick = []
    for arm, runs in sound.items():
        colour = f"a{colours[arm]}"
        parts += [f'<path class="curve once {colour}" d="{_path(run, x, y)}"/>' for run in runs if len(run) > 1]
        shared = set.intersection(*(set(dict(run)) for run in runs)) if runs else set()
        mean = [(step, sum(dict(run)[step] for run in runs) / len(runs)) for step in sorted(shared)]
        if len(mean) > 1:
            thick.append(
                f'<path class="curve {colour}" d="{_path(mean, x, y)}"><title>{escape(arm)}: {mean[-1][1]:.3g}</title></path>'
            )
    height = bottom + 44
    across = 0.0
    for arm in sound:
        wide = 34 + 7.2 * len(arm)
        if across and across + wide > WIDTH - left:
            across, height = 0.0, height + 18
        parts.append(
            f'<line class="key a{colours[arm]}" x1="{left + across:.0f}" y1="{height}" x2="{left + across + 18:.0f}" y2="{height}"/>'
            f'<text class="name" x="{left + across + 23:.0f}" y="{height + 4}">{escape(arm)}</text>'
        )
        across += wide
    return _svg([*parts, *thick], height + 12, "learning curves")


def hour_bars(tiers: Sequence[Mapping[str, object]]) -> str:
    """Hours of each tier, robots on top, on a logarithmic scale: tiers differ by orders of magnitude."""
    order = {"robot": 0, "neural": 1, "synthetic": 2, "human": 3}
    found = sorted(
        ((str(tier["tier"]), float(str(tier["hours"])), tier.get("episodes")) for tier in tiers),
        key=lambda tier: order.get(tier[0], len(order)),
    )
    if not found:
        return ""
    known = [hours for _, hours, _ in found if hours > 0]
    low = math.floor(math.log10(min(known, default=1.0))) - 0.5
    high = math.log10(max(known, default=1.0))
    left, room = 84, WIDTH - 84 - 150
    parts = []
    for row, (tier, hours, episodes) in enumerate(found):
        middle = 28 * row + 14
        wide = room * (math.log10(hours) - low) / max(high - low, 0.1) if hours > 0 else 0.0
        said = _hours(hours) + (f", {episodes:,} episodes" if isinstance(episodes, int) else "")
        parts.append(f'<text class="name" x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(tier)}</text>')
        centre = left + room / 2
        parts.append(
            f'<rect class="bar strong a2" x="{centre - wide / 2:.1f}" y="{middle - 10}" width="{wide:.1f}" height="20" rx="2"/>'
        )
        parts.append(f'<text class="value" x="{left + room + 8}" y="{middle + 4}">{said}</text>')
    return _svg(parts, 28 * len(found) + 4, "hours of each tier")


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _name(name: str, middle: float) -> str:
    short = name if len(name) <= 16 else name[:15] + "…"
    return (
        f'<text class="name" x="{_NAME - 6}" y="{middle + 4:.1f}" text-anchor="end">{escape(short)}'
        f"<title>{escape(name)}</title></text>"
    )


def _path(points: Sequence[tuple[float, float]], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    return "M" + "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in points)


def _log_ticks(low: float, high: float) -> list[float]:
    """Round values within powers low and high of ten: few of each decade where there are many."""
    leads = (1, 1.5, 2, 3, 4, 5, 7) if high - low < 1 else (1, 2, 5) if high - low < 2.5 else (1,)
    ticks = [lead * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for lead in leads]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def _svg(parts: Sequence[str], height: float, alt: str) -> str:
    return f'<svg class="panel" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{alt}">{"".join(parts)}</svg>'
