"""An ablation as one self-contained page, verdict first; it reads in light and dark, on a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from jobs.ablation.charts import colours_of, forest, hour_bars, learning_curves, success_bars
from jobs.ablation.findings import (
    CONTROL,
    CONTROLLED,
    REFERENCES,
    Comparison,
    Statistics,
    at,
    in_points,
    percent,
    seeds_in_words,
    verdict,
)
from jobs.ablation.tables import COST, control_words, cost_cells, costs, matched_words
from lapa.reporting.page import render as render_page

TEMPLATE = Path(__file__).with_name("page.html.j2")
REFUSED = ("script", "foreignObject", "image", "use", "a", "iframe")
"""Elements of a drawing that do more than draw."""


def write_page(result: Mapping[str, Any], path: str | Path, statistics: Statistics) -> None:
    """Writes the page."""
    Path(path).write_text(render(result, statistics), "utf-8")


def render(result: Mapping[str, Any], statistics: Statistics) -> str:
    """The page, as text."""
    colours = colours_of([arm["name"] for arm in result["arms"]])
    settings = result["settings"]
    pyramid = result.get("pyramid") or {"tiers": [], "svg": None}
    rows = costs(result)
    return render_page(
        TEMPLATE,
        result=result,
        settings=settings,
        pyramid=pyramid,
        statistics=statistics,
        compared={name: [c for c in statistics.comparisons if c.reference == name] for name in (*REFERENCES, CONTROL)},
        control=CONTROL,
        controlled=CONTROLLED,
        first_reference=REFERENCES[0],
        planned=len(result["arms"]) * len(settings["demos"]) * len(settings["seeds"]),
        left_out=[(cell, seed, why) for cell in statistics.success for seed, why in cell.without.items()],
        item=_item,
        lifts=[c.survives for c in statistics.comparisons if c.shown == "lifts"],
        demos_in_words=lambda *counts: at(*counts).removeprefix("at "),
        at=at,
        seeds_in_words=seeds_in_words,
        drawing=_safe_svg(pyramid["svg"]),
        hour_bars=hour_bars,
        success_bars=lambda cells: success_bars(cells, colours),
        forest=forest,
        curves=_curves(result, colours),
        percent=lambda estimate: _split(percent(estimate)),
        in_points=lambda estimate: _split(in_points(estimate)),
        shade=_shade,
        costs=[(row, cost_cells(row)) for row in rows],
        cost_titles=list(COST),
        matched=matched_words(rows),
        plain=_plain,
    )


def _item(comparison: Comparison) -> tuple[str, str, str]:
    """(kind, words, mark) of a comparison in the header."""
    mark = {"lifts": "good", "lowers": "bad", "no difference shown": "even", "cannot tell": "unknown"}[comparison.shown]
    doubtful = mark != "even" and not comparison.survives
    words = control_words(comparison) if comparison.reference == CONTROL else verdict(comparison, brief=True)
    # intervals are not broken
    words = re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\u00a0"), words)
    return "concern" if doubtful else mark, words, mark


def _split(text: str) -> tuple[str, str]:
    """(figure, its interval); the latter is empty where there is none."""
    figure, _, interval = text.partition(" ")
    return figure, interval


def _shade(statistics: Statistics, arm: str, demos: int, task: str) -> str:
    """Whether an arm's difference to the first reference has an interval without zero on one task."""
    found = [c for c in statistics.comparisons if (c.arm, c.reference, c.demos) == (arm, REFERENCES[0], demos)]
    difference = found[0].tasks[task] if found else None
    if difference is None:
        return ""
    return "good" if difference.low > 0 else "bad" if difference.high < 0 else ""


def _curves(result: Mapping[str, Any], colours: Mapping[str, str]) -> list[tuple[str, Any]]:
    """(title, chart) of each number of demonstrations; bc, whose loss is another, apart."""
    panels = []
    for names, before in (([name for name in colours if name != "bc"], ""), (["bc"], "bc, ")):
        for demos in result["settings"]["demos"]:
            runs = [run for run in result["runs"] if run["demos"] == demos and run.get("curve")]
            curves = {name: [run["curve"] for run in runs if run["arm"] == name] for name in names}
            drawn = learning_curves({name: found for name, found in curves.items() if found}, colours)
            if drawn:
                panels.append((before + at(demos).removeprefix("at "), drawn))
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
