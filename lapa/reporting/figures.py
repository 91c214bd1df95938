"""Inline figures of the report page: SVG charts that follow the page's colours, and PNG strips of frames."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

GAP = 4
GROUP_GAP = 14


def strip(frames: Sequence[Sequence[NDArray[np.uint8]]], *, side: int, alt: str, scale: float = 1.0) -> str:
    """An <img> of groups of frames side by side; uint8 [S, S, 3] RGB each, resized to `side`; gaps are transparent."""
    columns: list[NDArray[np.uint8]] = []
    for number, group in enumerate(frames):
        if number:
            columns.append(np.zeros((side, GROUP_GAP, 4), np.uint8))
        for position, frame in enumerate(group):
            if position:
                columns.append(np.zeros((side, GAP, 4), np.uint8))
            method = cv2.INTER_AREA if frame.shape[0] > side else cv2.INTER_CUBIC
            resized = frame if frame.shape[0] == side else cv2.resize(frame, (side, side), interpolation=method)
            columns.append(np.dstack([resized, np.full((side, side), 255, np.uint8)]))
    picture = np.concatenate(columns, axis=1)
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    encoded = base64.b64encode(data.tobytes()).decode("ascii")
    width = round(picture.shape[1] * scale)
    return f'<img src="data:image/png;base64,{encoded}" width="{width}" alt="{escape(alt, quote=True)}">'


def change_picture(first: NDArray[np.uint8], second: NDArray[np.uint8], *, gain: int = 1) -> NDArray[np.uint8]:
    """Second minus first about grey, times `gain`: grey is where nothing changed."""
    change = second.astype(np.int16) - first
    return (128 + gain * change).clip(0, 255).astype(np.uint8)


def bar(
    value: float, ci: Sequence[float] | None, low: float, high: float, *, strong: bool = False, width: int = 210
) -> str:
    """A bar from zero to `value` on an axis from `low` to `high`, with its interval as a whisker."""
    height, middle = 18, 9

    def x(v: float) -> float:
        return (min(max(v, low), high) - low) / (high - low) * (width - 2) + 1

    left, right = sorted((x(0.0), x(value)))
    parts = [f'<line class="axis" x1="{x(0):.1f}" y1="1" x2="{x(0):.1f}" y2="{height - 1}"/>']
    kind = "strong" if strong else "plain"
    parts.append(
        f'<rect class="bar {kind}" x="{left:.1f}" y="4" width="{max(right - left, 0.5):.1f}" height="10" rx="2"/>'
    )
    if ci is not None:
        a, b = x(ci[0]), x(ci[1])
        parts.append(f'<path class="whisker" d="M{a:.1f} {middle}H{b:.1f}M{a:.1f} 5v8M{b:.1f} 5v8"/>')
    return (
        f'<svg class="inline" width="{width}" height="{height}" viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'
    )


def usage_bars(counts: Sequence[int], *, width: int = 640, height: int = 120) -> str:
    """Share of each code, in the order of the code book, with a line where all would be used alike."""
    total = max(1, sum(counts))
    shares = [count / total for count in counts]
    even = 1 / len(counts)
    top = max(*shares, even, 1e-9) * 1.1
    chart = width - 70  # what is right of it says what the line means
    step = chart / len(counts)
    body = height - 18
    parts = []
    for number, share in enumerate(shares):
        tall = share / top * body
        inset = min(2.0, step * 0.15)
        parts.append(
            f'<rect class="bar strong" x="{number * step + inset:.2f}" y="{body - tall:.2f}" '
            f'width="{max(step - 2 * inset, 0.4):.2f}" height="{tall:.2f}"><title>code {number}: {100 * share:.1f}%</title></rect>'
        )
        if len(counts) <= 32:
            parts.append(f'<text x="{(number + 0.5) * step:.1f}" y="{height - 4}" text-anchor="middle">{number}</text>')
    line = body - even / top * body
    parts.append(f'<line class="even" x1="0" y1="{line:.1f}" x2="{chart}" y2="{line:.1f}"/>')
    parts.append(f'<text x="{chart + 6}" y="{line + 4:.1f}">{100 * even:.1f}% each</text>')
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def label_curves(
    curves: Mapping[str, Sequence[tuple[int, float, Sequence[float]]]],
    titles: Mapping[str, str],
    *,
    width: int = 640,
    height: int = 260,
) -> str:
    """R2 over the number of labelled pairs (logarithmic) for each feature; points are (labels, R2, interval)."""
    points = [point for curve in curves.values() for point in curve]
    labels = sorted({point[0] for point in points})
    left, right, top, bottom = 40, 170, 10, 34
    # A fit gone astray at few labels must not flatten all else.
    low = max(-0.3, min(0.0, *(point[1] for point in points)))
    low, high = math.floor(low * 5) / 5, 1.0
    first, last = math.log(labels[0]), math.log(labels[-1])

    def x(count: float) -> float:
        return left + (math.log(count) - first) / max(last - first, 1e-9) * (width - left - right)

    def y(value: float) -> float:
        return top + (high - min(max(value, low), high)) / (high - low) * (height - top - bottom)

    parts = []
    for tick in np.arange(low, high + 0.01, 0.2):
        parts.append(f'<line class="grid" x1="{left}" y1="{y(tick):.1f}" x2="{width - right}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick + 0.0:.1f}</text>')
    for count in labels:
        parts.append(f'<text x="{x(count):.1f}" y="{height - 16}" text-anchor="middle">{count}</text>')
    parts.append(
        f'<text x="{(left + width - right) / 2:.0f}" y="{height - 1}" text-anchor="middle">labelled pairs</text>'
    )
    spots = sorted(((y(curve[-1][1]), name) for name, curve in curves.items() if curve), key=lambda spot: spot[0])
    placed = -1e9
    for wanted, name in spots:
        placed = max(wanted, placed + 15)
        curve = curves[name]
        path = "L".join(f"{x(count):.1f} {y(value):.1f}" for count, value, _ in curve)
        parts.append(f'<path class="curve c-{name}" d="M{path}"/>')
        for count, value, ci in curve:
            parts.append(f'<path class="curve thin c-{name}" d="M{x(count):.1f} {y(ci[0]):.1f}V{y(ci[1]):.1f}"/>')
            parts.append(
                f'<circle class="dot c-{name}" cx="{x(count):.1f}" cy="{y(value):.1f}" r="3">'
                f"<title>{escape(titles[name])}: R2 {value:.2f} with {count} labelled pairs</title></circle>"
            )
        parts.append(
            f'<text class="label t-{name}" x="{width - right + 10}" y="{placed + 4:.1f}">{escape(titles[name])}</text>'
        )
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'
