"""How much of the camera's own motion a latent carries: room that actions do not get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.camera import motion_at_centre
from lapa.probe import Feature, ProbeSettings, Split, run_probe

QUANTITIES = ("dx", "dy", "rotation_deg", "log_scale")
"""Shift of the picture's centre in half-widths and half-heights, rotation, logarithm of the scale."""
LEAST_SPREAD = (0.006, 0.006, 0.15, 0.004)
"""Standard deviations below which a camera counts as still: what tracking noise amounts to."""
WINSOR = (1.0, 99.0)
"""Percentiles of the training pairs beyond which a measured motion is clipped: a lost track must not decide an R2."""
MIN_PAIRS = 50


def camera_motion(h: NDArray[np.floating]) -> NDArray[np.float64]:
    """Homographies [N, 3, 3] -> dx, dy, rotation in degrees, log scale [N, 4]."""
    values = np.array([motion_at_centre(one, 1.0) for one in h], np.float64).reshape(-1, 4)
    values[:, 3] = np.log(np.maximum(values[:, 3], 1e-3))
    return values


def moving_columns(values: NDArray[np.floating], least: Sequence[float]) -> list[int]:
    """Columns of [N, K] whose spread is above `least`, judged between the winsor percentiles."""
    low, high = np.nanpercentile(values, WINSOR, axis=0)
    spread = np.nanstd(np.clip(values, low, high), axis=0)
    return [int(k) for k in np.flatnonzero(spread > np.asarray(least))]


def camera_probe(
    features: Mapping[str, Feature],
    values: NDArray[np.floating],
    names: Sequence[str],
    groups: NDArray[Any],
    splits: Sequence[Split],
    settings: ProbeSettings,
) -> dict[str, Any]:
    """R2 from each feature to the camera's motion `values` [N, K], groups held out.

    Returns {r2_mean, ci95, quantities, pairs, baselines: {feature: {r2_mean, ci95}}}, r2 of the latent.
    """
    train = splits[0].train
    low, high = np.percentile(values[train], WINSOR, axis=0)
    only_all = ProbeSettings(budgets=(), bootstrap=settings.bootstrap, folds=settings.folds, seed=settings.seed)
    found = run_probe(features, np.clip(values, low, high), groups, splits, only_all)
    latent = found["latent"]
    return {
        "r2_mean": latent["r2_mean"],
        "ci95": latent["ci95"],
        "r2": dict(zip(names, latent["r2"], strict=True)),
        "pairs": len(values),
        "groups": len(np.unique(groups)),
        "baselines": {
            name: {"r2_mean": found[name]["r2_mean"], "ci95": found[name]["ci95"]}
            for name in features
            if name != "latent"
        },
        "difference": found["difference"],
    }
