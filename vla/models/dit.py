"""The diffusion transformer of System 1: AdaLN, cross-attention to vision-language tokens between self-attention.

GR00T's layout (REFERENCE.md, section 2): block 0, 2, ... cross-attends, block 1, 3, ... self-attends; each block

    h <- h + Dropout(Attention(AdaLN(h, time), context or itself))
    h <- h + MLP(LayerNorm(h))

with AdaLN(h, c) = LayerNorm(h) (1 + scale(c)) + shift(c) and no gate; attention and MLP end in a dropout of their own. Weights
that NVIDIA published compute here what they compute in its code (vla/published_heads.py), but for one thing: tokens that are padding
are never seen, where N1.5 sees them.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla.models.config import DitConfig
from vla.policy import ContextTokens

TIME_CHANNELS = 256
LOG_10_000 = float(torch.tensor(math.log(10_000), dtype=torch.float32))
"""Rounded as in GR00T's action encoder: at a time of 1000 the last bit of a frequency is the fifth digit of a sine."""


def sinusoid(position: Tensor, channels: int) -> Tensor:
    """[...] -> [..., channels]: sine then cosine of geometric frequencies from 1 to 1/10000; float32 whatever torch's default is,
    for at a time of 1000 an angle in bfloat16 is no angle."""
    half = channels // 2
    powers = -torch.arange(half, dtype=torch.float32, device=position.device) * (LOG_10_000 / half)
    angle = _angles(position, powers)
    return torch.cat([angle.sin(), angle.cos()], -1)


def flow_time_features(bucket: Tensor) -> Tensor:
    """[B] -> float32 [B, TIME_CHANNELS]: cosine then sine of geometric frequencies of which the last is 1/10000 itself, as
    GR00T's DiT reads the flow time (its action encoder reads `sinusoid`)."""
    half = TIME_CHANNELS // 2
    powers = -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=bucket.device)
    angle = _angles(bucket, powers / (half - 1))
    return torch.cat([angle.cos(), angle.sin()], -1)


def _angles(position: Tensor, powers: Tensor) -> Tensor:
    return position.float().unsqueeze(-1) * torch.exp(powers)


class Attention(nn.Module):
    """Multi-head attention of x [B, L, W] to keys [B, N, K] (x itself without them)."""

    def __init__(self, width: int, heads: int, head_dim: int, key_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        inner, keys = heads * head_dim, key_dim or width
        self.heads = heads
        self.q = nn.Linear(width, inner)
        self.k = nn.Linear(keys, inner)
        self.v = nn.Linear(keys, inner)
        self.out = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`mask` bool [B, N]: which keys may be seen. Where none may, the result is that of no values at all."""
        source = x if keys is None else keys
        q, k, v = (
            layer(t).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, t in ((self.q, x), (self.k, source), (self.v, source))
        )
        seen = None
        if mask is not None:
            any_seen = mask.any(-1, keepdim=True)
            # softmax over nothing is NaN: look at everything, and drop what was seen
            seen = (mask | ~any_seen)[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        if mask is not None:
            y = y * any_seen[:, None, :, None]
        return self.dropout(self.out(y.transpose(1, 2).flatten(2)))


class MLP(nn.Sequential):
    """GELU, four times as wide inside."""

    def __init__(self, width: int, dropout: float) -> None:
        layers = [nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(4 * width, width), nn.Dropout(dropout))


class AdaLayerNorm(nn.Module):
    """LayerNorm without parameters, scaled and shifted by a condition [B, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.condition = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width, eps=1e-5, elementwise_affine=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.condition(F.silu(condition)).unsqueeze(1).chunk(2, -1)
        return self.norm(x) * (1 + scale) + shift


class DitBlock(nn.Module):
    """One block; with `context_dim` it cross-attends."""

    def __init__(self, config: DitConfig, context_dim: int | None) -> None:
        super().__init__()
        self.norm = AdaLayerNorm(config.width)
        self.attention = Attention(config.width, config.heads, config.head_dim, context_dim, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.mlp_norm = nn.LayerNorm(config.width, eps=1e-5, elementwise_affine=False)
        self.mlp = MLP(config.width, config.dropout)


class Dit(nn.Module):
    """ContextTokens [B, L, W] and flow times -> outputs [B, L, output_dim], and the future tokens' states on the way."""

    def __init__(self, config: DitConfig, context_dim: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.time = nn.Sequential(nn.Linear(TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            DitBlock(config, context_dim if number % 2 == 0 else None) for number in range(config.layers)
        )
        self.out_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.out_condition = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, config.output_dim)

    def forward(
        self, x: Tensor, mask: Tensor, context: ContextTokens, time_bucket: Tensor, *, future: slice | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`x` [B K, L, W] with `mask` bool [B K, L] (tokens that are there), `context` of B, `time_bucket` int64 [B K].

        K is the number of flow draws for each context, neighbours in `x`. Returns [B K, L, output_dim] and the states
        [B K, M, W] of the tokens in `future`.
        """
        x = x.to(self.out.weight.dtype)
        condition = self.time(flow_time_features(time_bucket).to(x.dtype))
        draws = len(x) // len(context.features)
        where = self.config.future_layer if self.config.future_layer > 0 else len(self.blocks)
        states: Tensor | None = None
        for number, block in enumerate(self.blocks):
            assert isinstance(block, DitBlock)
            h = block.norm(x, condition)
            if number % 2:
                h = block.attention(h, mask=mask)
            else:
                # the draws of one context attend to it side by side: its keys are computed once
                side_by_side = h.unflatten(0, (-1, draws)).flatten(1, 2)
                seen = self._context_mask(context, number)
                h = block.attention(side_by_side, context.features, seen).view_as(h)
            x = x + block.dropout(h)
            x = x + block.mlp(block.mlp_norm(x))
            if future is not None and number + 1 == where:
                states = x[:, future]
        # those of a block come the other way round
        shift, scale = self.out_condition(F.silu(condition)).unsqueeze(1).chunk(2, -1)
        return self.out(self.out_norm(x) * (1 + scale) + shift), states

    def _context_mask(self, context: ContextTokens, number: int) -> Tensor:
        if self.config.cross == "all":
            return context.mask
        text_turn = (number // 2) % 2 == 0
        return context.mask & (~context.is_image if text_turn else context.is_image)


class VisionLanguageBlocks(nn.Module):
    """Self-attention over the vision-language tokens before the DiT reads them (N1.5: 4 layers)."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float = 0.2) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide the {width} features of a vision-language token")
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(width),
                    "attention": Attention(width, heads, width // heads, dropout=dropout),
                    "mlp_norm": nn.LayerNorm(width),
                    "mlp": MLP(width, dropout),
                }
            )
            for _ in range(layers)
        )

    def forward(self, tokens: ContextTokens) -> ContextTokens:
        x = tokens.features
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            x = x + self.dropout(block["attention"](block["norm"](x), mask=tokens.mask))
            x = x + block["mlp"](block["mlp_norm"](x))
        return dataclasses.replace(tokens, features=x)
