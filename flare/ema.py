"""Exponential moving average of a module: the slow copy that gives FLARE its targets (decay 0.995, arXiv 2505.15659).

average <- decay * average + (1 - decay) * online, for every parameter; buffers (running statistics, counters) are copied.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class ExponentialMovingAverage(nn.Module):
    """A copy of `module` that follows it slowly. It takes no gradients and stays in evaluation mode.

    The copy is kept in float32: in bfloat16 a step of 1 - 0.995 is below the spacing of the numbers, and the average
    would stand still. `state_dict` holds plain tensors ("module.*", "updates") and goes into safetensors as it is.

    decay: in [0, 1]; 1 freezes the copy, 0 makes it follow at once.
    warm_up: the k-th update (from 1) uses min(decay, k / (k + 9)), so that the first hundreds of updates do not hang on
    to the random start. Off where the start is a trained model.
    """

    updates: Tensor

    def __init__(self, module: nn.Module, *, decay: float = 0.995, warm_up: bool = False) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"EMA decay {decay}: in [0, 1]; 0.995 is FLARE's, 1 freezes the copy")
        self.decay = decay
        self.warm_up = warm_up
        self.module = copy.deepcopy(module).float().eval().requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> ExponentialMovingAverage:
        """The copy stays in evaluation mode whatever `mode` says: its dropout and batch statistics are off."""
        super().train(mode)
        self.module.eval()
        return self

    @torch.no_grad()
    def forward(self, *args: Any, **keywords: Any) -> Any:
        """What the averaged module answers; nothing of it carries gradients."""
        return self.module(*args, **keywords)

    def decay_at(self, update: int) -> float:
        """The decay of the `update`-th update, counted from 1."""
        return min(self.decay, update / (update + 9)) if self.warm_up and self.decay < 1 else self.decay

    @torch.no_grad()
    def update(self, online: nn.Module) -> None:
        """One step towards `online`, after the optimiser's. Raises ValueError where its parameters differ from the copy's."""
        theirs = _tensors(online)
        mine = _tensors(self.module)
        _check_same(mine, theirs)
        self.updates += 1
        share = 1 - self.decay_at(int(self.updates))
        if share == 0:
            return
        # a part that is not trained is copied: an average of equal values would only add rounding
        trained = {name for name, value in online.named_parameters() if value.requires_grad}
        for name, value in mine.items():
            new = theirs[name].detach().to(value.device)
            if name in trained:
                value.lerp_(new.to(value.dtype), share)
            else:
                value.copy_(new)

    @torch.no_grad()
    def copy_to(self, online: nn.Module) -> None:
        """Writes the average into `online` (its own dtype), for evaluation or for saving.

        Raises ValueError where its parameters differ from the copy's.
        """
        theirs = _tensors(online)
        mine = _tensors(self.module)
        _check_same(mine, theirs)
        for name, value in theirs.items():
            value.copy_(mine[name].to(value))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those of no checkpoint too; a tied weight once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _check_same(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name in sorted(mine.keys() | theirs.keys()):
        have, given = mine.get(name), theirs.get(name)
        if have is None or given is None or have.shape != given.shape:
            shapes = ["missing" if tensor is None else str(list(tensor.shape)) for tensor in (have, given)]
            raise ValueError(
                f"'{name}' is {shapes[0]} in the average and {shapes[1]} in the module: the average follows only the module "
                "it was copied from; build it anew after changing the module"
            )
