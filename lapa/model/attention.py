"""Transformer blocks over space and over time, as in C-ViViT (Phenaki, arXiv 2210.02399).

Shapes: B batch, T frames (2), N patches of a frame in row-major order (a square grid), D width.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """GEGLU feed-forward (Shazeer 2020); its inner width is 2/3 of `4 * dim`, so parameters match a plain one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = int(dim * 4.0 * 2 / 3)
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, 2 * inner, bias=False)
        self.outer = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.inner(self.norm(x)).chunk(2, dim=-1)
        return self.outer(value * F.gelu(gate))


def attend(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None, causal: bool, scale: float | None = None) -> Tensor:
    """Queries [..., heads, N, d] over keys and values [..., heads, M, d], which may be shared along the leading dimensions, as
    `bias` may that is added to the logits -> [..., N, heads * d]."""
    lead = q.shape[:-3]
    # PyTorch's fused kernels, three times as fast, take four dimensions
    q, k, v = (x.expand(*lead, *x.shape[-3:]).reshape(-1, *x.shape[-3:]) for x in (q, k, v.to(q.dtype)))
    if bias is not None and bias.ndim > 3:
        bias = bias.expand(*lead, *bias.shape[-3:]).reshape(-1, *bias.shape[-3:])
    bias = None if bias is None else bias.to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal, scale=scale)
    return out.transpose(1, 2).flatten(2).unflatten(0, lead)


class Attention(nn.Module):
    """Multi-head attention with pre-normalisation; `context` makes it cross-attention, `bias` is added to the logits."""

    def __init__(self, dim: int, heads: int, *, context_dim: int | None = None) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not divisible by {heads} heads: choose a divisor of the width")
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.context_norm = nn.LayerNorm(context_dim) if context_dim is not None else None
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(context_dim or dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, bias: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """`x` [..., N, D]; `context` [..., M, C] or None; `bias` broadcastable to [..., heads, N, M]."""
        x = self.norm(x)
        source = x if context is None else (self.context_norm(context) if self.context_norm else context)
        q = self._split(self.to_q(x))
        k, v = (self._split(part) for part in self.to_kv(source).chunk(2, dim=-1))
        q, k = self.turned(q), self.turned(k)
        return self.to_out(attend(q, k, v, bias=bias, causal=causal))

    def turned(self, x: Tensor) -> Tensor:
        """Queries or keys [..., heads, N, D / heads] as their positions have them."""
        return x

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class PositionGenerator(nn.Module):
    """PEG (Chu et al., arXiv 2102.10882): a depthwise 3x3x3 convolution over time (causal) and space, added to tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(dim, dim, 3, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [B, T, N, D]."""
        side = math.isqrt(x.shape[2])
        grid = x.unflatten(2, (side, side)).permute(0, 4, 1, 2, 3)
        grid = self.conv(F.pad(grid, (1, 1, 1, 1, 2, 0)))
        return x + grid.permute(0, 2, 3, 4, 1).flatten(2, 3)


class RelativePositionBias(nn.Module):
    """Continuous relative position bias of a square grid (Swin v2, as C-ViViT uses it): signed log distance -> heads."""

    coordinates: Tensor

    def __init__(self, side: int, heads: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.LeakyReLU(0.1), nn.Linear(width, width), nn.LeakyReLU(0.1), nn.Linear(width, heads)
        )
        index = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).view(-1, 2)
        offset = (index[:, None] - index[None]).float()
        self.register_buffer("coordinates", offset.sign() * (offset.abs() + 1).log(), persistent=False)

    def forward(self) -> Tensor:
        """[heads, N, N]."""
        return self.net(self.coordinates).permute(2, 0, 1)


class Transformer(nn.Module):
    """`depth` layers of [PEG], self-attention, [cross-attention], feed-forward, with a last norm.

    `axis` "space" attends over the N patches of each frame, "time" over the T frames of each patch. A subclass says what its
    layers are made of.
    """

    attention: ClassVar[type[Attention]] = Attention
    causal: ClassVar[bool] = True
    """Whether a frame sees no later one."""

    def generator(self, dim: int) -> PositionGenerator:
        """What tells tokens where they are, with `peg`."""
        return PositionGenerator(dim)

    def last_norm(self, dim: int) -> nn.Module:
        """After all layers."""
        return nn.LayerNorm(dim)

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        *,
        axis: str = "space",
        peg: bool = False,
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    **({"peg": self.generator(dim)} if peg else {}),
                    "self": self.attention(dim, heads),
                    **({"cross": self.attention(dim, heads, context_dim=context_dim)} if context_dim else {}),
                    "ff": FeedForward(dim),
                }
            )
            for _ in range(depth)
        )
        self.norm = self.last_norm(dim) if depth else nn.Identity()

    def forward(self, x: Tensor, *, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """`x` [B, T, N, D] -> the same shape; `context` [B, M, C] is shared by the T frames."""
        if context is not None:
            context = context[:, None]
        for layer in self.layers:
            if "peg" in layer:  # type: ignore[operator]
                x = layer["peg"](x)  # type: ignore[index]
            if self.axis == "time":
                x = x + layer["self"](x.transpose(1, 2), causal=self.causal).transpose(1, 2)  # type: ignore[index]
            else:
                x = x + layer["self"](x, bias=bias)  # type: ignore[index]
            if context is not None and "cross" in layer:  # type: ignore[operator]
                x = x + layer["cross"](x, context)  # type: ignore[index]
            x = x + layer["ff"](x)  # type: ignore[index]
        return self.norm(x)


def patch_numbers(x: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, N, C * patch^2], the numbers of each patch, colours first."""
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


class PatchStem(nn.Module):
    """Non-overlapping patches, normalised before and after a linear map (LAPA)."""

    def __init__(self, channels: int, patch: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        width = channels * patch * patch
        self.net = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim), nn.LayerNorm(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, N, D]."""
        return self.net(patch_numbers(x, self.patch))


class ConvStem(nn.Module):
    """Overlapping strided convolutions (Xiao et al., arXiv 2106.14881): far faster to train than patches when data is
    little and minutes are few."""

    def __init__(self, channels: int, patch: int, dim: int, width: int) -> None:
        super().__init__()
        steps = int(math.log2(patch))
        if 2**steps != patch or steps < 1:
            raise ValueError(f"patch {patch} is no power of two: a convolutional stem halves the image; use 4, 8 or 16")
        widths = [channels] + [width * 2**i for i in range(steps - 1)] + [dim]
        layers: list[nn.Module] = []
        for i in range(steps):
            kernel = 5 if i == 0 else 3
            layers.append(nn.Conv2d(widths[i], widths[i + 1], kernel, 2, kernel // 2))
            if i + 1 < steps:
                layers.append(nn.GELU())
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, N, D]."""
        return self.net(x).flatten(2).transpose(1, 2)
