"""Target encoders: what FLARE's future tokens are aligned with. Future pictures and instruction -> M tokens of width D.

frozen        patches of a Hugging Face vision model, pooled on their grid
ema           the same of a slow copy of the policy's own vision
action_aware  an encoder pre-trained on actions (flare/action_aware.py), as a slow copy or frozen
All answer without gradients and stay in evaluation mode. A policy needs them in training only, never to act.
Shapes: B batch, V cameras, S picture size, N patches of a picture, M tokens, D width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from flare.action_aware import ActionAwareEncoder, check_pictures
from flare.ema import ExponentialMovingAverage
from flare.objective import FlareConfig
from flare.vision import HubVision


class TargetEncoder(nn.Module, ABC):
    """Future pictures uint8 [B, V, 3, S, S], B instructions, bool [B, V] (False: camera missing) -> float32 [B, M, D].

    `of_batch` is what a training step calls.
    """

    tokens: int
    """M."""
    dim: int
    """D."""

    @torch.no_grad()
    def forward(self, pictures: Tensor, instruction: Sequence[str], *, picture_mask: Tensor | None = None) -> Tensor:
        """Raises ValueError on shapes that do not fit."""
        check_pictures(pictures, instruction, picture_mask)
        with torch.autocast(pictures.device.type, enabled=False):  # a target in bf16 has 3 digits
            return self.encode(pictures, instruction, picture_mask).float()

    def of_batch(
        self, future: Tensor, instruction: Sequence[str], has_future: Tensor, *, picture_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(targets [B, M, D], token_mask bool [B, M]) for `alignment_loss`: only samples with a future are encoded; the others
        have targets 0 and no token."""
        check_pictures(future, instruction, picture_mask)
        index = has_future.nonzero().flatten()
        targets = torch.zeros(len(future), self.tokens, self.dim, device=future.device)
        token_mask = torch.zeros(targets.shape[:2], dtype=torch.bool, device=future.device)
        if len(index):
            given = None if picture_mask is None else picture_mask[index]
            targets[index] = self(future[index], [instruction[i] for i in index.tolist()], picture_mask=given)
            token_mask[index] = True if given is None else self.token_mask(given)
        return targets, token_mask

    @abstractmethod
    def encode(self, pictures: Tensor, instruction: Sequence[str], picture_mask: Tensor | None) -> Tensor:
        """[B, M, D] of inputs that are checked."""

    @abstractmethod
    def update(self, online: nn.Module | None = None) -> None:
        """One step of the average towards `online`, after each step of the optimiser. Nothing where the target is frozen."""

    def token_mask(self, picture_mask: Tensor) -> Tensor:
        """bool [B, V] -> bool [B, M]: which tokens of the target show something; for `alignment_loss`."""
        return picture_mask.any(1, keepdim=True).expand(-1, self.tokens)

    def train(self, mode: bool = True) -> TargetEncoder:
        """Targets are made in evaluation mode whatever `mode` says."""
        super().train(mode)
        for child in self.children():
            child.eval()
        return self


