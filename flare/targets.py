"""Target encoders: what FLARE's future tokens are aligned with. Future images and instruction -> M tokens of width D.

frozen        patches of a Hugging Face vision model, pooled on their grid
backbone      the same of the policy's own frozen vision model, of features that are kept
ema           the same of a slow copy of the policy's own vision
action_aware  a slow copy of an encoder that is trained beside the policy to predict the actions (flare/action_aware.py)
All answer without gradients and stay in evaluation mode. A policy needs them in training only, never to act.
Shapes: B batch, V cameras, S image size, N patches of an image, M tokens, D width.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corpora.text import ReadText
from flare import ranks
from flare.action_aware import ActionAwareEncoder, ActionAwareTraining, FlowHead, check_images
from flare.config import FlareConfig
from flare.slow_copy import SlowCopy
from flare.vision import FrozenText, FrozenVision

MOMENTUM = 0.1
"""Share of the last batch in the statistics of a `StandardisedTarget`."""


class TargetEncoder(nn.Module, ABC):
    """Future images uint8 [B, V, 3, S, S], B instructions, bool [B, V] (False: camera missing) -> float32 [B, M, D].

    `of_batch` is what a training step calls.
    """

    tokens: int
    """M."""
    dim: int
    """D."""
    together: bool = False
    """Ranks encode together: those whose samples have no future are asked, too."""
    reads_features: bool = False
    """In the images' place it takes their features, float32 [B, V, N, C]."""

    def check(self, images: Tensor, instruction: Sequence[str], image_mask: Tensor | None) -> None:
        """Raises ValueError where images, texts or mask do not fit each other."""
        check_images(images, instruction, image_mask)

    @torch.no_grad()
    def forward(self, images: Tensor, instruction: Sequence[str], *, image_mask: Tensor | None = None) -> Tensor:
        """Raises ValueError on shapes that do not fit."""
        self.check(images, instruction, image_mask)
        with torch.autocast(images.device.type, enabled=False):  # a target in bf16 has 3 digits
            return self.encode(images, instruction, image_mask).float()

    def of_batch(
        self, future: Tensor, instruction: Sequence[str], has_future: Tensor, *, image_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(targets [B, M, D], token_mask bool [B, M]) for `alignment_loss`: only samples with a future are encoded; the others
        have targets 0 and no token."""
        self.check(future, instruction, image_mask)
        index = has_future.nonzero().flatten()
        targets = torch.zeros(len(future), self.tokens, self.dim, device=future.device)
        token_mask = torch.zeros(targets.shape[:2], dtype=torch.bool, device=future.device)
        if len(index) or (self.together and ranks.size() > 1):
            given = None if image_mask is None else image_mask[index]
            targets[index] = self(future[index], [instruction[i] for i in index.tolist()], image_mask=given)
            token_mask[index] = True if given is None else self.token_mask(given)
        return targets, token_mask

    @abstractmethod
    def encode(self, images: Tensor, instruction: Sequence[str], image_mask: Tensor | None) -> Tensor:
        """[B, M, D] of inputs that are checked."""

    @abstractmethod
    def update(self, vision: nn.Module | None = None) -> None:
        """One step of the slow copy, after each step of the optimiser: towards the policy's `vision` or whatever else it
        follows. Nothing where the target is frozen."""

    def learner(self) -> ActionAwareTraining | None:
        """What must be trained beside the policy for this target: its forward is a loss. None: nothing."""
        return None

    def read_text(self, instruction: str) -> ReadText | None:
        """What it reads of an instruction; None: it reads none."""
        return None

    def token_mask(self, image_mask: Tensor) -> Tensor:
        """bool [B, V] -> bool [B, M]: which tokens of the target show something; for `alignment_loss`."""
        return image_mask.any(1, keepdim=True).expand(-1, self.tokens)

    def train(self, mode: bool = True) -> TargetEncoder:
        """Targets are made in evaluation mode whatever `mode` says; it holds for the `learner`."""
        super().train(False)
        learner = self.learner()
        if learner is not None:
            learner.train(mode)
        return self


class PooledTarget(TargetEncoder):
    """Patch tokens pooled to M / V on each camera's grid, camera after camera. The kind "frozen".

    vision: a module that does not change, uint8 [B, 3, S, S] -> [B, N, D].
    image_size: S, by which N and D are found out.
    """

    def __init__(self, vision: nn.Module, *, tokens: int, cameras: int = 1, image_size: int) -> None:
        super().__init__()
        self.vision = vision.eval().requires_grad_(False)
        self.tokens, self.cameras, self.cells = tokens, cameras, cells_of(tokens, cameras)
        count, self.dim = probe_tokens(vision, image_size)
        pool_grid(torch.zeros(1, count, 1), self.cells)  # says now what would fail in the first batch

    def encode(self, images: Tensor, instruction: Sequence[str], image_mask: Tensor | None) -> Tensor:
        if images.shape[1] != self.cameras:
            raise ValueError(
                f"{images.shape[1]} cameras for a target of {self.cameras}: build it with the data's number"
            )
        each = pool_grid(self.vision(images.flatten(0, 1)), self.cells)
        return each.unflatten(0, images.shape[:2]).flatten(1, 2)

    def update(self, vision: nn.Module | None = None) -> None:
        pass

    def token_mask(self, image_mask: Tensor) -> Tensor:
        return image_mask.repeat_interleave(self.cells, dim=1)


class KeptTarget(TargetEncoder):
    """Kept features of a frozen vision model, pooled to M / V on each camera's grid, camera after camera. The kind "backbone"."""

    reads_features = True

    def __init__(self, patches: int, dim: int, *, tokens: int, cameras: int = 1) -> None:
        """`patches`, `dim`: N and C of an image's features."""
        super().__init__()
        self.cells, self.tokens, self.dim = cells_of(tokens, cameras), tokens, dim
        pool_grid(torch.zeros(1, patches, 1), self.cells)

    def check(self, images: Tensor, instruction: Sequence[str], image_mask: Tensor | None) -> None:
        if images.ndim != 4 or images.shape[-1] != self.dim or images.shape[1] * self.cells != self.tokens:
            wanted = f"[B, {self.tokens // self.cells}, N, {self.dim}]"
            raise ValueError(f"features {list(images.shape)}: {wanted} is wanted")

    def encode(self, images: Tensor, instruction: Sequence[str], image_mask: Tensor | None) -> Tensor:
        return pool_grid(images.flatten(0, 1), self.cells).unflatten(0, images.shape[:2]).flatten(1, 2)

    def update(self, vision: nn.Module | None = None) -> None:
        pass

    def token_mask(self, image_mask: Tensor) -> Tensor:
        return image_mask.repeat_interleave(self.cells, dim=1)


class FollowingTarget(PooledTarget):
    """The same of a slow copy of the policy's vision. The kind "ema"."""

    vision: SlowCopy

    def update(self, vision: nn.Module | None = None) -> None:
        if vision is None:
            raise ValueError("a slow copy needs the module that it follows: update(vision)")
        self.vision.update_parameters(vision)


class ActionAwareTarget(TargetEncoder):
    """A slow copy of an `ActionAwareEncoder` that `training` trains on actions, from scratch, beside the policy."""

    def __init__(self, training: ActionAwareTraining, *, decay: float = 0.995) -> None:
        super().__init__()
        self.training_on_actions = training
        self.average = SlowCopy(training.encoder, decay)
        self.tokens, self.dim = training.encoder.tokens, training.encoder.dim

    def encode(self, images: Tensor, instruction: Sequence[str], image_mask: Tensor | None) -> Tensor:
        return self.average(images, instruction, image_mask=image_mask)

    def update(self, vision: nn.Module | None = None) -> None:
        self.average.update_parameters(self.training_on_actions.encoder)

    def read_text(self, instruction: str) -> ReadText | None:
        text = self.training_on_actions.encoder.text
        return None if text is None else text.read_text(instruction)

    def learner(self) -> ActionAwareTraining:
        return self.training_on_actions


class StandardisedTarget(TargetEncoder):
    """`inner`, each feature of each token less its running mean and divided by its running deviation.

    Token by token, because a camera that stands still shows each of them its own background, which alone would give a
    cosine near 1 to whoever predicts the mean. The statistics are buffers [M, D] that move in `update`, by `MOMENTUM` of the
    last encoded batch's, of all ranks together; before the first update a batch is standardised by its own. They must follow
    faster than the average that they describe (decay 0.995, 200 steps): behind it, the distance is one more common direction.
    """

    mean: Tensor
    variance: Tensor
    started: Tensor

    def __init__(self, inner: TargetEncoder) -> None:
        super().__init__()
        self.inner = inner
        self.tokens, self.dim, self.reads_features = inner.tokens, inner.dim, inner.reads_features
        self.together = True
        self.register_buffer("mean", torch.zeros(inner.tokens, inner.dim))
        self.register_buffer("variance", torch.ones(inner.tokens, inner.dim))
        self.register_buffer("started", torch.zeros(inner.tokens, dtype=torch.bool))
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def check(self, images: Tensor, instruction: Sequence[str], image_mask: Tensor | None) -> None:
        self.inner.check(images, instruction, image_mask)

    def encode(self, images: Tensor, instruction: Sequence[str], image_mask: Tensor | None) -> Tensor:
        if len(images):
            raw = self.inner(images, instruction, image_mask=image_mask)
        else:
            raw = torch.zeros(0, self.tokens, self.dim, device=images.device)
        if image_mask is None:
            shown = torch.ones(raw.shape[:2], device=raw.device)
        else:
            shown = self.token_mask(image_mask).to(raw.dtype)
        count = ranks.sum_over_ranks(shown.sum(0))[:, None]
        mean = ranks.sum_over_ranks((raw * shown[..., None]).sum(0)) / count.clamp_min(1)
        variance = ranks.sum_over_ranks(((raw - mean).pow(2) * shown[..., None]).sum(0)) / count.clamp_min(1)
        known = count[:, 0] > 1
        self._last = (mean, variance, known)
        begun = self.started[:, None]
        mean = torch.where(begun | ~known[:, None], self.mean, mean)
        variance = torch.where(begun | ~known[:, None], self.variance, variance)
        # the small share keeps a feature that hardly moves from being blown up to noise
        return (raw - mean) / (variance + 1e-3 * variance.mean() + 1e-12).sqrt()

    def learner(self) -> ActionAwareTraining | None:
        return self.inner.learner()

    def read_text(self, instruction: str) -> ReadText | None:
        return self.inner.read_text(instruction)

    def update(self, vision: nn.Module | None = None) -> None:
        self.inner.update(vision)
        if self._last is None:
            return
        mean, variance, known = self._last
        self._last = None
        share = torch.where(self.started, MOMENTUM, 1.0) * known
        self.mean.lerp_(mean, share[:, None])
        self.variance.lerp_(variance, share[:, None])
        self.started |= known

    def token_mask(self, image_mask: Tensor) -> Tensor:
        return self.inner.token_mask(image_mask)


@dataclass(frozen=True)
class TargetShape:
    """What a target must fit: the policy and its data."""

    tokens: int
    """M: the policy's future tokens."""
    image_size: int
    cameras: int = 1
    vision: nn.Module | None = None
    """The policy's own, uint8 [B, 3, S, S] -> [B, N, D]; None where it has none that can be copied."""
    features: tuple[int, int] | None = None
    """(N, C) of an image's features that are kept of the policy's frozen vision model; None where none are."""
    horizon: int = 0
    """H, for a target that learns from actions; so are those below."""
    action_dim: int = 0
    """Padded width A."""
    state_dim: int = 0
    """Padded width of the proprioceptive state."""
    embodiments: int = 1


def build_target(config: FlareConfig, shape: TargetShape) -> TargetEncoder:
    """The target encoder of `config`. Raises ValueError where what the kind needs is missing or does not fit."""
    target = TARGETS[config.target](config, shape)
    return StandardisedTarget(target) if config.standardise else target


def _frozen(config: FlareConfig, shape: TargetShape) -> TargetEncoder:
    vision = FrozenVision(config.target_name)
    return PooledTarget(vision, tokens=shape.tokens, cameras=shape.cameras, image_size=shape.image_size)


def _kept(config: FlareConfig, shape: TargetShape) -> TargetEncoder:
    if shape.features is None:
        raise ValueError(
            "target 'backbone': no features of a frozen vision model are kept; name one with model.vision.name and keep them "
            "(training.cache-features), or choose target 'frozen' or 'ema'"
        )
    return KeptTarget(*shape.features, tokens=shape.tokens, cameras=shape.cameras)


def _slow_copy(config: FlareConfig, shape: TargetShape) -> TargetEncoder:
    if shape.vision is None:
        raise ValueError("target 'ema': this policy has no vision module from images to tokens; choose target 'frozen'")
    slow = SlowCopy(shape.vision, config.ema)
    return FollowingTarget(slow, tokens=shape.tokens, cameras=shape.cameras, image_size=shape.image_size)


def _action_aware(config: FlareConfig, shape: TargetShape) -> TargetEncoder:
    sizes = config.action_aware
    vision: nn.Module
    if config.target_name:
        vision = FrozenVision(config.target_name)
    elif shape.vision is not None:
        vision = copy.deepcopy(shape.vision).requires_grad_(True)
    else:
        raise ValueError("target 'action_aware': this policy has no vision module to copy; give alignment.target-name")
    text = FrozenText(config.target_name) if sizes.words else None
    encoder = ActionAwareEncoder(
        vision,
        probe_tokens(vision, shape.image_size)[1],
        text=text,
        text_dim=0 if text is None else text.dim,
        dim=sizes.dim,
        tokens=shape.tokens,
        cameras=shape.cameras,
        layers=sizes.layers,
        reads=sizes.reads,
        heads=sizes.heads,
    )
    head = FlowHead(
        shape.action_dim,
        shape.horizon,
        sizes.dim,
        state_dim=shape.state_dim,
        embodiments=shape.embodiments,
        dim=sizes.head_dim,
        depth=sizes.head_layers,
        heads=sizes.heads,
    )
    return ActionAwareTarget(ActionAwareTraining(encoder, head), decay=config.ema)


TARGETS: dict[str, Callable[[FlareConfig, TargetShape], TargetEncoder]] = {
    "frozen": _frozen,
    "backbone": _kept,
    "ema": _slow_copy,
    "action_aware": _action_aware,
}


def cells_of(tokens: int, cameras: int) -> int:
    """Tokens of each camera. Raises ValueError where they have not all the same number."""
    if tokens % cameras:
        raise ValueError(f"{tokens} tokens for {cameras} cameras: choose a multiple, each camera has the same number")
    return tokens // cameras


def pool_grid(tokens: Tensor, count: int) -> Tensor:
    """Patch tokens [B, N, D] of a square grid, averaged to `count`: [B, count, D], row-major.

    The pooled grid is the squarest of `count` cells (32 = 4 x 8, wider than high); where it does not divide the patches'
    grid, cells overlap (adaptive pooling). Raises ValueError where N is no square or the pooled grid is the finer one.
    """
    side = math.isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise ValueError(
            f"{tokens.shape[1]} tokens of an image are no square grid: give a module without class tokens, on square images"
        )
    rows = max(r for r in range(1, math.isqrt(count) + 1) if count % r == 0)
    columns = count // rows
    if columns > side:
        raise ValueError(
            f"{count} tokens need a grid of {rows} x {columns}, but the image has {side} x {side} patches: choose fewer tokens "
            f"(a divisor grid such as {side * side}), larger images or smaller patches"
        )
    grid = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, (rows, columns)).flatten(2).transpose(1, 2)


@torch.no_grad()
def probe_tokens(vision: nn.Module, image_size: int) -> tuple[int, int]:
    """(N, D) that `vision` makes of an image of `image_size` pixels. Raises ValueError where it makes no [B, N, D]."""
    tensors = [*vision.parameters(), *vision.buffers()]
    blank = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=tensors[0].device if tensors else None)
    training = vision.training
    tokens = vision.eval()(blank)
    vision.train(training)
    if not isinstance(tokens, Tensor) or tokens.ndim != 3:
        shown = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"the vision module makes {shown} of uint8 [1, 3, S, S]: tokens [1, N, D] are wanted")
    return tokens.shape[1], tokens.shape[2]
