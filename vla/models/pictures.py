"""Pictures as tokens, from scratch: a small autoencoder that a training's first stage trains, and that is frozen then."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flare import ranks
from vla.batch import PolicyBatch
from vla.models.config import PolicyConfig
from vla.models.small import crop_images, recoloured, scaled


class PictureAutoencoder(nn.Module):
    """Images from -1 to 1 [P, 3, s, s] <-> tokens [P, N, C], each of mean 0 and variance 1 over its channels. It has learned from
    images as `views` shows them: cropped and recoloured."""

    trained: Tensor

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        world, small = config.world, config.small
        self.crop, self.colour = small.crop, small.colour
        self.config, self.dim = world, world.channels
        self.sides = [max(8, round(config.image_size * small.crop))]
        widths = (3, *world.widths, world.widths[-1])
        for _ in widths[1:]:
            self.sides.append((self.sides[-1] + 1) // 2)
        self.down = nn.Sequential(
            *(_stage(nn.Conv2d(one, other, 3, stride=2, padding=1), other) for one, other in pairwise(widths))
        )
        self.into = nn.Conv2d(widths[-1], world.channels, 1)
        self.out_of = nn.Conv2d(world.channels, widths[-1], 1)
        upwards = list(pairwise(widths[:0:-1]))
        self.up = nn.ModuleList(_stage(nn.Conv2d(one, other, 3, padding=1), other) for one, other in upwards)
        self.picture = nn.Conv2d(widths[1], 12, 3, padding=1)
        self.register_buffer("trained", torch.zeros((), dtype=torch.bool))
        self.register_load_state_dict_post_hook(_frozen_where_trained)

    @property
    def patches(self) -> int:
        """N."""
        return self.sides[-1] ** 2

    def views(self, images: Tensor, training: bool) -> Tensor:
        """uint8 [B, P, 3, S, S] -> [B, P, 3, s, s] from -1 to 1: the centre, or in training a random place and colours, the same
        for all P pictures of a sample."""
        seen = scaled(crop_images(images, self.crop, training))
        return recoloured(seen, self.colour) if training else seen

    def encode(self, pictures: Tensor) -> Tensor:
        """[P, 3, s, s] -> [P, N, C]."""
        tokens: Tensor = self.into(self.down(pictures.to(self.into.weight.dtype)))
        return F.layer_norm(tokens.flatten(2).transpose(1, 2), (self.dim,))

    def decode(self, tokens: Tensor) -> Tensor:
        """[P, N, C] -> [P, 3, s, s]."""
        x = self.out_of(tokens.transpose(1, 2).unflatten(2, (self.sides[-1], -1)))
        for stage, side in zip(self.up, self.sides[-2:0:-1], strict=True):
            x = stage(F.interpolate(x, size=(side, side), mode="nearest"))
        side = self.sides[0]
        return F.pixel_shuffle(self.picture(x), 2)[..., :side, :side]

    def shown(self, batch: PolicyBatch) -> Tensor:
        """uint8 [P, 1, 3, S, S]: the pictures of a batch that are there, present and future, evenly spread where there are more than
        a step sees."""
        now = batch["images"].flatten(1, 2)[batch["image_mask"].flatten(1, 2)]
        there = batch["image_mask"][:, :, -1] & batch["has_future"][:, None]
        images = torch.cat([now, batch["future"][there]])
        every = torch.linspace(0, len(images) - 1, min(len(images), self.config.images)).long()
        return images[every.to(images.device), None]

    def loss(self, batch: PolicyBatch) -> Tensor:
        """Mean square error of the pixels, a scalar."""
        pictures = self.views(self.shown(batch), self.training)[:, 0]
        return F.mse_loss(self.decode(self.encode(pictures)), pictures)

    @torch.no_grad()
    def measure(self, batch: PolicyBatch) -> dict[str, Tensor]:
        """Scalars: the square error of the pixels, and that of the mean picture of the batch, which says nothing of any one."""
        pictures = self.views(self.shown(batch), False)[:, 0]
        return {
            "error": F.mse_loss(self.decode(self.encode(pictures)), pictures),
            "mean_picture": (pictures - pictures.mean(0)).square().mean(),
        }

    def settle(self) -> None:
        """Its training is over: it is frozen."""
        self.trained.fill_(True)
        self.requires_grad_(False)


def _frozen_where_trained(own: PictureAutoencoder, _: object) -> None:
    own.requires_grad_(not own.trained)


def _stage(convolution: nn.Conv2d, width: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.GroupNorm(8, width), nn.SiLU())


def noisy(tokens: Tensor, amount: float, training: bool) -> Tensor:
    """Tokens [B, ...] with normal noise of this standard deviation in training."""
    return tokens + amount * ranks.normal(*tokens.shape, device=tokens.device) if training and amount else tokens
