"""The decoder: predicts the second frame (and the flow to it) from the first frame and the latent, nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lapa.model.attention import RelativePositionBias, Transformer
from lapa.model.config import LamConfig
from lapa.model.encoder import make_stem
from lapa.pairs.config import FLOW_STRIDE

SPREAD_WIDTH = 32
"""Channels per patch of the map that spreads the latent over the picture (condition 'add')."""


@dataclass(frozen=True)
class Prediction:
    """What the decoder says of the second frame."""

    target: Tensor
    """Pixels [B, 3, S, S], unclamped, or features [B, N, F]."""
    flow: Tensor | None
    """Per cent of the picture, [B, 2, S/4, S/4], or None."""


class FrameDecoder(nn.Module):
    """See `LamConfig.condition` for how the latent enters."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        self.config = config
        dim, peg = config.dim, config.position == "peg"
        self.stem = make_stem(config, 3)
        self.position = None if peg else nn.Parameter(0.02 * torch.randn(1, config.patches, dim))
        self.bias = RelativePositionBias(math.isqrt(config.patches), config.heads, dim) if peg else None
        if config.condition == "add":
            self.spread = nn.Linear(config.latent_size, SPREAD_WIDTH * config.patches)
            self.enter = nn.Linear(SPREAD_WIDTH, dim)
        else:
            self.enter = nn.Linear(config.latent_dim, dim)
        self.text = nn.Linear(config.text_dim, dim) if config.text_model else None
        crossed = config.condition == "cross" or (self.text is not None and config.condition == "add")
        self.transformer = Transformer(
            dim, config.decoder_depth, config.heads, peg=peg, context_dim=dim if crossed else None
        )
        out = 3 * config.patch**2 if config.pixels else config.feature_dim
        self.out = nn.Linear(dim, out)
        if config.residual:  # the first prediction is then "nothing happened"
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)
        self.flow_side = config.patch // FLOW_STRIDE
        self.flow = nn.Linear(dim, 2 * self.flow_side**2) if config.flow_weight else None

    def forward(self, first: Tensor, latent: Tensor, valid: Tensor | None, text: Tensor | None) -> Prediction:
        """`first` [B, 3, S, S] or features [B, N, F]; `latent` [B, tokens, latent_dim]; `text` [B, L, text_dim]."""
        config = self.config
        if valid is not None and config.pixels:
            first = first * valid
        x = self.stem(first)
        if self.position is not None:
            x = x + self.position
        extra = [] if self.text is None or text is None else [self.text(text)]
        context = None
        if config.condition == "add":
            x = x + self.enter(self.spread(latent.flatten(1)).unflatten(1, (config.patches, SPREAD_WIDTH)))
            context = extra[0] if extra else None
        elif config.condition == "cross":
            context = torch.cat([self.enter(latent), *extra], 1)
        else:
            x = torch.cat([self.enter(latent), *extra, x], 1)
        x = self.transformer(x[:, None], context=context, bias=None if self.bias is None else self.bias())[:, 0]
        x = x[:, -config.patches :]
        return Prediction(self._target(x, first), self._flow(x))

    def _target(self, x: Tensor, first: Tensor) -> Tensor:
        out = self.out(x)
        if self.config.pixels:
            side = math.isqrt(self.config.patches)
            out = F.pixel_shuffle(out.transpose(1, 2).unflatten(2, (side, side)), self.config.patch)
        return first + out if self.config.residual else out

    def _flow(self, x: Tensor) -> Tensor | None:
        if self.flow is None:
            return None
        side = math.isqrt(self.config.patches)
        grid = self.flow(x).transpose(1, 2).unflatten(2, (side, side))
        return F.pixel_shuffle(grid, self.flow_side)
