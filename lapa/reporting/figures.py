"""Inline figures of a page: Matplotlib's charts as SVG in the page's own colours, and strips of frames as PNG."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import Any
from xml.etree import ElementTree

import cv2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

GAP = 4
GROUP_GAP = 14
INK, SOFT, LINE, ACCENT = "#1d1f21", "#62676d", "#dedbd3", "#1f5fa8"
GOOD, BAD, CARD = "#22763f", "#b3261e", "#ffffff"
THEME = {INK: "ink", SOFT: "soft", LINE: "line", ACCENT: "accent", GOOD: "good", BAD: "bad", CARD: "card"}
"""Colours of base.html.j2 on a light desk; on the page they are its variables, and so follow a dark one."""
COLOURS = {
    "latent": ACCENT,
    "quantized": "#7d5bbe",
    "first_frame": "#8d8d86",
    "untrained": "#2f9180",
    "pca": "#c46a1c",
    "vision": "#b0487f",
    "features": "#8a6d1f",
}
MODELS = (ACCENT, "#c2410c", "#15803d", "#a21caf", "#0e7490", "#854d0e")
"""Of latents that are set side by side."""
Curve = Sequence[tuple[int, float, Sequence[float]]]
GROWS = 1.2
"""A chart on a wide page is at most so many times as large as it was made."""
TIP = "tip:"
"""An artist's gid that begins so is shown where the mouse rests on it."""


