"""The decoder: predicts the second frame (and the flow to it) from the first frame and the latent, nothing else."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lapa.model.attention import RelativePositionBias, Transformer
from lapa.model.config import LamConfig
from lapa.model.encoder import WayIn, make_stem
from lapa.model.kinds import BLOCKS
from lapa.pairs.config import FLOW_STRIDE

SPREAD_WIDTH = 32
"""Channels per patch of the map that spreads the latent over the image (condition 'add')."""


@dataclass(frozen=True)
class Prediction:
    """The decoder's prediction of the second frame."""

    target: Tensor
    """Pixels [B, 3, S, S], unclamped, or features [B, N, F]."""
    flow: Tensor | None
    """Per cent of the image, [B, 2, S/4, S/4], or None."""


class FrameDecoder(nn.Module, ABC):
    """A subclass defines how the latent enters, by `make_entry` and `enter_latent`."""

    def make_entry(self, config: LamConfig) -> None:
        """Makes the layers through which the latent enters."""
        self.enter = nn.Linear(config.latent_dim, config.dim)

    def crosses(self, config: LamConfig) -> bool:
        """Whether the transformer has cross-attention."""
        return False

    @abstractmethod
    def enter_latent(self, x: Tensor, latent: Tensor, text: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, M, D] whose last N are the patches, and the context [B, C, D] that they attend to, if any; of patches `x`
        [B, N, D], latents [B, tokens, latent_dim] and text [B, L, D] (none or one)."""

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        self.config = config
        dim, peg = config.dim, config.position == "peg"
        self.stem = make_stem(config, 3)
        self.position = None if peg else nn.Parameter(0.02 * torch.randn(1, config.patches, dim))
        self.bias = RelativePositionBias(math.isqrt(config.patches), config.heads, dim) if peg else None
        self.make_entry(config)
        self.text = nn.Linear(config.text_dim, dim) if config.text_model else None
        layers: type[Transformer] = BLOCKS[config.blocks]
        self.transformer = layers(
            dim, config.decoder_depth, config.heads, peg=peg, context_dim=dim if self.crosses(config) else None
        )
        out = 3 * config.patch**2 if config.pixels else config.feature_dim
        self.out = nn.Linear(dim, out)
        if config.residual:  # the first prediction is then "nothing happened"
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)
        self.flow_side = config.patch // FLOW_STRIDE
        self.flow = nn.Linear(dim, 2 * self.flow_side**2) if config.flow_weight else None

    def share(self, way: WayIn) -> None:
        """From now on the first frame is read by the stem of `way`."""
        self.stem, self.bias = way.stem, way.bias

    def share_words(self, way: WayIn) -> None:
        """From now on text is read by the map of `way`, where this decoder is made to read as that does."""

    def forward(self, first: Tensor, latent: Tensor, valid: Tensor | None, text: Tensor | None) -> Prediction:
        """`first` [B, 3, S, S] or features [B, N, F]; `latent` [B, tokens, latent_dim]; `text` [B, L, text_dim]."""
        config = self.config
        if valid is not None and config.pixels:
            first = first * valid
        x = self.stem(first)
        if config.shared_stem:
            x = x.detach()
        if self.position is not None:
            x = x + self.position
        extra = [] if self.text is None or text is None else [self.text(text)]
        x, context = self.enter_latent(x, latent, extra)
        x = self.transformer(x[:, None], context=context, bias=None if self.bias is None else self.bias())[:, 0]
        x = x[:, -config.patches :]
        return Prediction(self._target(x, first), self._flow(x))

    def _target(self, x: Tensor, first: Tensor) -> Tensor:
        out = self.image(self.out(x)) if self.config.pixels else self.out(x)
        return first + out if self.config.residual else out

    def image(self, x: Tensor) -> Tensor:
        """Numbers of patches [B, N, 3 * patch^2] -> [B, 3, S, S]."""
        return F.pixel_shuffle(x.transpose(1, 2).unflatten(2, self.config.grid), self.config.patch)

    def _flow(self, x: Tensor) -> Tensor | None:
        if self.flow is None:
            return None
        side = math.isqrt(self.config.patches)
        grid = self.flow(x).transpose(1, 2).unflatten(2, (side, side))
        return F.pixel_shuffle(grid, self.flow_side)


class AddedLatent(FrameDecoder):
    """A map of the latent is added to the first frame's patches; text is attended to."""

    def make_entry(self, config: LamConfig) -> None:
        self.spread = nn.Linear(config.latent_size, SPREAD_WIDTH * config.patches)
        self.enter = nn.Linear(SPREAD_WIDTH, config.dim)

    def crosses(self, config: LamConfig) -> bool:
        return bool(config.text_model)

    def enter_latent(self, x: Tensor, latent: Tensor, text: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        added = self.enter(self.spread(latent.flatten(1)).unflatten(1, (self.config.patches, SPREAD_WIDTH)))
        return x + added, text[0] if text else None


class AttendedLatent(FrameDecoder):
    """Patches attend to the latent's tokens, and to the text's."""

    def crosses(self, config: LamConfig) -> bool:
        return True

    def enter_latent(self, x: Tensor, latent: Tensor, text: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        return x, torch.cat([self.enter(latent), *text], 1)


class PrependedLatent(FrameDecoder):
    """The latent's tokens, and the text's, stand in front of the patches."""

    def enter_latent(self, x: Tensor, latent: Tensor, text: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        return torch.cat([self.enter(latent), *text, x], 1), None
