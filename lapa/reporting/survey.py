"""The report's one pass over the clips: what the pixel baselines, the untrained networks and the decoder need of them."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from flare.vision import frozen_vision
from lapa.latents import LatentSample
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch
from lapa.pairs.config import PairConfig
from lapa.pairs.reader import PairReader
from lapa.pairs.table import Featurise
from lapa.reporting.atlas import spread_over_groups
from lapa.reporting.clip_pairs import THUMB, read_pairs, seen_images
from lapa.reporting.clip_pictures import ClipPictures
from lapa.reporting.probes.baselines import encode_pairs, feature_change, token_change, untrained_models
from lapa.reporting.settings import Progress, ReportSettings

MAX_ENDS = 400
"""Clips whose first and last frames are kept to stand for cuts; bounds memory."""


@dataclass
class Survey:
    """What one reading of the clips leaves behind."""

    thumbs: NDArray[np.uint8]
    """[N, 2, THUMB, THUMB, 3]: first and second frame of each pair of the sample."""
    untrained: list[NDArray[np.float32]]
    """For each random initialisation the latents [N, D]; zeros where no action is known."""
    vision: NDArray[np.float16] | None = None
    """[N, F]: change of a frozen vision model's features, where one was named; zeros where no action is known."""
    features: NDArray[np.float16] | None = None
    """[N, F]: the same of `ReportSettings.features`, by `token_change`."""
    to_decode: list[tuple[NDArray[np.int64], PairBatch]] = field(default_factory=list)
    """Pairs to be decoded, with their rows of the sample."""
    gallery: list[tuple[NDArray[np.int64], PairBatch]] = field(default_factory=list)
    """Some moving pairs of each embodiment, for transfers."""
    rows: list[ClipRow] = field(default_factory=list)
    """Of the first MAX_ENDS clips read."""
    ends: list[NDArray[np.uint8]] = field(default_factory=list)
    """[2, S, S, 3] of each: its first and its last frame."""

    def gallery_pairs(self) -> tuple[NDArray[np.int64], PairBatch]:
        """(rows of the sample, the pairs) of `gallery`."""
        return np.concatenate([r for r, _ in self.gallery]), PairBatch.cat([p for _, p in self.gallery])


def survey_clips(
    corpus: Corpus,
    sample: LatentSample,
    model: LatentActionModel | None,
    prefer: NDArray[np.bool_],
    with_truth: Container[str],
    settings: ReportSettings,
    featurise: Featurise | None,
    rng: np.random.Generator,
    progress: Progress,
    pictures: ClipPictures,
) -> Survey:
    """Reads the sample's clips once. `prefer` [N]: pairs of held-out groups, which alone are decoded where there are
    any; `with_truth`: clips whose actions are known, which the untrained networks and the frozen vision models see;
    `pictures`: what the page shows of the clips. Without a model nothing is kept to be decoded.

    Raises ValueError where `settings.vision` or `settings.features` cannot be loaded."""
    vision, tokens = (frozen_vision(name) if name else None for name in (settings.vision, settings.features))
    candidates = np.flatnonzero(prefer) if prefer.any() else np.arange(len(sample))
    count = min(settings.reconstructions, len(candidates))
    decoded = np.zeros(len(sample), bool)
    decoded[spread_over_groups(candidates, sample.group, count, rng)] = True
    shown = np.zeros(len(sample), bool)
    for body in np.unique(sample.embodiment):
        of = sample.embodiment == body
        moving = of & (sample.motion >= np.percentile(sample.motion[of], 50))
        pool = moving & prefer if len(np.unique(sample.group[moving & prefer])) > 1 else moving
        shown[spread_over_groups(np.flatnonzero(pool), sample.group, 64, rng)] = True
    seeds = range(settings.seed + 1, settings.seed + 1 + settings.untrained_seeds)
    networks = [] if model is None else untrained_models(model, seeds)
    width = sample.latent.shape[1]
    seen = Survey(
        np.zeros((len(sample), 2, THUMB, THUMB, 3), np.uint8),
        [np.zeros((len(sample), width), np.float32) for _ in networks],
    )
    config = PairConfig() if model is None else model.config.pair
    for clip in read_pairs(corpus, sample, PairReader(config, featurise=featurise), progress):
        seen.thumbs[clip.rows] = clip.thumbs
        pictures.add(clip)
        if clip.row.clip_id in with_truth:
            for values, network in zip(seen.untrained, networks, strict=True):
                values[clip.rows] = encode_pairs(network, clip.pairs)
            if vision is not None:
                change = feature_change(vision, seen_images(clip.pairs))
                if seen.vision is None:
                    seen.vision = np.zeros((len(sample), change.shape[1]), np.float16)
                seen.vision[clip.rows] = change
            if tokens is not None:
                change = token_change(tokens, clip.frames, clip.first, clip.second)
                if seen.features is None:
                    seen.features = np.zeros((len(sample), change.shape[1]), np.float16)
                seen.features[clip.rows] = change
        if model is None:
            continue
        for mask, kept in ((decoded, seen.to_decode), (shown, seen.gallery)):
            some = np.flatnonzero(mask[clip.rows])
            if len(some):
                kept.append((clip.rows[some], clip.pairs.take(some)))
        if len(seen.rows) < MAX_ENDS:
            seen.rows.append(clip.row)
            seen.ends.append(clip.ends)
    return seen
