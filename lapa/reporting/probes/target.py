"""What a probe is asked for: the relative motion over a pair's gap, from ground truth in its own times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

STATE = "observation.state"
ACTION = "action"
MOVES_SHARE = 0.05
"""A dimension counts as moving where its spread over pairs is above this share of the widest."""
MAX_DIMS = 16
HAND_FIRST = ("metaworld", "sawyer")
"""Embodiments whose state begins with the hand's position: x, y and z are asked for unless told otherwise."""


def choose_feature(features: Sequence[str], wanted: str | None) -> str:
    """`wanted`, or the state where there is one, or the action. Raises ValueError where there is none of them."""
    known = sorted(set(features))
    if wanted is not None:
        if wanted not in known:
            raise ValueError(
                f"target '{wanted}': the corpus knows {', '.join(known) or 'no feature'}; name one of these"
            )
        return wanted
    for name in (STATE, ACTION):
        if name in known:
            return name
    raise ValueError(f"neither {STATE} nor {ACTION} among {', '.join(known)}; name a feature with --target")


def relative_motion(
    truth: Mapping[str, NDArray[Any]], feature: str, t_s: NDArray[np.floating], gap_s: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Motion [N, D] over each pair's gap; NaN where a frame lies outside the known times.

    A state changes: its linear interpolation at t + gap minus that at t. Actions add up: their sum over the gap, each
    held until the next. `truth` holds t_s [M] in seconds and feature [M, D].
    """
    times = np.asarray(truth["t_s"], np.float64)
    values = np.asarray(truth[feature], np.float64)
    values = values[:, None] if values.ndim == 1 else values
    begin, end = np.asarray(t_s, np.float64), np.asarray(t_s, np.float64) + np.asarray(gap_s, np.float64)
    if len(times) < 2:
        return np.full((len(begin), values.shape[1]), np.nan)
    step = float(np.median(np.diff(times)))
    if feature == ACTION:
        # A sum in the action's own steps, so that the motion over a gap does not depend on the pair's phase.
        edges = np.append(times, times[-1] + step)
        curve = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    else:
        edges, curve = times, values
    known = (begin >= edges[0] - step) & (end <= edges[-1] + step)
    motion = np.stack([np.interp(end, edges, column) - np.interp(begin, edges, column) for column in curve.T], axis=1)
    return np.where(known[:, None], motion, np.nan)


def choose_dims(motion: NDArray[np.floating], embodiment: str, feature: str, wanted: Sequence[int]) -> list[int]:
    """The dimensions to ask for. Raises ValueError for one that `motion` [N, D] lacks."""
    width = motion.shape[1]
    if wanted:
        wrong = [dim for dim in wanted if not 0 <= dim < width]
        if wrong:
            raise ValueError(f"dims {wrong}: {feature} of '{embodiment}' has dimensions 0 to {width - 1}")
        return [int(dim) for dim in wanted]
    if feature == STATE and width >= 3 and any(name in embodiment.lower() for name in HAND_FIRST):
        return [0, 1, 2]
    spread = np.nanstd(motion, axis=0)
    moving = np.flatnonzero(spread > MOVES_SHARE * spread.max(initial=0.0))
    widest = moving[np.argsort(-spread[moving], kind="stable")][:MAX_DIMS]
    return sorted(int(dim) for dim in widest)
