"""Inline figures of a page: Matplotlib's charts as SVG in the page's own colours, and strips of frames as JPEG."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import cv2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from lapa.reporting import palette

JPEG_QUALITY = 85
INK, SOFT, LINE, ACCENT = "#1d1f21", "#62676d", "#dedbd3", "#1f5fa8"
GOOD, BAD, CARD = "#22763f", "#b3261e", "#ffffff"
COLOURS = {
    "latent": ACCENT,
    "quantized": "#7d5bbe",
    "first_frame": "#8d8d86",
    "untrained": "#2f9181",
    "pca": "#c46a1d",
    "vision": "#b0487f",
    "features": "#8a6d1f",
    "shuffled": "#a5a29a",
}
"""Of no other chart, so that THEME can tell them."""
THEME = {
    INK: "ink",
    SOFT: "soft",
    LINE: "line",
    ACCENT: "accent",
    GOOD: "good",
    BAD: "bad",
    CARD: "card",
    **{colour: f"f-{name}" for name, colour in COLOURS.items() if name != "latent"},
    **{colour: f"k{number}" for number, colour in enumerate(palette.COLOURS)},
}
"""Colours of base.html.j2 on a light desk; on the page they are its variables, and so follow a dark one."""
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


def usage_bars(
    shares: Sequence[float], labels: Sequence[str], colours: Sequence[int], each: str = "code", most: int = 48
) -> Figure:
    """How often each of some labels occurs, in the colours that the map has for them (`lapa.reporting.palette`); a dashed line
    where all would occur alike. At most `most`, then the most frequent of them."""
    even = 1 / max(1, len(shares))
    order = range(len(shares))
    if len(shares) > most:
        order = np.argsort(-np.asarray(shares), kind="stable")[:most].tolist()  # type: ignore[assignment]
    figure, axes = chart(440, 150)
    filled = [palette.COLOURS[colours[k]] if colours[k] != palette.REST else SOFT for k in order]
    for k, bar in zip(order, axes.bar(range(len(order)), [shares[k] for k in order], 0.85, color=filled), strict=True):
        bar.set_gid(f"{TIP}{each} {labels[k]}: {100 * shares[k]:.1f}%")
    axes.axhline(even, color=SOFT, dashes=(4, 3), linewidth=1)
    upright = len(order) > 16 or max(len(labels[k]) for k in order) > 2
    ticks = [labels[k] for k in order] if len(order) <= 32 else []
    axes.set_xticks(range(len(ticks)), ticks, rotation=90 if upright else 0, fontsize=10)
    axes.set(xlim=(-0.6, len(order) - 0.4), ylim=(0, max(1.15 * max(shares, default=0.0), 1.5 * even)))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=LINE)
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
    """Groups of frames side by side, which wrap where the page is narrow; uint8 [H, W, 3] RGB each, `side` pixels its shorter
    side."""
    told = Markup("").join(
        Markup('<span class="group">{}</span>').format(Markup("").join(_image(frame, side) for frame in group))
        for group in groups
    )
    return Markup('<div class="strip" role="img" aria-label="{}">{}</div>').format(alt, told)


def _image(frame: NDArray[np.uint8], side: int) -> Markup:
    scale = side / min(frame.shape[:2])
    width, height = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = frame if scale == 1 else cv2.resize(frame, (width, height), interpolation=method)
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(resized, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert done
    encoded = base64.b64encode(data.tobytes()).decode("ascii")
    return Markup('<img src="data:image/jpeg;base64,{}" width="{}" height="{}" alt="">').format(encoded, width, height)


def change_image(first: NDArray[np.uint8], second: NDArray[np.uint8], gain: int = 1) -> NDArray[np.uint8]:
    """Second minus first about grey, times `gain`: grey is where nothing changed."""
    change = second.astype(np.int16) - first
    return (128 + gain * change).clip(0, 255).astype(np.uint8)