class PooledTarget(TargetEncoder):
    """Patch tokens pooled to M / V on each camera's grid, camera after camera. The kinds "frozen" and "ema".

    vision: an `ExponentialMovingAverage` of a module, or a module that does not change; uint8 [B, 3, S, S] -> [B, N, D].
    image_size: S, by which N and D are found out.
    """

    def __init__(self, vision: nn.Module, *, tokens: int, cameras: int = 1, image_size: int) -> None:
        super().__init__()
        if tokens % cameras:
            raise ValueError(
                f"{tokens} tokens for {cameras} cameras: choose a multiple, each camera has the same number"
            )
        self.vision = vision.eval().requires_grad_(False)
        self.tokens, self.cameras = tokens, cameras
        count, self.dim = probe_tokens(vision, image_size)
        pool_grid(torch.zeros(1, count, 1), tokens // cameras)  # says now what would fail in the first batch

    def encode(self, pictures: Tensor, instruction: Sequence[str], picture_mask: Tensor | None) -> Tensor:
        if pictures.shape[1] != self.cameras:
            raise ValueError(
                f"{pictures.shape[1]} cameras for a target of {self.cameras}: build it with the data's number"
            )
        each = pool_grid(self.vision(pictures.flatten(0, 1)), self.tokens // self.cameras)
        return each.unflatten(0, pictures.shape[:2]).flatten(1, 2)

    def update(self, online: nn.Module | None = None) -> None:
        if not isinstance(self.vision, ExponentialMovingAverage):
            return
        if online is None:
            raise ValueError("an average needs the module that it follows: update(vision)")
        self.vision.update(online)

    def token_mask(self, picture_mask: Tensor) -> Tensor:
        return picture_mask.repeat_interleave(self.tokens // self.cameras, dim=1)


class ActionAwareTarget(TargetEncoder):
    """A copy of a pre-trained `ActionAwareEncoder`: `decay` 1 keeps it frozen, less lets it follow the policy's own."""

    def __init__(self, encoder: ActionAwareEncoder, *, decay: float = 0.995) -> None:
        super().__init__()
        self.encoder = ExponentialMovingAverage(encoder, decay=decay)
        self.tokens, self.dim = encoder.tokens, encoder.dim

    def encode(self, pictures: Tensor, instruction: Sequence[str], picture_mask: Tensor | None) -> Tensor:
        return self.encoder(pictures, instruction, picture_mask=picture_mask)

    def update(self, online: nn.Module | None = None) -> None:
        if self.encoder.decay == 1:
            return
        if online is None:
            raise ValueError("an average needs the encoder that it follows: update(encoder), or build it with decay=1")
        self.encoder.update(online)


class StandardisedTarget(TargetEncoder):
    """`inner`, each feature of each token less its running mean and divided by its running deviation.

    Token by token, because a camera that stands still shows each of them its own background, which alone would give a
    cosine near 1 to whoever predicts the mean. The statistics are buffers [M, D] that move in `update`, by `momentum` of the
    last encoded batch's, alike on all ranks; before the first update a batch is standardised by its own. They must follow
    faster than the average that they describe (decay 0.995, 200 steps): behind it, the distance is one more common direction.
    """

    mean: Tensor
    variance: Tensor
    started: Tensor

    def __init__(self, inner: TargetEncoder, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.inner = inner
        self.tokens, self.dim, self.momentum = inner.tokens, inner.dim, momentum
        self.register_buffer("mean", torch.zeros(inner.tokens, inner.dim))
        self.register_buffer("variance", torch.ones(inner.tokens, inner.dim))
        self.register_buffer("started", torch.zeros(inner.tokens, dtype=torch.bool))
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def encode(self, pictures: Tensor, instruction: Sequence[str], picture_mask: Tensor | None) -> Tensor:
        raw = self.inner(pictures, instruction, picture_mask=picture_mask)
        if picture_mask is None:
            shown = torch.ones(raw.shape[:2], device=raw.device)
        else:
            shown = self.token_mask(picture_mask).to(raw.dtype)
        count = shown.sum(0)[:, None]
        mean = (raw * shown[..., None]).sum(0) / count.clamp_min(1)
        variance = ((raw - mean).pow(2) * shown[..., None]).sum(0) / count.clamp_min(1)
        known = count[:, 0] > 1
        self._last = (mean, variance, known)
        begun = self.started[:, None]
        mean = torch.where(begun | ~known[:, None], self.mean, mean)
        variance = torch.where(begun | ~known[:, None], self.variance, variance)
        # the small share keeps a feature that hardly moves from being blown up to noise
        return (raw - mean) / (variance + 1e-3 * variance.mean() + 1e-12).sqrt()

    def update(self, online: nn.Module | None = None) -> None:
        self.inner.update(online)
        if self._last is None:
            mean, variance, votes = self.mean, self.variance, torch.zeros_like(self.mean[:, :1])
        else:
            mean, variance = self._last[:2]
            votes = self._last[2][:, None].to(mean.dtype)
        self._last = None
        sums = _sum_over_ranks(torch.cat([votes * mean, votes * variance, votes], 1))  # a rank may have had no future
        total = sums[:, -1:]
        share = torch.where(self.started[:, None], self.momentum, 1.0) * (total > 0)
        self.mean.lerp_(sums[:, : self.dim] / total.clamp_min(1), share)
        self.variance.lerp_(sums[:, self.dim : -1] / total.clamp_min(1), share)
        self.started |= total[:, 0] > 0

    def token_mask(self, picture_mask: Tensor) -> Tensor:
        return self.inner.token_mask(picture_mask)


def build_target(
    config: FlareConfig,
    *,
    image_size: int,
    cameras: int = 1,
    vision: nn.Module | None = None,
    encoder: ActionAwareEncoder | None = None,
) -> TargetEncoder:
    """The target encoder of `config`. "ema" wants the policy's `vision` module (uint8 [B, 3, S, S] -> [B, N, D]),
    "action_aware" a pre-trained `encoder`. Raises ValueError where what the kind needs is missing or does not fit."""
    target: TargetEncoder
    if config.target == "action_aware":
        if encoder is None:
            raise ValueError("target 'action_aware' needs `encoder`: pre-train one by ActionAwareTraining")
        if encoder.tokens != config.tokens:
            raise ValueError(
                f"an encoder of {encoder.tokens} tokens for {config.tokens} future tokens: they must agree"
            )
        target = ActionAwareTarget(encoder, decay=config.ema)
    elif config.target == "ema":
        if vision is None:
            raise ValueError("target 'ema' needs `vision`: the policy's module from pictures to tokens")
        average = ExponentialMovingAverage(vision, decay=config.ema)
        target = PooledTarget(average, tokens=config.tokens, cameras=cameras, image_size=image_size)
    else:
        hub = HubVision(config.target_name)
        target = PooledTarget(hub, tokens=config.tokens, cameras=cameras, image_size=image_size)
    return StandardisedTarget(target) if config.standardise else target


def pool_grid(tokens: Tensor, count: int) -> Tensor:
    """Patch tokens [B, N, D] of a square grid, averaged to `count`: [B, count, D], row-major.

    The pooled grid is the squarest of `count` cells (32 = 4 x 8, wider than high); where it does not divide the patches'
    grid, cells overlap (adaptive pooling). Raises ValueError where N is no square or the pooled grid is the finer one.
    """
    side = math.isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise ValueError(
            f"{tokens.shape[1]} tokens of a picture are no square grid: give a module without class tokens, on square pictures"
        )
    rows = max(r for r in range(1, math.isqrt(count) + 1) if count % r == 0)
    columns = count // rows
    if columns > side:
        raise ValueError(
            f"{count} tokens need a grid of {rows} x {columns}, but the picture has {side} x {side} patches: choose fewer tokens "
            f"(a divisor grid such as {side * side}), larger pictures or smaller patches"
        )
    grid = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, (rows, columns)).flatten(2).transpose(1, 2)


@torch.no_grad()
def probe_tokens(vision: nn.Module, image_size: int) -> tuple[int, int]:
    """(N, D) that `vision` makes of a picture of `image_size` pixels. Raises ValueError where it makes no [B, N, D]."""
    tensors = [*vision.parameters(), *vision.buffers()]
    blank = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=tensors[0].device if tensors else None)
    training = vision.training
    tokens = vision.eval()(blank)
    vision.train(training)
    if not isinstance(tokens, Tensor) or tokens.ndim != 3:
        shown = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"the vision module makes {shown} of uint8 [1, 3, S, S]: tokens [1, N, D] are wanted")
    return tokens.shape[1], tokens.shape[2]


def _sum_over_ranks(value: Tensor) -> Tensor:
    """Every rank must keep the same statistics, or their targets drift apart."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value
