"""What the decoder says of the codes: held-out pairs, pairs across a cut, latents carried to other clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lapa.extraction.engine import Featurise
from lapa.latent_sample import LatentSample
from lapa.model.lam import LatentActionModel
from lapa.pairs.frames import THUMB, ModelPairs
from lapa.pairs.pair import resize_frames
from lapa.reporting.atlas import spread_over_groups
from lapa.reporting.checks.reconstruction import (
    NEIGHBOURS,
    cut_model_pairs,
    cut_pairs,
    other_pairs,
    reconstruction_errors,
    summarise,
)
from lapa.reporting.checks.transfer import TransferStrip, choose_transfers, transfer_agreement, transfer_strips
from lapa.reporting.probes.baselines import Components, change_images
from lapa.reporting.settings import ReportSettings
from lapa.reporting.survey import Survey

CUT_ENERGY = 2.0
"""Clips of different sources stand for a cut where the squared change is this many times that of the median pair."""


def check_reconstruction(
    model: LatentActionModel,
    sample: LatentSample,
    seen: Survey,
    prefer: NDArray[np.bool_],
    components: Components,
    settings: ReportSettings,
    warnings: list[str],
) -> tuple[dict[str, Any], list[list[NDArray[np.uint8]]]]:
    """(`summarise` of the decoded pairs and where they are from, example pictures).

    `components`: of the training pairs' difference images, as many as the latent has dimensions.
    """
    rows = np.concatenate([rows for rows, _ in seen.held])
    pairs = ModelPairs.joined([pairs for _, pairs in seen.held])
    groups = sample.group[rows]
    rng = np.random.default_rng([settings.seed, 5])
    errors, again = reconstruction_errors(model, pairs, other_pairs(groups, rng), settings.seed)
    result = summarise(errors, pixels=model.config.pixels)
    result["groups"] = len(np.unique(groups))
    result["on"] = "held-out videos" if prefer.any() else "videos it may have been trained on (none were held out)"
    result["unit"] = "pixels" if model.config.pixels else f"features of {model.config.target}"
    error = float(np.sqrt(((again - sample.latent[rows]) ** 2).mean()))
    if error > 0.05 * max(float(sample.latent[rows].std()), 1e-6):
        warnings.append("The stored latents are not what this model makes of these pairs: extract them again.")
    result["pca_explained"] = _kept(components, change_images(seen.thumbs[rows]))
    if not model.config.pixels:
        return result, []
    lively = np.argsort(-sample.motion[rows], kind="stable")[: max(6, len(rows) // 2)]
    chosen = np.array(spread_over_groups(lively, groups, 6, rng), np.int64)
    return result, _example_pictures(model, pairs.take(chosen), settings.seed)


@torch.inference_mode()
def _example_pictures(model: LatentActionModel, pairs: ModelPairs, seed: int) -> list[list[NDArray[np.uint8]]]:
    first, second, valid, flow = pairs.tensors()
    encoding = model.encode(first, second, valid, flow=flow)
    random = model.random_codes(len(first), torch.Generator().manual_seed(seed))
    columns = [first, second]
    columns += [model.decode(first, latent, valid) for latent in (encoding.quantized, encoding.latent, random)]
    arrays = [(c.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy() for c in columns]
    return [[column[k] for column in arrays] for k in range(len(first))]


def _kept(components: Components, change: NDArray[np.float32]) -> float:
    """Share of the change images' energy that the components keep."""
    rest = float(((components.rebuild(change) - change) ** 2).sum())
    return 1 - rest / max(float((change**2).sum()), 1e-12)


def check_cuts(
    model: LatentActionModel,
    sample: LatentSample,
    seen: Survey,
    real: dict[str, Any],
    components: Components,
    settings: ReportSettings,
    featurise: Featurise | None,
    rng: np.random.Generator,
) -> tuple[dict[str, Any] | None, list[list[NDArray[np.uint8]]]]:
    """(`summarise` of pairs across a cut, or None where no two clips differ enough; example pictures).

    Clips of different sources that look alike are left out.
    """
    chosen, kind = cut_pairs(seen.rows, rng, 96)
    ends = np.stack(seen.ends)
    energy = float(np.median((change_images(seen.thumbs[:: max(1, len(sample) // 2000)]) ** 2).mean(1)))
    jump = [float(((ends[a, 1].astype(np.float32) - ends[b, 0]) ** 2).mean()) / 255**2 for a, b in chosen]
    if kind != NEIGHBOURS:
        # Strangers may look alike (episodes of one scene); shots were told apart by ingest already.
        chosen = [pair for pair, size in zip(chosen, jump, strict=True) if size > CUT_ENERGY * energy]
    if len(chosen) < 4:
        return None, []
    pairs = cut_model_pairs(model, chosen, ends, featurise)
    errors, _ = reconstruction_errors(model, pairs, np.roll(np.arange(len(pairs)), 1), settings.seed)
    result = summarise(errors, pixels=model.config.pixels) | {"kind": kind, "real_explained": real["explained"]}
    thumbs = np.stack([np.stack([ends[a, 1], ends[b, 0]]) for a, b in chosen])
    small = resize_frames(thumbs.reshape(-1, *thumbs.shape[2:]), THUMB).reshape(len(chosen), 2, THUMB, THUMB, 3)
    result["pca_explained"] = _kept(components, change_images(small))
    if not model.config.pixels:
        return result, []
    some = np.unique(np.linspace(0, len(pairs) - 1, 6).round().astype(np.int64))
    examples = _example_pictures(model, pairs.take(some), settings.seed)
    return result, [columns[:3] for columns in examples]


def check_transfer(
    model: LatentActionModel, sample: LatentSample, seen: Survey, rng: np.random.Generator
) -> tuple[dict[str, Any], list[TransferStrip]]:
    """(`transfer_agreement` within all and between embodiments, or the reason why not; strips)."""
    if not model.config.pixels:
        return {"reason": f"the target is features of {model.config.target}: there is no picture to show"}, []
    rows = np.concatenate([rows for rows, _ in seen.gallery])
    pairs = ModelPairs.joined([pairs for _, pairs in seen.gallery])
    groups, bodies = sample.group[rows], sample.embodiment[rows]
    result: dict[str, Any] = dict(transfer_agreement(model, pairs, other_pairs(groups, rng)))
    across = np.array([rng.choice(np.flatnonzero(bodies != body)) if (bodies != body).any() else -1 for body in bodies])
    result["across_embodiments"] = transfer_agreement(model, pairs, across) if (across >= 0).all() else None
    chosen = choose_transfers(groups, bodies, sample.motion[rows], 8, rng)
    result["strips"] = len(chosen)
    return result, transfer_strips(model, pairs, groups, bodies, chosen)
