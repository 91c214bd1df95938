"""Tiny policies with weights that make everything matter, and batches for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vla.actions.layout import one_part
from vla.actions.space import ActionSpace
from vla.batch import PolicyBatch
from vla.checkpoint import build_policy
from vla.embodiment import Embodiment
from vla.models.config import PolicyConfig
from vla.models.dual_system import DualSystemPolicy
from vla.noise import NoiseKey
from vla.policy import Policy
from vla.recipes import BC, DEBUG

SIZE, HORIZON = DEBUG.image_size, DEBUG.horizon


def shaken(module: nn.Module, seed: int = 0) -> None:
    """Draws all weights, so that nothing is 0 (FiLM and biases start there) and slots differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)


def tiny_policy(seed: int = 0, **options: Any) -> DualSystemPolicy:
    """The debug recipe, shaken, in evaluation mode."""
    torch.manual_seed(seed)
    policy = build_policy(dataclasses.replace(DEBUG, **options))
    assert isinstance(policy, DualSystemPolicy)
    shaken(policy, seed)
    return policy.eval()


def tiny_bc(**options: Any) -> Policy:
    """The baseline, with debug's sizes."""
    torch.manual_seed(0)
    sizes = {"image_size": SIZE, "horizon": HORIZON, "max_state_dim": 16, "max_action_dim": 16}
    return build_policy(dataclasses.replace(BC, **{**sizes, **options})).eval()


def space_of(state_dim: int, action_dim: int, *, representation: Any = "absolute", seed: int = 0) -> ActionSpace:
    """Fitted on random numbers of scale 3 about 2; actions are not cut."""
    rng = np.random.default_rng(seed)
    states = rng.normal(2, 3, (200, state_dim)).astype(np.float32) if state_dim else None
    chunks = rng.normal(2, 3, (200, HORIZON, action_dim)).astype(np.float32)
    parts = (dataclasses.replace(one_part(state_dim, action_dim, representation, "mean_std")[0], clip=0),)
    return ActionSpace.fit(states, chunks, parts=parts, state_normalisation="mean_std")


def teach(policy: Policy, name: str, state_dim: int, action_dim: int, **options: Any) -> Embodiment:
    """Makes a robot known to the policy, without training."""
    policy.add_embodiment(name)
    policy.embodiments[name] = Embodiment(name, space_of(state_dim, action_dim, **options), 0.1, ("head",))
    return policy.embodiments[name]


def some_images(batch: int, cameras: int = 1, history: int = 1, *, seed: int = 0) -> torch.Tensor:
    """Smooth random images, uint8 [batch, cameras, history, 3, S, S]: noise would leave nothing to see."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((batch * cameras * history, 3, 4, 4), generator=generator)
    fine = nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")
    return (255 * fine).to(torch.uint8).view(batch, cameras, history, 3, SIZE, SIZE)


def batch_of(
    config: PolicyConfig,
    slots: Sequence[int],
    *,
    state_dims: Sequence[int] | None = None,
    action_dims: Sequence[int] | None = None,
    cameras: int = 1,
    seed: int = 0,
) -> PolicyBatch:
    """Random samples, one for each slot, of these true widths (default: all of the padded width)."""
    generator = torch.Generator().manual_seed(seed)
    size, horizon = len(slots), config.horizon
    images = some_images(size, cameras, len(config.history_s), seed=seed)
    state = torch.zeros(size, config.max_state_dim)
    action = torch.zeros(size, horizon, config.max_action_dim)
    state_mask, action_mask = torch.zeros_like(state).bool(), torch.zeros_like(action).bool()
    for row, (ds, da) in enumerate(
        zip(state_dims or [config.max_state_dim] * size, action_dims or [config.max_action_dim] * size, strict=True)
    ):
        state[row, :ds] = torch.randn(ds, generator=generator)
        action[row, :, :da] = torch.randn(horizon, da, generator=generator)
        state_mask[row, :ds] = True
        action_mask[row, :, :da] = True
    return PolicyBatch(
        images=images,
        image_mask=torch.ones(images.shape[:3], dtype=torch.bool),
        instruction=[f"open drawer {row}" for row in range(size)],
        state=state,
        state_mask=state_mask,
        action=action,
        action_mask=action_mask,
        embodiment=torch.tensor(list(slots)),
        future=some_images(size, cameras, 1, seed=seed + 1)[:, :, 0],
        has_future=torch.ones(size, dtype=torch.bool),
        tier=torch.full((size,), 3),
        member=torch.zeros(size, dtype=torch.int64),
    )


def keys(count: int, seed: int = 0) -> list[NoiseKey]:
    """One for each sample of a batch."""
    return [NoiseKey(seed, ("row", row)) for row in range(count)]


def here(images: Tensor) -> Tensor:
    """The mask that says that every image is there."""
    return torch.ones(images.shape[:3], dtype=torch.bool)
