"""An ablation as one self-contained page, verdict first; it reads in light and dark, on a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from jobs.ablation.charts import colours_of, forest, hour_bars, learning_curves
from jobs.ablation.films import PAGE_BYTES, ShownFilm, shown_films
from jobs.ablation.findings import Comparison, Statistics, verdict
from jobs.ablation.sentences import arm_words, instrument_words, power_words, reference_words
from jobs.ablation.tables import COST, cost_cells, costs, matched_words
from jobs.ablation.words import at, in_points, percent, points, seeds_in_words
from jobs.evaluation.statistics import wilson
from lapa.reporting.page import provenance_rows
from lapa.reporting.page import render as render_page

TEMPLATE = Path(__file__).with_name("page.html.j2")
REFUSED = ("script", "foreignObject", "image", "use", "a", "iframe")
"""Elements of a drawing that do more than draw."""


def write_page(result: Mapping[str, Any], path: str | Path, statistics: Statistics, out: Path | None = None) -> None:
    """Writes the page, with the films that lie in the ablation's folder `out` (None: that of the page)."""
    Path(path).write_text(render(result, statistics, shown_films(result, out or Path(path).parent)), "utf-8")


def render(
    result: Mapping[str, Any],
    statistics: Statistics,
    films: Mapping[str, Sequence[ShownFilm]] = MappingProxyType({}),
) -> str:
    """The page, as text. `films`: of each arm."""
    colours = colours_of(statistics.arms)
    settings = result["settings"]
    pyramid: dict[str, Any] = {"tiers": [], "arms": []} | dict(result.get("pyramid") or {})
    rows = costs(result)
    return render_page(
        TEMPLATE,
        result=result,
        settings=settings,
        pyramid=pyramid,
        statistics=statistics,
        tone="v-lifts" if statistics.headline.startswith("Success is lifted") else "v-even",
        unit="replicate" if statistics.design == "transfer" else "seed",
        arm_items=lambda demos: [
            _arm_item(statistics, arm, demos) for arm in statistics.names("arm") if arm in statistics.planned(demos)
        ],
        beside_items=lambda demos: [
            _item(c, verdict(c, brief=True)) for kind in ("instrument", "beside") for c in statistics.asked(kind, demos)
        ],
        limits=_limits(statistics),
        planned=len(statistics.success) * len(settings["seeds"]),
        left_out=[(cell, seed, why) for cell in statistics.success for seed, why in cell.without.items()],
        lifts=[c.survives for c in statistics.comparisons if c.question == "lift" and c.shown == "lifts"],
        demos_in_words=lambda *counts: at(*counts).removeprefix("at "),
        at=at,
        points=points,
        seeds_in_words=seeds_in_words,
        drawings=[(one["names"], drawn) for one in pyramid["arms"] if (drawn := _safe_svg(one["svg"])) is not None],
        films=films,
        megabytes=f"{PAGE_BYTES / 1e6:g}",
        hour_bars=hour_bars,
        forest=lambda: forest(statistics.comparisons, statistics),
        colours=colours,
        curves=_curves(result, statistics, colours),
        percent=lambda estimate: _split(percent(estimate)),
        in_points=lambda estimate: _split(in_points(estimate)),
        gains=lambda demos: _gains(statistics, demos),
        copy={task: wilson(found["success"], found["of"]) for task, found in (result.get("copy") or {}).items()},
        costs=[(row, cost_cells(row)) for row in rows],
        cost_titles=list(COST),
        robot_samples={(row["arm"], row["demos"]): row["robot_samples_seen"] for row in rows},
        matched=matched_words(rows),
        made=_made(result),
        plain=_plain,
    )


MARKS = {"lifts": "good", "lowers": "bad", "cannot tell": "unknown"}


def _made(result: Mapping[str, Any]) -> Sequence[tuple[str, Any]]:
    """Where the page is from."""
    settings = result["settings"]
    steps = settings.get("pretrain_steps", 0) + settings.get("ground_steps", 0) or None
    seeds = ", ".join(map(str, settings["seeds"]))
    return provenance_rows(result.get("provenance") or {}, recipe=result.get("recipe"), steps=steps, seeds=seeds)


