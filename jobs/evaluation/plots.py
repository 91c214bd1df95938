"""What an open-loop evaluation looks like: errors beside the baselines, and predicted beside true trajectories."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from jobs.evaluation.open_loop import BASELINES, STILL_TITLES, Chunks, OpenLoopResult, describe_still, episodes_told

_COLOURS = {
    "policy": "#1f5fa8",
    "hold_still": "#8d8d86",
    "repeat_last": "#c46a1c",
    "mean_chunk": "#7d5bbe",
    "mean_motion": "#2f9180",
}
MAX_DIMENSIONS = 12
"""Of an action with more, those that move most are drawn."""


def _title(method: str) -> str:
    return BASELINES.get(method, method)


def error_figure(result: OpenLoopResult) -> Figure:
    """Normalised error of each method with its interval, by dimension (below its name the rule by which it holds still,
    where that is known), and by how far ahead."""
    still = result.hold_still_is
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    overall, steps, dims = (
        figure.add_subplot(grid[0, 0]),
        figure.add_subplot(grid[0, 1]),
        figure.add_subplot(grid[1, :]),
    )
    for row, method in enumerate(result.methods):
        found = result.overall[method]
        value, low, high = float(found.value), float(found.low), float(found.high)
        overall.barh(row, value, color=_COLOURS.get(method, "#444444"))
        overall.plot([low, high], [row, row], color="black", linewidth=1.5)
        overall.text(np.fmax(high, value), row, f"  {value:.3g}", va="center")
    overall.set_yticks(range(len(result.methods)), [_title(method) for method in result.methods])
    overall.invert_yaxis()
    overall.set_xlim(0, 1.15 * max(float(np.fmax(found.high, found.value)) for found in result.overall.values()))
    told = episodes_told(result.episodes, result.standing)
    overall.set_title(f"squared error / variance, {result.samples} chunks of {told}")
    for method, curve in result.per_step.items():
        steps.plot(np.arange(len(curve)), curve, color=_COLOURS.get(method, "#444444"), label=_title(method))
    steps.set_xlabel("step of the chunk")
    steps.set_title("by how far ahead")
    steps.set_ylim(bottom=0)
    steps.legend(frameon=False)
    shown = _dimensions(result)
    width = 0.8 / len(result.methods)
    for number, method in enumerate(result.methods):
        found = result.per_dim[method]
        scale = result.std[shown] ** 2
        at = np.arange(len(shown)) + number * width - 0.4 + width / 2
        dims.bar(at, found.value[shown] / scale, width, color=_COLOURS.get(method, "#444444"), label=_title(method))
        dims.vlines(at, found.low[shown] / scale, found.high[shown] / scale, color="black", linewidth=0.8)
    below = [f"\n(still: {STILL_TITLES[still[dim]]})" if still else "" for dim in shown]
    labels = [result.names[dim] + rule for dim, rule in zip(shown, below, strict=True)]
    dims.set_xticks(range(len(shown)), labels, rotation=30, ha="right")
    rules = f"; hold still is {describe_still(still)}" if still else ""
    dims.set_title(f"by dimension, squared error / variance{rules}")
    for axes in (overall, steps, dims):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_trajectories(
    result: OpenLoopResult, truth: Chunks, predicted: NDArray[np.floating[Any]], episode: int, step_s: float, path: Path
) -> None:
    """PNG: one episode, what was done (black) and the policy's chunks (coloured), each from where it was
    predicted; one after the other without overlap. `predicted` [N, H, Da]; `step_s`: seconds between steps of a chunk."""
    rows = np.flatnonzero(truth.episode == episode)
    rows = rows[np.argsort(truth.t_s[rows])]
    shown = _dimensions(result)
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(4.6 * columns, 2.3 * lines + 0.5), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, squeeze=False)
    horizon_s = truth.action.shape[1] * step_s
    starts, free_s = [], -math.inf
    for row in rows:
        if truth.t_s[row] >= free_s - 1e-6:
            starts.append(row)
            free_s = truth.t_s[row] + horizon_s
    for axes, dim in zip(grid.ravel(), shown, strict=False):
        # the true line from the same chunks: rows may be further apart than steps
        for place, row in enumerate(starts):
            known = truth.mask[row]
            t_s = truth.t_s[row] + np.arange(len(known)) * step_s
            label = place == 0
            axes.plot(t_s[known], truth.action[row, known, dim], "k-", lw=1.3, label="demonstrated" if label else None)
            line = axes.plot(t_s[known], predicted[row, known, dim], lw=1.6, color=_COLOURS["policy"], alpha=0.9)
            line[0].set_label("predicted" if label else "")
            axes.plot(t_s[:1], predicted[row, :1, dim], "o", ms=3, color=_COLOURS["policy"])
        axes.set_title(result.names[dim], fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.ravel()[len(shown) :]:
        axes.set_axis_off()
    for axes in grid.ravel()[max(0, len(shown) - columns) : len(shown)]:
        axes.set_xlabel("s")
        axes.tick_params(labelbottom=True)
    grid[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"episode {episode}: chunks of {truth.action.shape[1]} steps ({horizon_s:.2f} s)")
    figure.savefig(path, dpi=100)


def _dimensions(result: OpenLoopResult) -> NDArray[np.int64]:
    """Those that move, at most MAX_DIMENSIONS, the ones of the largest deviation, in their own order."""
    moving = np.flatnonzero(result.moving)
    largest = moving[np.argsort(-result.std[moving], kind="stable")][:MAX_DIMENSIONS]
    return np.sort(largest)
