"""The encoder: from a pair of frames to latent tokens, by one of four ways to put a pair into a network."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lapa.model.attention import Attention, ConvStem, PatchStem, RelativePositionBias, Transformer
from lapa.model.config import LamConfig

CHANGE_SCALE = 3.0
"""Brings the difference of two pictures (deviation about 0.1) near unit size."""
FLOW_SCALE = 0.2
"""Brings flow in per cent of the picture (a few) near unit size."""
FLATTEN_WIDTH = 16
"""Channels per patch before the one linear map of pool 'flatten'."""


def make_stem(config: LamConfig, channels: int) -> nn.Module:
    """Frames to patches: [B, channels, S, S] -> [B, N, D]; or a linear map of frozen features [B, N, F] -> [B, N, D]."""
    if not config.pixels:
        return nn.Linear(config.feature_dim, config.dim)
    if config.stem == "patch":
        return PatchStem(channels, config.patch, config.dim)
    return ConvStem(channels, config.patch, config.dim, width=max(16, config.dim // 8))


class PairEncoder(nn.Module):
    """See `LamConfig.input` for the ways; all end in `config.tokens` latent tokens."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        way = config.input
        if way == "motion":
            half = replace(config, input="change", tokens=config.tokens // 2)
            rest = replace(config, input="additive", tokens=config.tokens - half.tokens)
            branches = [_Branch(half, way="change"), _Branch(rest, way="additive")]
        else:
            branches = [_Branch(config, way=way)]
        self.branches = nn.ModuleList(branches)

    def forward(self, first: Tensor, second: Tensor, valid: Tensor | None, flow: Tensor | None) -> Tensor:
        """Latents [B, tokens, latent_dim] of pictures [B, 3, S, S] (or features [B, N, F]); `valid` [B, 1, S, S]."""
        if valid is not None and first.ndim == 4:
            first, second = first * valid, second * valid
            if flow is not None:
                flow = flow * F.interpolate(valid, size=flow.shape[-2:], mode="area")
        return torch.cat([branch(first, second, flow) for branch in self.branches], 1)


class _Branch(nn.Module):
    """One way from a pair to latent tokens: stem, blocks over space and time, pool."""

    def __init__(self, config: LamConfig, *, way: str) -> None:
        super().__init__()
        self.way = way
        dim, peg = config.dim, config.position == "peg"
        self.stem = make_stem(config, 5 if way == "change" and config.sees_flow else 3)
        frames = 1 if way in {"change", "additive"} else 2
        self.position = None if peg else nn.Parameter(0.02 * torch.randn(1, frames, config.patches, dim))
        self.bias = RelativePositionBias(math.isqrt(config.patches), config.heads, dim) if peg else None
        self.spatial = Transformer(dim, config.spatial_depth, config.heads, axis="space", peg=peg)
        depth = 0 if frames == 1 else config.temporal_depth
        self.temporal = Transformer(dim, depth, config.heads, axis="time", peg=peg)
        self.pool = make_pool(config)

    def forward(self, first: Tensor, second: Tensor, flow: Tensor | None) -> Tensor:
        """[B, tokens, latent_dim]."""
        if self.way == "additive":
            # one pass over both frames; the same function of each, so g(c) - g(a) = (g(c) - g(b)) + (g(b) - g(a))
            states = self.pool(self._blocks(self.stem(torch.cat([second, first]))[:, None])[:, 0])
            after, before = states.chunk(2)
            return after - before
        if self.way == "change":
            change = (second - first) * CHANGE_SCALE
            if flow is not None:
                up = F.interpolate(flow, size=change.shape[-2:], mode="bilinear") * FLOW_SCALE
                change = torch.cat([change, up], 1)
            return self.pool(self._blocks(self.stem(change)[:, None])[:, 0])
        e1, e2 = self.stem(first), self.stem(second)
        x = self._blocks(torch.stack([e1, e2 - e1 if self.way == "como" else e2], 1))
        return self.pool(x[:, 1] - x[:, 0] if self.way == "difference" else x[:, -1])

    def _blocks(self, x: Tensor) -> Tensor:
        """[B, T, N, D] -> the same shape."""
        if self.position is not None:
            x = x + self.position
        x = self.spatial(x, bias=None if self.bias is None else self.bias())
        return self.temporal(x)


def make_pool(config: LamConfig) -> nn.Module:
    """The pool of `config`: [B, N, D] -> [B, tokens, latent_dim]."""
    if config.pool == "flatten":
        return FlattenPool(config)
    if config.pool == "conv":
        return ConvPool(config)
    if config.pool == "keypoints":
        return KeypointPool(config)
    return QueryPool(config)


class KeypointPool(nn.Module):
    """Expected position of each of `latent_size / 2` features under a softmax over the patches (Finn et al., arXiv
    1509.06113), and one linear map: what moves on a curve in "which patch is lit" moves on a line here."""

    grid: Tensor

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        self.shape = (config.tokens, config.latent_dim)
        points = max(8, config.latent_size // 2)
        self.where = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, points))
        self.sharpness = nn.Parameter(torch.full((points,), 3.0))
        self.out = nn.Linear(2 * points, config.latent_size)
        line = torch.linspace(-1, 1, math.isqrt(config.patches))
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        share = (self.where(x).float() * self.sharpness).softmax(1)
        position = torch.einsum("bnk,nc->bkc", share, self.grid)
        return self.out(position.flatten(1)).unflatten(1, self.shape)


class FlattenPool(nn.Module):
    """One linear map of all patches: keeps where things happened, and is quick to learn."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        self.shape = (config.tokens, config.latent_dim)
        self.narrow = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, FLATTEN_WIDTH))
        self.out = nn.Linear(FLATTEN_WIDTH * config.patches, config.latent_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.narrow(x).flatten(1)).unflatten(1, self.shape)


class ConvPool(nn.Module):
    """LAPA's: project to the latent's width, then halve the grid with convolutions until one cell is one token."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        side, goal, dim = math.isqrt(config.patches), math.isqrt(config.tokens), config.latent_dim
        self.project = nn.Linear(config.dim, dim)
        layers: list[nn.Module] = []
        while side > goal:
            layers += [nn.Conv2d(dim, dim, 3, 2, 1), nn.ReLU()]
            side = (side + 1) // 2
        self.halve = nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(goal))

    def forward(self, x: Tensor) -> Tensor:
        side = math.isqrt(x.shape[1])
        grid = self.project(x).transpose(1, 2).unflatten(2, (side, side))
        return self.halve(grid).flatten(2).transpose(1, 2)


class QueryPool(nn.Module):
    """Learned queries that attend to the patches (UniVLA, GR00T)."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(1, config.tokens, config.dim))
        self.attention = Attention(config.dim, config.heads, context_dim=config.dim)
        self.out = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, config.latent_dim))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.expand(len(x), -1, -1)
        return self.out(queries + self.attention(queries, x))