def _limits(statistics: Statistics) -> list[tuple[str, str, str]]:
    """(kind, words, mark): what the run is able to show."""
    shown = [statistics.shows_positives(demos) for demos in statistics.references]
    instrument = "unknown" if None in shown or not shown else "good" if all(shown) else "bad"
    items = [(instrument, instrument_words(statistics))]
    items += [("even", words) for words in (*power_words(statistics), reference_words(statistics))]
    return [(kind, _unbroken(words), kind) for kind, words in items]


def _arm_item(statistics: Statistics, arm: str, demos: int) -> tuple[str, str, str]:
    against = statistics.comparison(arm, None, demos)
    words = arm_words(statistics, arm, demos, brief=True)
    return _item(against, words, doubtful=against.shown == "lifts" and not statistics.told_from_controls(against))


def _item(comparison: Comparison, words: str, *, doubtful: bool = False) -> tuple[str, str, str]:
    """(kind, words, mark) of a list's item."""
    mark = MARKS.get(comparison.shown, "even")
    doubtful |= comparison.shown in ("lifts", "lowers") and not comparison.survives
    return "concern" if doubtful else mark, _unbroken(words), mark


def _unbroken(words: str) -> str:
    """With intervals that are not broken at the end of a line."""
    return re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\u00a0"), words)


def _gains(statistics: Statistics, demos: int) -> list[Comparison]:
    """Differences to the best baseline, in the order of the arms."""
    names = [arm.name for arm in statistics.arms]
    found = [c for c in statistics.comparisons if c.demos == demos and c.question != "control"]
    return sorted(found, key=lambda c: names.index(c.arm))


def _split(text: str) -> tuple[str, str]:
    """(figure, its interval); the latter is empty where there is none."""
    figure, _, interval = text.partition(" ")
    return figure, interval


def _curves(result: Mapping[str, Any], statistics: Statistics, colours: Mapping[str, str]) -> list[tuple[str, Any]]:
    """(title, chart) of each loss and number of demonstrations."""
    panels = []
    for loss in dict.fromkeys(arm.loss for arm in statistics.arms):
        names = [arm.name for arm in statistics.arms if arm.loss == loss]
        for demos in result["settings"]["demos"]:
            runs = [run for run in result["runs"] if run["demos"] == demos and run.get("curve")]
            curves = {name: [run["curve"] for run in runs if run["arm"] == name] for name in names}
            drawn = learning_curves({name: found for name, found in curves.items() if found}, colours)
            if drawn:
                panels.append((f"{loss}, {at(demos).removeprefix('at ')}", drawn))
    return panels


def _safe_svg(text: str | None) -> Markup | None:
    """The drawing if it is sound XML, draws only, and reaches for nothing outside."""
    if not text:
        return None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None
    for element in root.iter():
        if str(element.tag).rsplit("}", 1)[-1] in REFUSED:
            return None
        if any(name.rsplit("}", 1)[-1].lower().startswith(("on", "href", "src")) for name in element.attrib):
            return None
        if re.search(r"url\s*\(|@import", f"{element.text or ''} {' '.join(element.attrib.values())}"):
            return None
    for element in root.iter():
        # the page's style sheet is stronger than attributes, and weaker than an element's own style
        fonts = [
            f"{name}:{element.attrib.pop(name)}" for name in ("font-size", "font-weight") if name in element.attrib
        ]
        if fonts:
            own = ";".join(found + "px" if found[-1].isdigit() and "size" in found else found for found in fonts)
            element.set("style", f"{element.get('style', '')};{own}".strip(";"))
        element.tag = str(element.tag).rsplit("}", 1)[-1]  # within HTML the name space is known
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(found)}" for name, found in value.items())
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return ", ".join(map(_plain, value)) if is_list else str(value)
