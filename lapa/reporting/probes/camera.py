"""How much of the camera's own motion a latent carries: room that actions do not get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from corpora.video.camera import motion_at_centre
from lapa.latents import LatentSample
from lapa.reporting.card import CameraProbe
from lapa.reporting.probes.baselines import fixed, shuffled
from lapa.reporting.probes.motion import Truth, motion_of
from lapa.reporting.probes.probe import k_fold_splits, run_probe
from lapa.reporting.scores import MeanScore
from lapa.reporting.settings import ReportSettings

KNOWN = "camera.motion"
"""Feature of the ground truth that holds the camera's own motion."""

POSE = ("x", "y", "z", "turn about x", "turn about y", "turn about z")
"""What giza simulate stores."""
QUANTITIES = ("dx", "dy", "rotation_deg", "log_scale")
"""Shift of the image's centre in half-widths and half-heights, rotation, logarithm of the scale."""
LEAST_SPREAD = (0.006, 0.006, 0.15, 0.004)
"""Standard deviations below which a camera counts as still: what tracking noise amounts to."""
WINSOR = (1.0, 99.0)
"""Percentiles of the training pairs beyond which a measured motion is clipped: a lost track must not decide an R2."""
MIN_PAIRS = 50
MAX_PAIRS = 8000
"""More change the figures little."""


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


def check_camera(sample: LatentSample, truth: Truth, pca: NDArray[np.float32], settings: ReportSettings) -> CameraProbe:
    """R2 from the latent to the camera's motion as tracking measured it, and as the recording knows it.

    `pca` [N, D]: the difference images' principal components, beside which the latent is set.
    """
    measured = np.flatnonzero(sample.camera_inlier_ratio > 0)
    moved = camera_motion(sample.camera[measured])
    result = _probe_motion(sample, pca, measured, moved, QUANTITIES, LEAST_SPREAD, settings)
    known = None
    has = [row for row, clip in enumerate(sample.clip_id.tolist()) if KNOWN in truth.get(clip, {})]
    if has:
        rows, values = motion_of(sample, truth, np.array(has, np.int64), KNOWN)
        names = list(POSE) if values.shape[1] == len(POSE) else [f"{KNOWN}[{k}]" for k in range(values.shape[1])]
        least = [1e-3] * values.shape[1]  # a millimetre, a milliradian
        known = _probe_motion(sample, pca, rows, values, names, least, settings)
    return replace(result, source="measured by tracking", truth=known)


def _probe_motion(
    sample: LatentSample,
    pca: NDArray[np.float32],
    rows: NDArray[np.int64],
    values: NDArray[np.float64],
    names: Sequence[str],
    least: Sequence[float],
    settings: ReportSettings,
) -> CameraProbe:
    """`values` [P, K]: the camera's motion of `rows` of the sample."""
    if len(rows) > MAX_PAIRS:
        some = np.linspace(0, len(rows) - 1, MAX_PAIRS).round().astype(np.int64)
        rows, values = rows[some], values[some]
    groups = sample.group[rows]
    videos = len(np.unique(groups))
    if len(rows) < MIN_PAIRS or videos < 2:
        return CameraProbe(None, None, f"the camera's motion is known for {len(rows)} pairs of {videos} videos")
    columns = moving_columns(values, least)
    if not columns:
        return CameraProbe(None, None, "the camera stands still")
    # Each video in turn: those held out of training are few, and their camera may stand still.
    splits = k_fold_splits(groups, settings.seed)
    latent = sample.latent[rows]
    features = {"latent": fixed(latent), "pca": fixed(pca[rows]), "shuffled": shuffled(latent, settings.seed, 1)}
    low, high = np.percentile(values[splits[0].train][:, columns], WINSOR, axis=0)
    y = np.clip(values[:, columns], low, high)
    found = run_probe(features, y, groups, splits, replace(settings, budgets=())).all_labels
    own = found.scores["latent"]
    return CameraProbe(
        own.r2_mean,
        own.ci95,
        r2=dict(zip([names[k] for k in columns], own.r2, strict=True)),
        pairs=len(rows),
        groups=videos,
        baselines={n: MeanScore(score.r2_mean, score.ci95) for n, score in found.scores.items() if n != "latent"},
        difference=found.difference,
    )
