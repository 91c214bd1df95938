"""A latent taken from one pair, decoded on another clip's frame: does the action come along, or the image?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch, as_frames
from lapa.reporting.card import Agreement, Transfer
from lapa.reporting.checks.reconstruction import other_pairs
from lapa.reporting.clip_pairs import BATCH
from lapa.reporting.clip_pictures import at_aspect
from lapa.reporting.images import Frame, TransferStrip

MOVING_PERCENTILE = 70.0
"""Strips show pairs with at least this much motion; a latent of rest shows nothing."""


def check_transfer(
    model: LatentActionModel,
    pairs: PairBatch,
    groups: NDArray[Any],
    embodiments: NDArray[Any],
    motion: NDArray[np.floating],
    aspect: NDArray[np.floating],
    rng: np.random.Generator,
) -> tuple[Transfer, list[TransferStrip]]:
    """Within all and between embodiments; strips, each pair's images in its `aspect` [P] (width by height). For models that
    predict images."""
    within = transfer_agreement(model, pairs, other_pairs(groups, rng))
    foreign = [np.flatnonzero(embodiments != name) for name in embodiments]
    other = np.array([rng.choice(rows) if len(rows) else -1 for rows in foreign])
    across = transfer_agreement(model, pairs, other) if (other >= 0).all() else None
    chosen = choose_transfers(groups, embodiments, motion, 8, rng)
    strips = transfer_strips(model, pairs, groups, embodiments, aspect, chosen)
    return Transfer(within.same_latent, within.chance, across, len(chosen)), strips


def choose_transfers(
    groups: NDArray[Any], embodiments: NDArray[Any], motion: NDArray[np.floating], most: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """(from, onto) rows, half of them across embodiments where there are several, each from moving pairs."""
    lively = np.zeros(len(groups), bool)
    for name in np.unique(embodiments):
        of = embodiments == name
        lively |= of & (motion >= np.percentile(motion[of], MOVING_PERCENTILE))
    chosen: list[tuple[int, int]] = []
    several = len(np.unique(embodiments)) > 1
    for across, count in ((False, most - most // 2 if several else most), (True, most // 2 if several else 0)):
        seen: set[tuple[str, str]] = set()
        for row in rng.permutation(np.flatnonzero(lively)).tolist():
            if len(seen) >= count:
                break
            differs = (embodiments != embodiments[row]) == across
            partners = np.flatnonzero(lively & differs & (groups != groups[row]))
            if len(partners) == 0:
                continue
            onto = int(rng.choice(partners))
            key = (str(groups[row]), str(groups[onto]))
            if key not in seen:
                seen.add(key)
                chosen.append((row, onto))
    return chosen


@torch.inference_mode()
def transfer_strips(
    model: LatentActionModel,
    pairs: PairBatch,
    groups: NDArray[Any],
    embodiments: NDArray[Any],
    aspect: NDArray[np.floating],
    chosen: list[tuple[int, int]],
) -> list[TransferStrip]:
    """Decodes each chosen transfer; for models that predict images."""
    strips = []
    for row, onto in chosen:
        pair, target = pairs.take([row]).floats(), pairs.take([onto]).floats()
        encoding = model.encode(pair)

        def shown(image: Tensor, of: int) -> Frame:
            return at_aspect(as_frames(image)[0], float(aspect[of]))

        strips.append(
            TransferStrip(
                str(groups[row]),
                str(groups[onto]),
                bool(embodiments[row] != embodiments[onto]),
                (shown(pair.first, row), shown(pair.second, row)),
                shown(target.first, onto),
                shown(model.decode(target.first, encoding.quantized, target.valid), onto),
                shown(model.decode(target.first, encoding.latent, target.valid), onto),
            )
        )
    return strips


@torch.inference_mode()
def transfer_agreement(model: LatentActionModel, pairs: PairBatch, other: NDArray[np.integer]) -> Agreement:
    """Latents of pairs `other` [P] decoded on another clip's first frame and read again from the prediction: the mean
    cosine, about the mean latent. Equal figures mean that the prediction does not show the action.
    """
    latents, reread = [], []
    for start in range(0, len(pairs), BATCH):
        latents.append(model.encode(pairs.take(slice(start, start + BATCH)).floats()).latent)
    latent = torch.cat(latents)
    put_in = latent[torch.from_numpy(other)]
    for start in range(0, len(pairs), BATCH):
        part = slice(start, start + BATCH)
        onto = pairs.take(part).floats()
        predicted = model.decode(onto.first, put_in[part], onto.valid)
        reread.append(model.encode(PairBatch(onto.first, predicted, onto.valid)).latent)
    mean = latent.mean(0, keepdim=True)
    again = (torch.cat(reread) - mean).flatten(1)
    same = F.cosine_similarity(again, (put_in - mean).flatten(1), dim=1)
    chance = F.cosine_similarity(again, (put_in - mean).flatten(1).roll(1, 0), dim=1)
    return Agreement(float(same.mean()), float(chance.mean()))
