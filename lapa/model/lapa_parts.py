"""What LAPA's network (arXiv 2410.11758, its public code) does in a way of its own, so that its published weights mean here what
they mean there. Each part is chosen by name "lapa" in the configuration.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lapa.model.attention import Attention, PositionGenerator, Transformer, attend
from lapa.model.config import LamConfig
from lapa.model.decoder import AttendedLatent
from lapa.model.encoder import WayIn
from lapa.model.pools import Pool

NULL_KEYS = 2
"""Learned keys that cross-attention can look at when nothing else is worth it."""
SHARPNESS = 8.0
"""Times which the cosines of queries and keys are taken."""


class CosineAttention(Attention):
    """Queries and keys of unit length with learned scales; keys and values of the tokens before their norm; null keys in
    cross-attention."""

    def __init__(self, dim: int, heads: int, *, context_dim: int | None = None) -> None:
        super().__init__(dim, heads, context_dim=context_dim)
        self.norm = nn.LayerNorm(dim, bias=False)
        self.context_norm = nn.LayerNorm(context_dim, bias=False) if context_dim is not None else None
        self.q_scale = nn.Parameter(torch.ones(dim // heads))
        self.k_scale = nn.Parameter(torch.ones(dim // heads))
        nulls = NULL_KEYS if context_dim is not None else 0
        self.nulls = nn.Parameter(torch.randn(2, heads, nulls, dim // heads))

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, bias: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        source = x if context is None or self.context_norm is None else self.context_norm(context)
        q = self._split(self.to_q(self.norm(x)))
        k, v = (self._split(part) for part in self.to_kv(source).chunk(2, dim=-1))
        k, v = (
            torch.cat([n.expand(*new.shape[:-3], *n.shape), new], -2) for n, new in zip(self.nulls, (k, v), strict=True)
        )
        q, k = F.normalize(q, dim=-1) * self.q_scale, F.normalize(k, dim=-1) * self.k_scale
        return self.to_out(attend(q, k, v, bias=bias, causal=causal, scale=SHARPNESS))


class PatchFirstGenerator(PositionGenerator):
    """Over time LAPA lays tokens out patch by patch and convolves them as if they lay frame by frame: what its weights
    learned."""

    def forward(self, x: Tensor) -> Tensor:
        as_read = x.transpose(1, 2).reshape(x.shape)
        return super().forward(as_read).reshape(x.transpose(1, 2).shape).transpose(1, 2)


class LapaTransformer(Transformer):
    """Cosine attention; over time both frames see each other."""

    attention = CosineAttention
    causal = False

    def generator(self, dim: int) -> PositionGenerator:
        return PatchFirstGenerator(dim) if self.axis == "time" else PositionGenerator(dim)

    def last_norm(self, dim: int) -> nn.Module:
        return nn.LayerNorm(dim, bias=False)


class LapaPool(Pool):
    """Project to the latent's width, halve the grid once, and let one convolution without padding make the tokens."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__(config)
        dim, halved = config.latent_dim, (math.isqrt(config.patches) + 1) // 2
        rows = math.ceil(math.sqrt(config.tokens))
        columns = config.tokens // rows
        if rows * columns != config.tokens or rows > halved:
            raise ValueError(
                f"pool 'lapa' with tokens {config.tokens}: of {config.patches} patches it makes 1, 2 or a square number of tokens "
                f"up to {halved**2}; LAPA has 4 of 64"
            )
        self.project = nn.Linear(config.dim, dim)
        self.halve = nn.Conv2d(dim, dim, 3, 2, 1)
        self.merge = nn.Conv2d(dim, dim, (halved - rows + 1, halved - columns + 1))

    def forward(self, x: Tensor) -> Tensor:
        side = math.isqrt(x.shape[1])
        grid = self.project(x).transpose(1, 2).unflatten(2, (side, side))
        return self.merge(F.relu(self.halve(grid))).flatten(2).transpose(1, 2)


class PooledDifference(WayIn):
    """The second frame's pooled tokens less the first's; each frame has seen the other."""

    def forward(self, first: Tensor, second: Tensor, flow: Tensor | None) -> Tensor:
        x = self.blocks(torch.stack([self.stem(first), self.stem(second)], 1))
        before, after = self.read(x.flatten(0, 1)).unflatten(0, (len(x), 2)).unbind(1)
        return after - before


class TransposedLatent(AttendedLatent):
    """LAPA's decoder reads the numbers of a pair's tokens as if they lay dimension by dimension: what its weights learned."""

    def enter_latent(self, x: Tensor, latent: Tensor, text: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        as_read = latent.reshape(len(latent), latent.shape[2], latent.shape[1]).transpose(1, 2)
        return super().enter_latent(x, as_read, text)
