"""The encoder: from a pair of frames to latent tokens, by one of several ways to put a pair into a network."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lapa.model.attention import ConvStem, PatchStem, RelativePositionBias, Transformer
from lapa.model.config import LamConfig
from lapa.model.kinds import BLOCKS, POOLS, QUANTISERS, WAYS_IN

CHANGE_SCALE = 3.0
"""Brings the difference of two images (deviation about 0.1) near unit size."""
FLOW_SCALE = 0.2
"""Brings flow in per cent of the image (a few) near unit size."""


def make_stem(config: LamConfig, channels: int) -> nn.Module:
    """Frames to patches: [B, channels, S, S] -> [B, N, D]; or a linear map of frozen features [B, N, F] -> [B, N, D]."""
    if not config.pixels:
        return nn.Linear(config.feature_dim, config.dim)
    if config.stem == "patch":
        return PatchStem(channels, config.patch, config.dim)
    return ConvStem(channels, config.patch, config.dim, width=max(16, config.dim // 8))


class PairEncoder(nn.Module):
    """All ways end in `config.tokens` latent tokens."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        way: type[WayIn] = WAYS_IN[config.input]
        if config.stage == 2 and not way.two_stages:
            raise ValueError(
                f"stage 2 with input '{config.input}': it learns tokens beside those of a stage 1, which input "
                "task_tokens has; use recipe univla"
            )
        self.sees_text = way.sees_text
        self.branches = nn.ModuleList(way.branches(config))

    def forward(
        self, first: Tensor, second: Tensor, valid: Tensor | None, flow: Tensor | None, text: Tensor | None = None
    ) -> Tensor:
        """Latents [B, tokens, latent_dim] of images [B, 3, S, S] (or features [B, N, F]); `valid` [B, 1, S, S]; `text`
        [B, L, text_dim], which only a way that `sees_text` is given."""
        if valid is not None and first.ndim == 4:
            first, second = first * valid, second * valid
            if flow is not None:
                flow = flow * F.interpolate(valid, size=flow.shape[-2:], mode="area")
        told = {"text": text} if self.sees_text else {}
        return torch.cat([branch(first, second, flow, **told) for branch in self.branches], 1)


class WayIn(nn.Module):
    """One way from a pair to latent tokens: stem, blocks over space and time, pool. A subclass defines `forward`, from
    images [B, 3, S, S] (or features [B, N, F]) and flow [B, 2, S/4, S/4] to [B, tokens, latent_dim]."""

    frames: ClassVar[int] = 2
    """Frames that the blocks see."""
    sees_flow: ClassVar[bool] = False
    """Whether it has a use for the pair's flow."""
    sees_text: ClassVar[bool] = False
    """Whether it reads the instruction: `forward` then has a last argument `text`, [B, L, text_dim] or None."""
    words: nn.Linear | None
    """With `sees_text`: from the text's width to its own."""
    two_stages: ClassVar[bool] = False
    """Whether it can learn tokens beside those of a first stage: in stage 2 it then gives twice `config.tokens`."""

    @classmethod
    def branches(cls, config: LamConfig) -> list[WayIn]:
        """The networks whose latent tokens lie side by side."""
        return [cls(config)]

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        if QUANTISERS[config.quantiser.kind].moments > 1 or config.grid[0] != config.grid[1]:
            raise ValueError(
                f"input '{config.input}' with quantiser.kind '{config.quantiser.kind}' and {config.grid[0]} x {config.grid[1]} patches: "
                "it gives latents without their variance, of a square of patches; use input action_token"
            )
        dim, peg = config.dim, config.position == "peg"
        self.stem = make_stem(config, 5 if config.sees_flow else 3)
        self.position = None if peg else nn.Parameter(0.02 * torch.randn(1, self.frames, config.patches, dim))
        self.bias = RelativePositionBias(math.isqrt(config.patches), config.heads, dim) if peg else None
        layers: type[Transformer] = BLOCKS[config.blocks]
        self.spatial = layers(dim, config.spatial_depth, config.heads, axis="space", peg=peg)
        depth = 0 if self.frames == 1 else config.temporal_depth
        self.temporal = layers(dim, depth, config.heads, axis="time", peg=peg)
        self.pool: nn.Module = POOLS[config.pool](config)

    def read(self, x: Tensor) -> Tensor:
        """The pool of patches [B, N, D], in float32 whatever the training's precision: what differs between two nearly equal
        frames is small beside either, and would be lost in the rounding of bfloat16."""
        with torch.autocast(x.device.type, enabled=False):
            return self.pool(x.float())

    def blocks(self, x: Tensor) -> Tensor:
        """[B, frames, N, D] -> the same shape, float32."""
        if self.position is not None:
            x = x + self.position
        x = self.spatial(x, bias=None if self.bias is None else self.bias())
        return self.temporal(x).float()


class Both(WayIn):
    """Two frames; the second's tokens are read."""

    def forward(self, first: Tensor, second: Tensor, flow: Tensor | None) -> Tensor:
        return self.read(self.blocks(torch.stack([self.stem(first), self.stem(second)], 1))[:, 1])


class Difference(WayIn):
    """The second frame's tokens less the first's."""

    def forward(self, first: Tensor, second: Tensor, flow: Tensor | None) -> Tensor:
        x = self.blocks(torch.stack([self.stem(first), self.stem(second)], 1))
        return self.read(x[:, 1] - x[:, 0])


class Como(WayIn):
    """The first frame and the difference of the features: the future frame itself is removed."""

    def forward(self, first: Tensor, second: Tensor, flow: Tensor | None) -> Tensor:
        before, after = self.stem(first).float(), self.stem(second).float()
        return self.read(self.blocks(torch.stack([before, after - before], 1))[:, 1])


class Change(WayIn):
    """The difference of the images, optical flow beside it where the configuration says so, and nothing else."""

    frames = 1
    sees_flow = True

    def __init__(self, config: LamConfig) -> None:
        if not config.pixels:
            raise ValueError(
                f"input 'change' (or 'motion') with target '{config.target}': it needs pixels; use 'additive'"
            )
        super().__init__(config)

    def forward(self, first: Tensor, second: Tensor, flow: Tensor | None) -> Tensor:
        change = (second - first) * CHANGE_SCALE
        if flow is not None:
            up = F.interpolate(flow, size=change.shape[-2:], mode="bilinear") * FLOW_SCALE
            change = torch.cat([change, up], 1)
        return self.read(self.blocks(self.stem(change)[:, None])[:, 0])


class Additive(WayIn):
    """g(second) - g(first), so that two steps add up to one."""

    frames = 1

    def forward(self, first: Tensor, second: Tensor, flow: Tensor | None) -> Tensor:
        # one pass over both frames; the same function of each, so g(c) - g(a) = (g(c) - g(b)) + (g(b) - g(a))
        states = self.read(self.blocks(self.stem(torch.cat([second, first]))[:, None])[:, 0])
        after, before = states.chunk(2)
        return after - before


class Motion(WayIn):
    """Half of the tokens by change, half by additive."""

    sees_flow = True

    @classmethod
    def branches(cls, config: LamConfig) -> list[WayIn]:
        if config.tokens < 2:
            raise ValueError(f"input 'motion' with tokens {config.tokens}: it needs one for each half, so at least 2")
        half = replace(config, input="change", tokens=config.tokens // 2)
        rest = replace(config, input="additive", tokens=config.tokens - half.tokens)
        return [Change(half), Additive(rest)]
