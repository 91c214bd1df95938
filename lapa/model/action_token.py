"""The network of AdaWorld (arXiv 2503.18938) and DreamDojo (arXiv 2602.06949): a learned token stands beside the patches of each
frame, blocks attend over space, then over time, and the second frame's token is the latent."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lapa.model.attention import Attention, PatchStem, patch_numbers
from lapa.model.config import LamConfig
from lapa.model.decoder import FrameDecoder, Prediction
from lapa.model.encoder import WayIn
from lapa.model.kinds import QUANTISERS

BASE = 10_000.0
"""Longest wavelength of positions, in radians' inverse."""


def sinusoids(count: int, dim: int, device: torch.device) -> Tensor:
    """[count, dim], sines and cosines of the position in turn (Vaswani et al., arXiv 1706.03762)."""
    angle = torch.arange(count, device=device).float()[:, None] * _frequencies(dim, device)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def _frequencies(dim: int, device: torch.device) -> Tensor:
    return torch.exp(torch.arange(0, dim, 2, device=device).float() * (-math.log(BASE) / dim))


class BiasedAttention(Attention):
    """Whose last map has a bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.to_out = nn.Linear(dim, dim)


class RotaryAttention(BiasedAttention):
    """Queries and keys are turned by their position (Su et al., arXiv 2104.09864), two neighbouring numbers together."""

    def turned(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2], device=x.device).float()[:, None] * _frequencies(x.shape[-1], x.device)
        even, odd = x[..., 0::2], x[..., 1::2]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


class Mlp(nn.Module):
    """A plain feed-forward layer of four times the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, 4 * dim)
        self.outer = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.gelu(self.inner(self.norm(x))))


class SpaceTimeBlocks(nn.Module):
    """Layers that attend over the tokens of each frame, then (with `over_time`) over the frames of each token. A
    subclass says how they do the latter."""

    time: ClassVar[type[BiasedAttention]] = RotaryAttention
    causal: ClassVar[bool] = False
    """Whether a frame sees no later one."""

    def __init__(self, dim: int, depth: int, heads: int, *, over_time: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "space": BiasedAttention(dim, heads),
                    **({"time": self.time(dim, heads)} if over_time else {}),
                    "ff": Mlp(dim),
                }
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x` [B, T, N, D] -> the same shape."""
        return self.through(x + sinusoids(x.shape[2], x.shape[3], x.device).to(x.dtype))

    def through(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layers, of tokens that have their positions; `bias` is added to the logits over space."""
        for layer in self.layers:
            x = x + layer["space"](x, bias=bias)  # type: ignore[index]
            if "time" in layer:  # type: ignore[operator]
                x = x + layer["time"](x.transpose(1, 2), causal=self.causal).transpose(1, 2)  # type: ignore[index]
            x = x + layer["ff"](x)  # type: ignore[index]
        return x


class ActionToken(WayIn):
    """`spatial_depth` blocks over space and time; no pool: the token is mapped to the latent, and to its log variance where the
    quantiser wants one."""

    stem: PatchStem  # type: ignore[assignment]

    def __init__(self, config: LamConfig) -> None:
        nn.Module.__init__(self)
        if not config.pixels or config.tokens != 1:
            raise ValueError(
                f"input 'action_token' with target '{config.target}' and tokens {config.tokens}: it makes 1 token of pixels"
            )
        self.prompt = nn.Parameter(torch.empty(1, 1, 3 * config.patch**2).uniform_(-1, 1))
        self.stem = PatchStem(3, config.patch, config.dim)
        self.layers = SpaceTimeBlocks(config.dim, config.spatial_depth, config.heads, over_time=True)
        self.out = nn.Linear(config.dim, config.dim)
        self.moments = nn.Linear(config.dim, QUANTISERS[config.quantiser.kind].moments * config.latent_dim)

    def forward(self, first: Tensor, second: Tensor, flow: Tensor | None) -> Tensor:
        patches = torch.stack([patch_numbers(x, self.stem.patch) for x in (first, second)], 1)
        prompt = self.prompt.expand(len(patches), 2, -1, -1).to(patches.dtype)
        x = self.layers(self.stem.net(torch.cat([prompt, patches], 2)))
        with torch.autocast(x.device.type, enabled=False):
            return self.moments(self.out(x[:, 1, :1].float()))


class BroadcastLatent(FrameDecoder):
    """A map of the latent is added to every patch of the first frame, blocks over space, and a sigmoid at the end."""

    def __init__(self, config: LamConfig) -> None:
        nn.Module.__init__(self)
        if not config.pixels or config.residual or config.flow_weight or config.text_model:
            raise ValueError(
                "condition 'broadcast': it predicts the pixels of the second frame themselves; set residual no, flow_weight 0, "
                "and neither target nor text_model"
            )
        self.config = config
        dim, numbers = config.dim, 3 * config.patch**2
        self.patches = nn.Linear(numbers, dim)
        self.enter = nn.Linear(config.latent_size, dim)
        self.stem = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.layers = SpaceTimeBlocks(dim, config.decoder_depth, config.heads, over_time=False)
        self.out = nn.Linear(dim, numbers)

    def enter_latent(self, x: Tensor, latent: Tensor, text: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        return self.stem(x + self.enter(latent.flatten(1))[:, None]), None

    def forward(self, first: Tensor, latent: Tensor, valid: Tensor | None, text: Tensor | None) -> Prediction:
        if valid is not None:
            first = first * valid
        patches = patch_numbers(first, self.config.patch)
        x, _ = self.enter_latent(self.patches(patches), latent, [])
        return Prediction(self.image(self.out(self.layers(x[:, None])[:, 0])).sigmoid(), None)
