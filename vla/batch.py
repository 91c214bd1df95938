"""What one training step sees, and how samples of different robots come to lie in one batch: padding and masks."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from flare import ranks


class PolicyBatch(TypedDict, total=False):
    """B samples, V cameras, T frames of history (oldest first), S pixels, H steps, Ds and Da padded widths."""

    images: Tensor
    """uint8 [B, V, T, 3, S, S]."""
    image_mask: Tensor
    """bool [B, V, T]; False where a camera or a frame is missing."""
    instruction: list[str]
    """B texts, "" where there is none."""
    state: Tensor
    """float32 [B, Ds], encoded by the embodiment's action space, 0 where padded."""
    state_mask: Tensor
    """bool [B, Ds]; False throughout for a sample without a state."""
    action: Tensor
    """float32 [B, H, Da], encoded, 0 where padded; past the episode's end the last action is repeated: what reads a chunk sees
    all of its steps, as in acting, and is not told when the episode ends."""
    action_mask: Tensor
    """bool [B, H, Da]: what the loss is of; False for padded dimensions, for steps past the end, and throughout for a sample
    without actions."""
    embodiment: Tensor
    """int64 [B]: embodiment_id, the place of its weights in the policy."""
    future: Tensor
    """uint8 [B, V, 3, S, S], the observation a horizon later."""
    has_future: Tensor
    """bool [B]."""
    before: Tensor
    """Optional: uint8 [B, V, 3, S, S], what the change to `future` is counted from; the newest images where it is absent."""
    align: Tensor
    """Optional: float32 [B], how much the alignment of the sample's dataset counts; 1 where it is absent."""
    features: Tensor
    """Optional: the frozen backbone's tokens, float32 [B, N, D], instead of a look at the images."""
    feature_mask: Tensor
    """bool [B, N], with `features`."""
    feature_is_image: Tensor
    """bool [B, N], with `features`."""
    future_features: Tensor
    """Optional, with `features`: of `future`, float32 [B, V, N, D], 0 where there is none."""
    before_features: Tensor
    """The same of `before`, with it."""
    dataset: Tensor
    """int64 [B]: which dataset of the training the sample is of."""


def newest_features(batch: PolicyBatch) -> Tensor:
    """Kept features of the newest images, [B, V, N, D]."""
    cameras, history = batch["image_mask"].shape[1:]
    return batch["features"].unflatten(1, (cameras, history, -1))[:, :, -1]


def check_batch(batch: PolicyBatch, *, horizon: int, state_dim: int, action_dim: int) -> None:
    """Raises ValueError where the shapes of a batch do not fit each other or the policy."""
    images = batch["images"]
    size = len(images)
    wanted: dict[str, tuple[int, ...]] = {
        "image_mask": tuple(images.shape[:3]),
        "state": (size, state_dim),
        "state_mask": (size, state_dim),
        "action": (size, horizon, action_dim),
        "action_mask": (size, horizon, action_dim),
        "embodiment": (size,),
    }
    if images.ndim != 6 or images.shape[3] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"images {images.dtype} {list(images.shape)}: must be uint8 [B, V, T, 3, S, S]")
    for name, shape in wanted.items():
        found = tuple(batch[name].shape)  # type: ignore[literal-required]
        if found != shape:
            raise ValueError(f"{name} {list(found)}: must be {list(shape)} for this policy and this batch")
    if len(batch["instruction"]) != size:
        raise ValueError(f"{len(batch['instruction'])} instructions for {size} samples")


def pad_last(values: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """[..., D] -> ([..., width] with zeros after D, bool mask of the same shape). Raises ValueError where D > width."""
    dim = values.shape[-1]
    if dim > width:
        raise ValueError(
            f"{dim} dimensions: more than the policy's {width}; choose a recipe with wider states and actions"
        )
    padded = values.new_zeros(*values.shape[:-1], width)
    padded[..., :dim] = values
    mask = torch.zeros(padded.shape, dtype=torch.bool, device=values.device)
    mask[..., :dim] = True
    return padded, mask


def shown_state(state_mask: Tensor, dropout: float) -> Tensor:
    """bool [B, Ds]: the mask without the states of a random share `dropout` of the samples."""
    if not dropout:
        return state_mask
    hidden: Tensor = ranks.uniform(len(state_mask), 1, device=state_mask.device) < dropout
    return state_mask & ~hidden
