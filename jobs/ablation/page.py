"""An ablation as one self-contained page, verdict first, and as tables on the terminal.

Nothing is loaded from elsewhere; charts are SVG, and it reads in light and dark, on a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jobs.ablation.charts import COLOURS, forest, hour_bars, learning_curves, success_bars
from jobs.ablation.charts import STYLE as CHART_STYLE
from jobs.ablation.statistics import (
    CONTROL,
    CONTROLLED,
    REFERENCES,
    Comparison,
    Estimate,
    Statistics,
    at,
    in_points,
    percent,
    seeds_in_words,
    summarise,
    verdict,
)
from jobs.ablation.tables import COST, control_words, cost_cells, costs, matched_words, print_tables
from lapa.reporting.html import say, section, table
from lapa.reporting.style import STYLE

__all__ = ["print_tables", "render", "write_page"]

MARKS = {
    "lifts": ("✓", "good"),
    "lowers": ("✗", "bad"),
    "no difference shown": ("–", "even-mark"),
    "cannot tell": ("?", "concern"),
}
PAGE_STYLE = """
header.v-lifts { border-left-color: var(--good); } header h1 { font-size: clamp(22px, 4.5vw, 32px); }
header h3 { margin: 10px 0 2px; font-size: 15px; color: var(--soft); } .even-mark .mark { color: var(--soft); }
.verdicts, .panels { display: grid; gap: 6px 32px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.panels h3 { margin: 12px 0 6px; } .panels > div { min-width: 0; } .wide svg.giza-pyramid { display: block; min-width: 640px;
  max-width: 100%; height: auto; } td.wrap, td .wrap { white-space: normal; overflow-wrap: anywhere; }
.reason { overflow-wrap: anywhere; white-space: pre-wrap; } li { overflow-wrap: anywhere; } code { overflow-wrap: anywhere; }
@media (max-width: 600px) { main { padding: 12px 10px 40px; } header { padding: 12px 14px 10px; } th, td { padding-right: 12px; } }
""".strip()


def write_page(result: Mapping[str, Any], path: str | Path, statistics: Statistics | None = None) -> None:
    """Writes the page; `statistics` are computed where they are not given (seed: settings' `seed`, else 0)."""
    Path(path).write_text(render(result, statistics or _statistics(result)), "utf-8")


def _statistics(result: Mapping[str, Any]) -> Statistics:
    return summarise(result, seed=int(result["settings"].get("seed", 0)))


def render(result: Mapping[str, Any], statistics: Statistics) -> str:
    """The page, as text."""
    colours = {arm["name"]: number % COLOURS for number, arm in enumerate(result["arms"])}
    sections = [
        _verdict(result, statistics),
        _arms(result),
        _pyramid(result),
        _success(result, statistics, colours),
        _differences(statistics),
        _tasks(result, statistics),
        _curves(result, colours),
        _cost(result),
        _failures(statistics),
        _latents(result),
        _settings(result),
        _method(result, statistics),
    ]
    body = "\n".join(part for part in sections if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>giza ablate: {escape(statistics.headline)}</title><style>{STYLE}\n{PAGE_STYLE}\n{CHART_STYLE}</style></head>"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _verdict(result: Mapping[str, Any], statistics: Statistics) -> str:
    groups = []
    for reference in REFERENCES:
        found = [c for c in statistics.comparisons if c.reference == reference]
        if found:
            groups.append(f"<div><h3>Against {reference}</h3><ul>{''.join(map(_item, found))}</ul></div>")
    control = [c for c in statistics.comparisons if c.reference == CONTROL]
    if control:
        items = "".join(_item(c, control_words(c)) for c in control)
        groups.append(f"<div><h3>Is it the latents?</h3><ul>{items}</ul></div>")
    settings = result["settings"]
    without = sum(len(cell.without) for cell in statistics.success)
    planned = len(result["arms"]) * len(settings["demos"]) * len(settings["seeds"])
    facts = (
        f"{planned - without} of {planned} runs are full: {len(result['arms'])} arms, {_demos(*settings['demos'])} a task, "
        f"{_counted(len(settings['seeds']), 'seed')}, {_counted(len(settings['tasks']), 'task')} with "
        f"{settings['starts']} unseen starts each, the same for all."
    )
    lifts = [c for c in statistics.comparisons if c.shown == "lifts"]
    if lifts:
        left = sum(map(_survives, lifts))
        facts += (
            f" Of {len(lifts)} lifts shown, {left} remain once all comparisons with a reference are counted (Holm)."
        )
    level = "v-lifts" if statistics.headline.startswith("Success is lifted") else "v-even"
    return (
        f'<header class="{level}"><p class="kicker">Which tier of the pyramid buys what?</p>'
        f'<h1>{escape(statistics.headline)}</h1><div class="verdicts">{"".join(groups)}</div></header>{say(facts, "facts")}'
    )


def _item(comparison: Comparison, text: str | None = None) -> str:
    mark, kind = MARKS[comparison.shown]
    if comparison.shown in ("lifts", "lowers") and not _survives(comparison):
        kind = "concern"
    words = escape(text or verdict(comparison, brief=True))
    whole = re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\u00a0"), words)  # intervals are not broken
    return f'<li class="{kind}"><span class="mark">{mark}</span>{whole}</li>'


def _survives(comparison: Comparison) -> bool:
    return comparison.p_holm is not None and comparison.p_holm <= 0.05


def _arms(result: Mapping[str, Any]) -> str:
    rows = [
        [
            f"<b>{escape(arm['name'])}</b>",
            f'<span class="wrap">{escape(arm.get("says", ""))}</span>',
            f'<span class="wrap">{escape(", ".join(arm.get("members", [])))}</span>',
        ]
        for arm in result["arms"]
    ]
    return section("The arms", table(["arm", "what it is", "trained on"], rows))


def _pyramid(result: Mapping[str, Any]) -> str:
    pyramid = result.get("pyramid")
    if not pyramid:
        return ""
    drawn = _safe_svg(pyramid.get("svg"))
    if drawn:
        return section("The pyramid", f'<div class="wide">{drawn}</div>')
    said = "Hours of each tier, on a logarithmic scale: a bar ten times as much is longer by one step, not ten times as long."
    return section("The pyramid", hour_bars(pyramid["tiers"]), say(said, "small")) if pyramid["tiers"] else ""


def _safe_svg(text: str | None) -> str:
    """The drawing if it is sound XML, draws only, and reaches for nothing outside; else nothing."""
    if not text:
        return ""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return ""
    for element in root.iter():
        if str(element.tag).rsplit("}", 1)[-1] in ("script", "foreignObject", "image", "use", "a", "iframe"):
            return ""
        if any(name.rsplit("}", 1)[-1].lower().startswith(("on", "href", "src")) for name in element.attrib):
            return ""
        if re.search(r"url\s*\(|@import", f"{element.text or ''} {' '.join(element.attrib.values())}"):
            return ""
    for element in root.iter():
        # the page's style sheet is stronger than attributes, and weaker than an element's own style
        fonts = [
            f"{name}:{element.attrib.pop(name)}" for name in ("font-size", "font-weight") if name in element.attrib
        ]
        if fonts:
            own = ";".join(found + "px" if found[-1].isdigit() and "size" in found else found for found in fonts)
            element.set("style", f"{element.get('style', '')};{own}".strip(";"))
        element.tag = str(element.tag).rsplit("}", 1)[-1]  # within HTML the name space is known
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _success(result: Mapping[str, Any], statistics: Statistics, colours: Mapping[str, int]) -> str:
    demos = result["settings"]["demos"]
    panels, rows = [], []
    for count in demos:
        cells = [cell for cell in statistics.success if cell.demos == count]
        panels.append(f"<div><h3>{_demos(count)}</h3>{success_bars(cells, colours)}</div>")
    for arm in result["arms"]:
        row = [f"<b>{escape(arm['name'])}</b>"]
        for count in demos:
            cell = statistics.of(arm["name"], count)
            seeds = ", ".join(f"{100 * share:.0f}" for share in cell.by_seed.values())
            left_out = f"; without {seeds_in_words(tuple(cell.without))}" if cell.without else ""
            row += [_figure(cell.overall), f'<span class="small">{seeds or "-"}{escape(left_out)}</span>']
        rows.append(row)
    head = ["", *(title for count in demos for title in (f"{at(count)}", "each seed, %"))]
    intro = (
        "Share of rollouts that succeed, mean over tasks, starts and seeds, at the last checkpoint; the whisker is the 95% interval over "
        "seeds and starts, dots are seeds. Whether two arms differ is in the next section: bars whose intervals overlap may still differ, "
        "since all play the same starts."
    )
    return section("Success", say(intro), f'<div class="panels">{"".join(panels)}</div>', table(head, rows, "figures"))


def _figure(estimate: Estimate, kind: str = "") -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    whole, rest = percent(estimate).split(" ", 1)
    return f'<span class="figure {kind}">{whole}</span> <span class="range">{rest}</span>'


def _differences(statistics: Statistics) -> str:
    panels = []
    for reference in (*REFERENCES, CONTROL):
        found = [c for c in statistics.comparisons if c.reference == reference]
        if found:
            title = f"{CONTROLLED} minus {CONTROL}" if reference == CONTROL else f"Minus {reference}"
            panels.append(f"<div><h3>{title}</h3>{forest(found)}</div>")
    if not panels:
        return ""
    intro = (
        "Points of success that an arm has more than its reference, start by start and seed by seed, with the 95% interval; "
        "the number beside a name is that of demonstrations. No difference shown is not the same as no difference: the interval tells "
        "what remains possible."
    )
    head = ["", "reference", "demos", "points", "p", "p, Holm", "seeds"]
    rows = [
        [
            escape(c.arm),
            escape(c.reference),
            str(c.demos),
            _span(c),
            "-" if c.p is None else f"{c.p:.3g}",
            "-" if c.p_holm is None else f"{c.p_holm:.3g}",
            _join(c.seeds) or "none in common",
        ]
        for c in statistics.comparisons
    ]
    each = f"<details><summary>Each comparison</summary>{table(head, rows, 'figures')}</details>"
    return section("Paired differences", say(intro), f'<div class="panels">{"".join(panels)}</div>', each)


def _span(comparison: Comparison) -> str:
    text = in_points(comparison.overall)
    if text == "-":
        return text
    value, rest = text.split(" ", 1)
    kind = {"lifts": "good", "lowers": "bad"}.get(comparison.shown, "")
    return f'<span class="figure {kind}">{value}</span> <span class="range">{rest}</span>'


def _tasks(result: Mapping[str, Any], statistics: Statistics) -> str:
    names = [arm["name"] for arm in result["arms"]]
    parts = [
        say(
            "Green and red: the paired difference to robot-only has an interval without zero on this task alone. That is a hint and no "
            "finding: nothing here is corrected for the number of tasks."
        )
    ]
    for count in result["settings"]["demos"]:
        shades = {c.arm: c.tasks for c in statistics.comparisons if c.reference == REFERENCES[0] and c.demos == count}
        rows = []
        for task in result["settings"]["tasks"]:
            row = [escape(task)]
            for name in names:
                difference = shades.get(name, {}).get(task, Estimate(None))
                kind = ""
                if difference.low is not None and difference.high is not None:
                    kind = "good" if difference.low > 0 else "bad" if difference.high < 0 else ""
                row.append(_figure(statistics.of(name, count).tasks[task], kind))
            rows.append(row)
        parts.append(f"<h3>{_demos(count)}</h3>{table(['', *names], rows, 'figures')}")
    return section("Task by task", *parts)


def _curves(result: Mapping[str, Any], colours: Mapping[str, int]) -> str:
    panels = []
    for names, title in (([name for name in colours if name != "bc"], ""), (["bc"], "bc, ")):
        for count in result["settings"]["demos"]:
            runs = [run for run in result["runs"] if run["demos"] == count and run.get("curve")]
            curves = {name: [run["curve"] for run in runs if run["arm"] == name] for name in names}
            drawn = learning_curves({name: found for name, found in curves.items() if found}, colours)
            if drawn:
                panels.append(f"<div><h3>{title}{_demos(count)}</h3>{drawn}</div>")
    if not panels:
        return ""
    longer = ""
    if result["settings"].get("pretrain_steps"):
        longer = "Arms without a base train on demonstrations for all their steps, so their curves are longer. "
    intro = (
        "Loss of actions on held-out demonstrations while the policy learns from demonstrations; thin: runs, thick: mean of an arm. "
        f"{longer}bc has a loss of its own (regression, not flow matching), which is no measure against the others. A lower loss need "
        "not mean more success."
    )
    return section("Learning curves", say(intro), f'<div class="panels">{"".join(panels)}</div>')


def _counted(count: int, of: str) -> str:
    return f"{count} {of}{'' if count == 1 else 's'}"


def _demos(*counts: int) -> str:
    return at(*counts).removeprefix("at ")


def _cost(result: Mapping[str, Any]) -> str:
    found = costs(result)
    rows = [
        [escape(row["arm"]), str(row["demos"]), str(row["runs"]), *cost_cells(row), f"{row['hours']:.2f}"]
        for row in found
    ]
    head = ["", "demos", "runs", *COST, "hours, all runs"]
    return section("What it costs", say(matched_words(found)), table(head, rows, "figures"))


def _failures(statistics: Statistics) -> str:
    items = [
        f"<li><b>{escape(cell.arm)}</b>, {_demos(cell.demos)}, seed {seed}: "
        f'<span class="reason">{escape(why)}</span></li>'
        for cell in statistics.success
        for seed, why in cell.without.items()
    ]
    if not items:
        return section("Runs left out", say("None: all planned runs are full."))
    said = "They count nowhere; an arm is compared on the seeds that both sides have."
    return section("Runs left out", say(said), f"<ul>{''.join(items)}</ul>")


def _latents(result: Mapping[str, Any]) -> str:
    latents = result.get("latents")
    if not latents:
        return ""
    rows = [
        [escape(str(name)), f'<span class="wrap">{escape(_plain(value))}</span>'] for name, value in latents.items()
    ]
    return section("The latents", table(["", ""], rows, "figures"))


def _settings(result: Mapping[str, Any]) -> str:
    named = {"recipe": result.get("recipe", ""), **result["settings"]}
    rows = [[escape(str(name)), f'<span class="wrap">{escape(_plain(value))}</span>'] for name, value in named.items()]
    return section("Settings", f"<details><summary>All settings</summary>{table(['', ''], rows, 'figures')}</details>")


def _method(result: Mapping[str, Any], statistics: Statistics) -> str:
    seeds = len(result["settings"]["seeds"])
    text = (
        f"Intervals are 95% percentiles of {statistics.draws:,} resamples: seeds are resampled, and starts within each task, "
        "jointly for all seeds and for both arms of a difference; tasks are not. Of n, n - 1 are drawn, since n of n understate the "
        "variance. Where all rollouts are alike, Wilson's interval over the starts stands for what was not seen. p is two-sided from "
        "the same resamples; Holm's correction counts all comparisons with the same reference."
    )
    few = {
        1: "With one seed, intervals are over starts alone: another seed may come out otherwise.",
        2: "With two seeds, intervals hardly know how much seeds differ.",
    }.get(seeds, f"With {seeds} seeds, intervals are rough where seeds differ much." if seeds < 5 else "")
    return section("How this was measured", say(text), say(few, "small") if few else "")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(found)}" for name, found in value.items())
    return _join(value) if isinstance(value, list | tuple) else str(value)


def _join(values: Sequence[Any]) -> str:
    return ", ".join(_plain(value) for value in values)