def chart(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one chart, in points, without a frame."""
    figure = Figure((width / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=12, labelcolor=SOFT)
    axes.xaxis.label.set(size=12, color=SOFT)
    axes.set_axisbelow(True)
    return figure, axes


def svg(figure: Figure, alt: str) -> Markup:
    """The chart for within a page: as wide as its column, text as text, nothing that it refers to."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "giza"}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(text.getvalue())
    marks = {element.get("id"): element for element in root.iter() if element.tag.endswith("}path")}
    for parent in list(root.iter()):
        for place, element in enumerate(list(parent)):
            if element.tag.endswith("}defs"):
                parent.remove(element)
            elif element.tag.endswith("}use"):
                mark = marks[element.get("{http://www.w3.org/1999/xlink}href", "")[1:]]
                where = f"translate({element.get('x')} {element.get('y')})"
                style = f"{mark.get('style', '')}; {element.get('style', '')}"
                parent[place] = ElementTree.Element(
                    "path", {"d": mark.get("d", ""), "transform": where, "style": style}
                )
    for element in root.iter():
        element.tag = element.tag.rsplit("}", 1)[-1]
        element.attrib.pop("clip-path", None)
        name = str(element.attrib.pop("id", ""))
        if name.startswith(TIP):
            title = ElementTree.Element("title")
            title.text = name.removeprefix(TIP)
            element.insert(0, title)
        if "style" in element.attrib:
            element.set("style", _themed(element.attrib["style"]))
    root.attrib = {"class": "chart", "viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt}
    root.set("style", f"max-width: {figure.get_figwidth() * 72 * GROWS:.0f}px")
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _themed(style: str) -> str:
    style = re.sub(r"font: (?:(\d+) )?([\d.]+)px [^;]*", r"font-size: \2px; font-weight: \1", style)
    style = re.sub(r"font-weight: (?=;|$)", "font-weight: 400", style)
    return re.sub(r"#[0-9a-f]{6}", lambda c: f"var(--{THEME[c[0]]})" if c[0] in THEME else c[0], style)


def usage_bars(positions: Sequence[Sequence[int]]) -> Figure:
    """Share of each code, in the order of the codebook, with a line where all would be used alike; from the counts of
    each position in a row of codes."""
    counts = np.array([sum(column) for column in zip_longest(*positions, fillvalue=0)])
    shares = counts / max(1, counts.sum())
    even = 1 / len(shares)
    figure, axes = chart(620, 120)
    for code, bar in enumerate(axes.bar(range(len(shares)), shares, 0.85, color=ACCENT)):
        bar.set_gid(f"{TIP}code {code}: {100 * shares[code]:.1f}%")
    axes.axhline(even, color=SOFT, dashes=(4, 3), linewidth=1)
    beside(axes, even, f"{100 * even:.1f}% each", SOFT)
    axes.set(xlim=(-0.5, len(shares) - 0.5), yticks=[], xticks=range(len(shares)) if len(shares) <= 32 else [])
    return figure


def label_curves(
    curves: Mapping[str, Curve],
    titles: Mapping[str, str],
    colours: Mapping[str, str] = COLOURS,
    strong: Collection[str] = ("latent",),
) -> Figure:
    """R2 over the number of labelled pairs (logarithmic) for each feature; points are (labels, R2, interval)."""
    # A fit gone astray at few labels must not flatten all else.
    worst = min(0.0, *(value for curve in curves.values() for _, value, _ in curve))
    low = math.floor(max(-0.3, worst) * 5) / 5
    figure, axes = chart(620, 260)
    placed = 2.0
    for name, curve in sorted(curves.items(), key=lambda item: -item[1][-1][1]):
        colour = colours[name]
        labels, values = [count for count, _, _ in curve], [max(value, low) for _, value, _ in curve]
        spans = [[max(edge, low) for edge in ci] for _, _, ci in curve]
        axes.plot(labels, values, color=colour, linewidth=2)
        axes.vlines(labels, *zip(*spans, strict=True), color=colour, linewidth=1, alpha=0.6)
        for count, value, shown in zip(labels, (point[1] for point in curve), values, strict=True):
            tip = f"{TIP}{titles[name]}: R2 {value:.2f} with {count} labelled pairs"
            axes.plot([count], [shown], "o", color=colour, markersize=6, gid=tip)
        placed = min(placed - 0.065 * (1 - low), values[-1])
        beside(axes, placed, titles[name], colour, weight="bold" if name in strong else "normal")
    ticks = sorted({point[0] for curve in curves.values() for point in curve})
    axes.set(
        xscale="log", ylim=(low - 0.02, 1.02), xlabel="labelled pairs", yticks=np.arange(low, 1.01, 0.2).round(1) + 0.0
    )
    axes.set_xticks(ticks, [str(count) for count in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color=LINE)
    return figure


def beside(axes: Axes, y: float, text: str, colour: str = INK, weight: str = "normal") -> None:
    """Text at the right of the chart, at the height `y` of its data."""
    font: dict[str, Any] = {"color": colour, "size": 12, "va": "center", "weight": weight}
    axes.annotate(text, (1, y), (8, 0), ("axes fraction", "data"), "offset points", annotation_clip=False, **font)


def strip(groups: Sequence[Sequence[NDArray[np.uint8]]], side: int, alt: str) -> Markup:
    """An <img> of groups of frames side by side; uint8 [S, S, 3] RGB each, resized to `side`; gaps are transparent."""
    columns: list[NDArray[np.uint8]] = []
    for number, group in enumerate(groups):
        for position, frame in enumerate(group):
            if number or position:
                columns.append(np.zeros((side, GAP if position else GROUP_GAP, 4), np.uint8))
            method = cv2.INTER_AREA if frame.shape[0] > side else cv2.INTER_CUBIC
            resized = frame if frame.shape[0] == side else cv2.resize(frame, (side, side), interpolation=method)
            columns.append(np.dstack([resized, np.full((side, side), 255, np.uint8)]))
    image = np.concatenate(columns, axis=1)
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    encoded = base64.b64encode(data.tobytes()).decode("ascii")
    return Markup('<img src="data:image/png;base64,{}" width="{}" alt="{}">').format(encoded, image.shape[1], alt)


def change_image(first: NDArray[np.uint8], second: NDArray[np.uint8], gain: int = 1) -> NDArray[np.uint8]:
    """Second minus first about grey, times `gain`: grey is where nothing changed."""
    change = second.astype(np.int16) - first
    return (128 + gain * change).clip(0, 255).astype(np.uint8)
