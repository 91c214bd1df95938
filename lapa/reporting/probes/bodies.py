"""Between bodies: what a read-out that was fitted on one body's motion finds in the latents of another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lapa.latents import LatentSample
from lapa.reporting.probes.baselines import ImageComponents, fixed, shuffled
from lapa.reporting.probes.motion import KnownMotion
from lapa.reporting.probes.probe import Feature, Split, run_probe
from lapa.reporting.scores import BodyToBody, MeanScore
from lapa.reporting.settings import ReportSettings


def check_bodies(
    known: Sequence[KnownMotion], sample: LatentSample, thumbs: NDArray[np.uint8], settings: ReportSettings
) -> list[BodyToBody]:
    """Both ways between every two bodies of which the same feature is known, in the dimensions that are asked for of both."""
    found = []
    for fitted, tested in itertools.permutations(known, 2):
        dims = [dim for dim in fitted.dims if dim in tested.dims]
        if fitted.feature != tested.feature or not dims:
            continue
        rows = np.concatenate([fitted.rows, tested.rows])
        y = np.concatenate([motion.y[:, [motion.dims.index(dim) for dim in dims]] for motion in (fitted, tested)])
        train = np.arange(len(rows)) < len(fitted.rows)
        latent = sample.latent[rows]
        features: dict[str, Feature] = {
            "latent": fixed(latent),
            "pca": ImageComponents(thumbs[rows], "change", latent.shape[1], settings.seed),
            "shuffled": shuffled(latent, settings.seed),
        }
        read = run_probe(features, y, sample.group[rows], [Split(train, ~train)], settings)
        scores = read.all_labels.scores
        found.append(
            BodyToBody(
                fitted_on=fitted.embodiment,
                tested_on=tested.embodiment,
                feature=fitted.feature,
                dims=dims,
                train_pairs=len(fitted.rows),
                pairs=len(tested.rows),
                r2=scores["latent"].r2,
                scores={name: MeanScore(score.r2_mean, score.ci95) for name, score in scores.items()},
                few={
                    str(few.labels): MeanScore(few.scores["latent"].r2_mean, few.scores["latent"].ci95)
                    for few in read.budgets
                },
            )
        )
    return found
