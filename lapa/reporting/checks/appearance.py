"""Is the latent a picture of the second frame?

An action says what changed, not how the scene looks. So the second frame's appearance (LOOK x LOOK pixels) is read from
the stored latent alone, on videos that the read-out was not fitted on, and set against what principal components of the
difference image give, which cannot know more than what changed. Given the first frame and the difference, the second
frame is known, to an honest latent too: that is why the first frame is kept from this read-out, and why the decoder, which
has the first frame, is asked across cuts alone (`reconstruction.check_cuts`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lapa.latents import LatentSample
from lapa.pairs.pair import resize_frames
from lapa.reporting.card import Appearance
from lapa.reporting.probes.baselines import fit_components
from lapa.reporting.probes.probe import TestGroups, interval, k_fold_splits, resample_groups
from lapa.reporting.probes.ridge import fit_ridge
from lapa.reporting.settings import ReportSettings

LOOK = 4
"""Side of the picture that is read, of which the leading COMPONENTS: coarse, so that few numbers hold it and any copy gives it
away."""
COMPONENTS = 8
MAX_PAIRS = 4000
"""More change the figures little."""
MIN_PAIRS = 50


def check_appearance(
    sample: LatentSample, thumbs: NDArray[np.uint8], pca: NDArray[np.float32], settings: ReportSettings
) -> Appearance | None:
    """None with too few pairs or a single video. `thumbs` [N, 2, S, S, 3] of the sample; `pca` [N, D]: the difference
    images' principal components."""
    rows = np.linspace(0, len(sample) - 1, min(len(sample), MAX_PAIRS)).round().astype(np.int64)
    groups = sample.group[rows]
    if len(rows) < MIN_PAIRS or len(np.unique(groups)) < 2:
        return None
    splits = k_fold_splits(groups, settings.seed)
    pictures = [resize_frames(thumbs[rows, k], LOOK).reshape(len(rows), -1) / 255.0 for k in (0, 1)]
    axes = fit_components(pictures[1], COMPONENTS, settings.seed)
    first, second = (axes.project(picture) for picture in pictures)
    rng = np.random.default_rng([settings.seed, 17])
    weights = resample_groups(len(np.unique(groups)), settings.bootstrap, rng)

    def r2(x: NDArray[np.floating], look: NDArray[np.floating]) -> NDArray[np.float64]:
        """[1 + resamples]: of all components together, over all pairs and over each resample of the videos."""
        bank, error = TestGroups(look, groups, splits), np.zeros(look.shape)
        for split in splits:
            fit = fit_ridge(x[split.train], look[split.train], groups[split.train], seed=settings.seed)
            error[split.test] = fit.predict(x[split.test]) - look[split.test]
        squared = bank.squared_error(error, np.ones(len(rows), bool)).sum(1)
        drawn = np.concatenate([np.ones((1, len(bank.names))), weights])
        total = (drawn @ bank.square - (drawn @ bank.total) ** 2 / (drawn @ bank.count)).sum(1)
        return np.asarray(1 - drawn @ squared / np.where(total > 0, total, np.nan))

    latent = sample.latent[rows]
    own, of_first, difference = r2(latent, second), r2(latent, first), r2(pca[rows], second)
    beyond = (own - difference) / (1 - np.minimum(difference, 0.999))
    return Appearance(
        r2=float(own[0]),
        ci95=interval(own[1:]),
        first_r2=float(of_first[0]),
        difference_r2=float(difference[0]),
        beyond_difference=float(beyond[0]),
        beyond_ci95=interval(beyond[1:]),
        pairs=len(rows),
        groups=weights.shape[1],
    )
