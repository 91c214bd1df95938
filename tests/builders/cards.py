"""A report card of a sound model, without measuring one."""

from __future__ import annotations

import dataclasses
from typing import Any

from lapa.codes import Codes, Combinations, LatentHealth, PositionUse
from lapa.reporting.card import (
    Appearance,
    AtlasSize,
    CameraProbe,
    Card,
    Cuts,
    Probe,
    Reconstruction,
)
from lapa.reporting.scores import Difference, Readout, Score
from lapa.reporting.settings import ReportSettings

BODY = "arm"


def difference(mean: float, width: float = 0.05) -> Difference:
    return Difference(mean, (mean - width, mean + width))


def score(mean: float, low: float, high: float) -> Score:
    return Score([mean], mean, (low, high), [(low, high)])


def readout(labels: int) -> Readout:
    means = {"first_frame": 0.2, "untrained": 0.7, "pca": 0.72, "shuffled": 0.0}
    scores = {"latent": score(0.8, 0.75, 0.85)} | {name: score(m, m - 0.05, m + 0.05) for name, m in means.items()}
    return Readout(labels, scores, {name: difference(0.8 - mean) for name, mean in means.items()})


def good_card(**more: Any) -> Card:
    """What a report on a sound model says; `more` replaces fields."""
    decoded = dict.fromkeys(("explained", "continuous_explained", "pca_explained"), 0.5)
    decoded |= {"random_code_explained": -0.2, "shuffled_code_explained": -0.1}
    decibels = {"psnr_db": 25.0, "continuous_psnr_db": 25.0, "copy_psnr_db": 22.0, "plain_copy_psnr_db": 21.0}
    decibels |= {"random_code_psnr_db": 21.0, "shuffled_code_psnr_db": 21.5}
    probe = Probe(
        target="the change of observation.state", feature="observation.state", embodiment=BODY, gap_s=0.5,
        dims=[0], spread=[1.0], other_dims=[1], other_spread=[0.01],
        dimension=128, pairs=500, groups=20, train_pairs=400, holdout="held out of training", test_groups=["a", "b"],
        notes=[], neighbour_agreement=0.5, readout=readout(400), budgets=[readout(64)], skipped_budgets=[],
    )  # fmt: skip
    card = Card(
        settings=ReportSettings(),
        pairs=500,
        sampled_pairs=500,
        clips=40,
        groups=20,
        embodiments=[BODY],
        gap_s=0.5,
        model_hash="made",
        codes=Codes(16, 16, 13.0, 500, False, False, (PositionUse(16, 13.0, (31,) * 16),),
                    Combinations(16, 16.0, 13.0)),
        codes_reason="",
        latent=LatentHealth(128, 20.0, 0.1, False),
        reconstruction=Reconstruction(100, **decibels, **decoded, groups=5, on="held-out videos", unit="pixels"),
        cuts=Cuts(90, **decibels, **{**decoded, "explained": 0.1, "continuous_explained": 0.2}, kind="neighbouring shots",
                  real_explained=0.5, guess_explained=0.4),
        appearance=Appearance(0.1, (0.0, 0.2), 0.1, 0.1, 0.0, (-0.1, 0.1), 500, 20),
        probes={BODY: probe},
        probe_reason="",
        probe_notes=[],
        camera=CameraProbe(0.1, (0.0, 0.2), source="measured by tracking"),
        transfer=None,
        transfer_reason="made",
        atlas=AtlasSize("sequences of codes", 8),
        seconds={},
        warnings=[],
    )  # fmt: skip
    return dataclasses.replace(card, **more)
