"""A latent taken from one pair, decoded on another clip's frame: does the action come along, or the picture?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lapa.model.lam import LatentActionModel
from lapa.pairs.frames import BATCH, ModelPairs

MOVING_PERCENTILE = 70.0
"""Strips show pairs with at least this much motion; a latent of rest shows nothing."""


@dataclass(frozen=True)
class TransferStrip:
    """Pictures uint8 [S, S, 3] of one transfer."""

    source: str
    """Where the latent is from."""
    target: str
    """Where it is decoded."""
    across: bool
    """Between embodiments."""
    taken_from: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    """First and second frame of the pair that the latent is from."""
    onto: NDArray[np.uint8]
    quantized: NDArray[np.uint8]
    """The second frame predicted from the code."""
    continuous: NDArray[np.uint8]
    """The same from the latent before quantisation."""


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


def _picture(tensor: torch.Tensor) -> NDArray[np.uint8]:
    return (tensor.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


@torch.inference_mode()
def transfer_strips(
    model: LatentActionModel,
    pairs: ModelPairs,
    groups: NDArray[Any],
    embodiments: NDArray[Any],
    chosen: list[tuple[int, int]],
) -> list[TransferStrip]:
    """Decodes each chosen transfer; for models that predict pictures."""
    strips = []
    for row, onto in chosen:
        first, second, valid, flow = pairs.take(np.array([row])).tensors()
        target, _, target_valid, _ = pairs.take(np.array([onto])).tensors()
        encoding = model.encode(first, second, valid, flow=flow)
        strips.append(
            TransferStrip(
                str(groups[row]),
                str(groups[onto]),
                bool(embodiments[row] != embodiments[onto]),
                (_picture(first[0]), _picture(second[0])),
                _picture(target[0]),
                _picture(model.decode(target, encoding.quantized, target_valid)[0]),
                _picture(model.decode(target, encoding.latent, target_valid)[0]),
            )
        )
    return strips


@torch.inference_mode()
def transfer_agreement(model: LatentActionModel, pairs: ModelPairs, other: NDArray[np.integer]) -> dict[str, float]:
    """Latents decoded on another clip's first frame and read again from the prediction.

    Returns {same_latent, chance}: the mean cosine between the latent read again and the one put in, about the mean latent;
    and the same with a latent that was not put in. Equal figures mean that the prediction does not show the action.
    """
    latents, reread = [], []
    for start in range(0, len(pairs), BATCH):
        first, second, valid, flow = pairs.take(slice(start, start + BATCH)).tensors()
        latents.append(model.encode(first, second, valid, flow=flow).latent)
    latent = torch.cat(latents)
    put_in = latent[torch.from_numpy(other)]
    for start in range(0, len(pairs), BATCH):
        part = slice(start, start + BATCH)
        first, _, valid, _ = pairs.take(part).tensors()
        predicted = model.decode(first, put_in[part], valid)
        reread.append(model.encode(first, predicted, valid).latent)
    mean = latent.mean(0, keepdim=True)
    again = (torch.cat(reread) - mean).flatten(1)
    same = F.cosine_similarity(again, (put_in - mean).flatten(1), dim=1)
    chance = F.cosine_similarity(again, (put_in - mean).flatten(1).roll(1, 0), dim=1)
    return {"same_latent": float(same.mean()), "chance": float(chance.mean())}
