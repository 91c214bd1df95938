"""How much of the camera's own motion a latent carries: room that actions do not get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.video.camera import motion_at_centre
from lapa.latent_sample import LatentSample
from lapa.reporting.probes.baselines import fixed, shuffled
from lapa.reporting.probes.motion import Truth
from lapa.reporting.probes.probe import Feature, ProbeSettings, Split, k_fold_splits, run_probe
from lapa.reporting.probes.target import relative_motion

KNOWN = "camera.motion"
"""Feature of the ground truth that holds the camera's own motion."""

POSE = ("x", "y", "z", "turn about x", "turn about y", "turn about z")
"""What giza simulate stores."""
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


def check_camera(
    sample: LatentSample, truth: Truth, pca: NDArray[np.float32], settings: ProbeSettings
) -> dict[str, Any]:
    """{r2_mean, ...} as `camera_probe`, or r2_mean None and the reason; `truth` the same for known camera motion.

    `pca` [N, D]: the difference images' principal components, beside which the latent is set.
    """
    measured = np.flatnonzero(sample.camera_inlier_ratio > 0)
    result = _camera_from(
        sample, pca, measured, camera_motion(sample.camera[measured]), QUANTITIES, LEAST_SPREAD, settings
    )
    result["source"] = "measured by tracking"
    has = [row for row, clip in enumerate(sample.clip_id.tolist()) if KNOWN in truth.get(clip, {})]
    if has:
        rows = np.array(has, np.int64)
        values = np.concatenate(
            [
                relative_motion(truth[str(sample.clip_id[row])], KNOWN, sample.t_s[[row]], sample.gap_s[[row]])
                for row in has
            ]
        )
        fine = np.isfinite(values).all(1)
        names = list(POSE) if values.shape[1] == len(POSE) else [f"{KNOWN}[{k}]" for k in range(values.shape[1])]
        least = [1e-3] * values.shape[1]  # a millimetre, a milliradian
        result["truth"] = _camera_from(sample, pca, rows[fine], values[fine], names, least, settings)
    return result


def _camera_from(
    sample: LatentSample,
    pca: NDArray[np.float32],
    rows: NDArray[np.int64],
    values: NDArray[np.float64],
    names: Sequence[str],
    least: Sequence[float],
    settings: ProbeSettings,
) -> dict[str, Any]:
    if len(rows) > 8000:
        some = np.linspace(0, len(rows) - 1, 8000).round().astype(np.int64)
        rows, values = rows[some], values[some]
    nothing: dict[str, Any] = {"r2_mean": None, "ci95": None}
    groups = sample.group[rows]
    if len(rows) < MIN_PAIRS or len(np.unique(groups)) < 2:
        return nothing | {
            "reason": f"the camera's motion is known for {len(rows)} pairs of {len(np.unique(groups))} videos"
        }
    columns = moving_columns(values, least)
    if not columns:
        return nothing | {"reason": "the camera stands still"}
    # Each video in turn: those held out of training are few, and their camera may stand still.
    splits = k_fold_splits(groups, settings.folds, settings.seed)
    latent = sample.latent[rows]
    features = {
        "latent": fixed(latent),
        "pca": fixed(pca[rows]),
        "shuffled": shuffled(latent, settings.seed, 1),
    }
    chosen = [names[k] for k in columns]
    return camera_probe(features, values[:, columns], chosen, groups, splits, settings)
