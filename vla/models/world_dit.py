"""The causal transformer of head `world_action`: blocks of pictures in their order, and what is denoised beside the newest.

A sequence is [words | first frame | past image blocks | image block, its actions, its state]; all but the last block are clean,
and are its context. As in DreamZero (2602.15922; REFERENCE.md, section 7):

    words                   see words
    the first frame         itself (and words)
    a past image block      the first frame, image blocks up to its own
    the image block         the first frame, all past image blocks, itself, its actions and state
    its actions             the same
    its state               itself

No context token sees the last block, so keys and values of the context are computed once, for all flow draws of a training and
all steps of sampling: the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla.models.config import DitConfig
from vla.models.dit import MLP, TIME_CHANNELS, flow_time_features

Past = list[tuple[Tensor, Tensor]]
"""The cache: of each layer keys and values [B, heads, L, head_dim] of the context."""


@dataclass(frozen=True)
class Layout:
    """Numbers of tokens."""

    words: int
    picture: int
    """Of one moment, all cameras together."""
    moments: int
    """Of the context: the first frame and the past image blocks."""
    actions: int

    @property
    def context(self) -> int:
        return self.words + self.moments * self.picture

    @property
    def block(self) -> int:
        """Image block, actions, state."""
        return self.picture + self.actions + 1

    def mask(self, device: torch.device | str = "cpu") -> Tensor:
        """bool [L, L]: which token (row) sees which, L = context + block."""
        moments = torch.arange(1, self.moments + 1).repeat_interleave(self.picture)
        rank = torch.cat([torch.zeros(self.words), moments, torch.full((self.block,), self.moments + 1.0)])
        seen = rank[:, None] >= rank
        seen[-1, :-1] = False
        return seen.to(device)


class CausalAttention(nn.Module):
    """Multi-head self-attention of x [B, L, W], and of what came before it, by a mask."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`mask` bool [B, L, P + L] over the P tokens of `past` and x's own; returns y [B, L, W], and keys and values of x."""
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        own = k, v
        if past is not None:
            k, v = (torch.cat([before, now], 2) for before, now in zip(past, own, strict=True))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])
        return self.out(y.transpose(1, 2).flatten(2)), own


class CausalBlock(nn.Module):
    """h <- h + gate Attention(LN(h) (1 + scale) + shift), then the MLP likewise; six vectors of each token's flow time. The gates
    begin at zero (Peebles and Xie 2023)."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        width = config.width
        self.condition = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = CausalAttention(config)
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = MLP(width, config.dropout)

    def forward(
        self, x: Tensor, condition: Tensor, group: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`condition` [B, G, W] of G flow times, `group` int64 [L]: which of them a token has."""
        told = self.condition(F.silu(condition))[:, group].chunk(6, -1)
        h, own = self.attention(self.norm(x) * (1 + told[0]) + told[1], mask, past)
        x = x + told[2] * h
        return x + told[5] * self.mlp(self.mlp_norm(x) * (1 + told[3]) + told[4]), own


class CausalDit(nn.Module):
    """Tokens [B, L, W] and the flow time of each -> states [B, L, W], normalised by the time, and the cache of these tokens."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        width = config.width
        self.time = nn.Sequential(nn.Linear(TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(CausalBlock(config) for _ in range(config.layers))
        self.out_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.out_condition = nn.Linear(width, 2 * width)

    def forward(
        self, x: Tensor, time_bucket: Tensor, group: Tensor, mask: Tensor, past: Past | None = None
    ) -> tuple[Tensor, Past]:
        """`time_bucket` int64 [B, G], `group` int64 [L] which of the G times a token has, `mask` bool [B, L, P + L] over the P
        tokens of `past` and x's own."""
        x = x.to(self.out_condition.weight.dtype)
        condition = self.time(flow_time_features(time_bucket).to(x.dtype))
        kept: Past = []
        for number, block in enumerate(self.blocks):
            x, own = block(x, condition, group, mask, None if past is None else past[number])
            kept.append(own)
        scale, shift = self.out_condition(F.silu(condition))[:, group].chunk(2, -1)
        return self.out_norm(x) * (1 + scale) + shift, kept
