"""Self-attention over tokens and a Q-former: M learned queries that read a set of tokens of any length.

FLARE (arXiv 2505.15659) compresses an observation to M = 32 tokens with 4 self-attention layers and a Q-former (BLIP-2,
arXiv 2301.12597). Shapes: B batch, N tokens, M queries, C width of what is read, D width. A mask is bool [B, N], True
where a token is real; what stands in the other places, NaN included, changes nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedAttention(nn.Module):
    """Multi-head attention with pre-normalisation, as self-attention or (with `context_dim`) as cross-attention.

    Raises ValueError where `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, heads: int, *, context_dim: int | None = None) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not divisible by {heads} heads: choose a divisor of the width")
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.context_norm = nn.LayerNorm(context_dim) if context_dim is not None else None
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(context_dim or dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        """`x` [B, N, D] reads `context` [B, K, C] (itself where None); `mask` bool [B, K] says which keys are real.

        Where a sample has no real key at all, the answer is the bias of the last map: nothing was read.
        """
        x = self.norm(x)
        source = x
        if self.context_norm is not None:
            if context is None:
                raise ValueError("cross-attention was given nothing to read: pass `context` [B, K, C]")
            source = self.context_norm(context)
        q = self._split(self.to_q(x))
        k, v = (self._split(part) for part in self.to_kv(source).chunk(2, dim=-1))
        if mask is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            some = mask.any(-1)
            # a row without keys would be 0 / 0: it reads all of them, and the result is dropped
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=(mask | ~some[:, None])[:, None, None])
            out = out * some[:, None, None, None]
        return self.to_out(out.transpose(1, 2).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Pre-normalised two-layer GELU network, `mult` times wider inside."""

    def __init__(self, dim: int, mult: float = 4.0) -> None:
        super().__init__()
        inner = int(dim * mult)
        self.net = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.net(x)


class SelfAttentionStack(nn.Module):
    """`depth` pre-norm blocks of self-attention and feed-forward, with a last norm. 4 of them in FLARE and GR00T N1.5."""

    def __init__(self, dim: int, depth: int, heads: int, *, mult: float = 4.0) -> None:
        super().__init__()
        self.attention = nn.ModuleList(MaskedAttention(dim, heads) for _ in range(depth))
        self.feed_forward = nn.ModuleList(FeedForward(dim, mult) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D]; zero where `mask` is False."""
        x = clear_padding(tokens, mask)
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            x = x + attention(x, mask=mask)
            x = x + feed_forward(x)
        return clear_padding(self.norm(x), mask)


class QFormer(nn.Module):
    """M learned queries; each of `depth` blocks lets them read each other, then the tokens, then think (feed-forward).

    `tokens` is M; `context_dim` the width C of what is read (default `dim`).
    """

    def __init__(
        self, dim: int, *, tokens: int = 32, depth: int = 2, heads: int = 8, context_dim: int | None = None
    ) -> None:
        super().__init__()
        if tokens < 1 or depth < 1:
            raise ValueError(f"a Q-former of {tokens} queries and {depth} blocks: both are at least 1")
        self.queries = nn.Parameter(torch.randn(tokens, dim) / math.sqrt(dim))
        self.among = nn.ModuleList(MaskedAttention(dim, heads) for _ in range(depth))
        self.read = nn.ModuleList(MaskedAttention(dim, heads, context_dim=context_dim or dim) for _ in range(depth))
        self.feed_forward = nn.ModuleList(FeedForward(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, N, C] -> [B, M, D]. A sample without a real token gives what the queries say unread."""
        context = clear_padding(context, mask)
        x = self.queries.expand(len(context), -1, -1)
        for among, read, feed_forward in zip(self.among, self.read, self.feed_forward, strict=True):
            x = x + among(x)
            x = x + read(x, context, mask=mask)
            x = x + feed_forward(x)
        return self.norm(x)


def clear_padding(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """`tokens` [B, N, D] with 0 where `mask` [B, N] is False: weights of 0 alone would still pass on a NaN.

    Raises ValueError where the mask is not bool [B, N].
    """
    if mask is None:
        return tokens
    if mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"mask {mask.dtype} {list(mask.shape)} for tokens {list(tokens.shape)}: it is bool [B, N], True where a token is real"
        )
    return tokens.masked_fill(~mask[..., None], 0.0)


def sine_positions(count: int, dim: int, *, device: torch.device | None = None) -> Tensor:
    """float32 [count, dim]: sines and cosines of row and column where `count` is a square (patches of a picture, in
    row-major order), of the place in the row otherwise (Vaswani et al. 2017). No weights, any length."""
    side = math.isqrt(count)
    place = torch.arange(count, device=device)
    axes = [place // side, place % side] if side * side == count else [place]
    quarter = max(1, dim // (2 * len(axes)))
    rates = torch.exp(-math.log(100.0) * torch.arange(quarter, device=device) / quarter)
    parts = [wave(axis[:, None] * rates) for axis in axes for wave in (torch.sin, torch.cos)]
    table = torch.cat(parts, -1)
    return F.pad(table, (0, dim - table.shape[1])) if table.shape[1] <= dim else table[:, :dim]
