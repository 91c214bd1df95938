"""Pools: from the patches of a pair to its latent tokens, [B, N, D] -> [B, tokens, latent_dim]."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lapa.model.attention import Attention
from lapa.model.config import LamConfig

FLATTEN_WIDTH = 16
"""Channels per patch before the one linear map of pool 'flatten'."""


class Pool(nn.Module):
    """A subclass maps patches [B, N, D] to latent tokens [B, tokens, latent_dim]."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        self.shape = (config.tokens, config.latent_dim)


class KeypointPool(Pool):
    """Expected position of each of `latent_size / 2` features under a softmax over the patches (Finn et al., arXiv
    1509.06113), and one linear map: what moves on a curve in "which patch is lit" moves on a line here."""

    grid: Tensor

    def __init__(self, config: LamConfig) -> None:
        super().__init__(config)
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


class FlattenPool(Pool):
    """One linear map of all patches: keeps where things happened, and is quick to learn."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__(config)
        self.narrow = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, FLATTEN_WIDTH))
        self.out = nn.Linear(FLATTEN_WIDTH * config.patches, config.latent_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.narrow(x).flatten(1)).unflatten(1, self.shape)


class ConvPool(Pool):
    """Project to the latent's width, then halve the grid with convolutions until one cell is one token."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__(config)
        if config.tokens not in {1, 4, 16, 64}:
            raise ValueError(
                f"pool 'conv' with tokens {config.tokens}: it makes 1, 4, 16 or 64 (input 'motion' has two pools, with half of "
                "the tokens each); change tokens, or use pool 'queries'"
            )
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


class QueryPool(Pool):
    """Learned queries that attend to the patches (GR00T)."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__(config)
        self.queries = nn.Parameter(0.02 * torch.randn(1, config.tokens, config.dim))
        self.attention = Attention(config.dim, config.heads, context_dim=config.dim)
        self.out = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, config.latent_dim))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.expand(len(x), -1, -1)
        return self.out(queries + self.attention(queries, x))
