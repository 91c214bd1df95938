"""System 2 of `small`, trained from scratch: what turns images and an instruction into tokens."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corpora.text import TEXT_FORMAT, ReadText, words_of
from flare import ranks
from vla.models.config import SmallBackboneConfig
from vla.policy import Backbone, ContextTokens

SUMMARY_GRID = 5
"""Side of the grid that the summaries read."""


class _Stage(nn.Module):
    """Halves the image (stride 2), then one residual block that the instruction modulates (FiLM, Perez et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, text_dim: int, residual: bool, stride: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(8, outputs)
        self.film = nn.Linear(text_dim, 2 * outputs)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        self.residual = residual
        if residual:
            self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
            self.norm1 = nn.GroupNorm(8, outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        scale, shift = self.film(text)[:, :, None, None].chunk(2, 1)
        x = F.relu(self.norm(self.down(x)) * (1 + scale) + shift)
        if not self.residual:
            return x
        return F.relu(x + self.conv2(F.relu(self.norm1(self.conv1(x)))))


class SmallVision(nn.Module):
    """The image encoder of `SmallBackbone`, which can also be used alone (FLARE's target). With `features`, the width of a frozen
    model's maps, it has one stage, which reads those and keeps their size."""

    def __init__(self, config: SmallBackboneConfig, features: int = 0) -> None:
        super().__init__()
        self.crop = config.crop
        self.dim = config.dim
        widths = (features, config.channels[-1]) if features else (3, *config.channels)
        self.stages = nn.ModuleList(
            _Stage(one, other, config.dim, residual=k == len(widths) - 2, stride=1 if features else 2)
            for k, (one, other) in enumerate(pairwise(widths))
        )
        self.grid = nn.Conv2d(widths[-1], config.dim, 1)
        self.position = nn.Parameter(0.5 * grid_position(config.dim, 12))

    def maps(self, images: Tensor, text: Tensor) -> Tensor:
        """uint8 (or -1 to 1) [P, 3, s, s] with text features [P, D] -> features [P, C, h, w] of the last stage."""
        x = images if images.is_floating_point() else scaled(images)
        x = x.to(self.grid.weight.dtype).contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x, text)
        return x

    def tokens(self, maps: Tensor) -> Tensor:
        """[P, C, h, w] -> [P, h w, D], row by row."""
        position = F.interpolate(self.position, size=maps.shape[-2:], mode="bilinear", align_corners=False)
        return (self.grid(maps) + position).flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [P, 3, S, S] -> [P, h w, D] of the centre of the image, without a text."""
        seen = crop_images(images[:, None], self.crop, False)[:, 0]
        return self.tokens(self.maps(seen, torch.zeros(len(seen), self.dim, device=seen.device)))


class ImageReader(nn.Module):
    """What is learned of images (or of a frozen model's maps of them): per image a grid of tokens, one token of keypoints and
    some summaries, per instruction a token a word; language modulates the images' features on the way."""

    def __init__(self, config: SmallBackboneConfig, features: int = 0) -> None:
        super().__init__()
        self.config = config
        self.dim = dim = config.dim
        self.words = nn.Embedding(config.words, dim)
        self.word_position = nn.Parameter(0.02 * torch.randn(config.max_words, dim))
        self.text = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.vision = SmallVision(config, features)
        self.place = nn.Parameter(0.02 * torch.randn(config.cameras, config.history, dim))
        self.heat = nn.Conv2d(config.channels[-1], config.keypoints, 1)
        self.keypoints = nn.Sequential(nn.Linear(2 * config.keypoints, dim), nn.GELU(), nn.Linear(dim, dim))
        self.summary = nn.Linear(SUMMARY_GRID**2 * config.channels[-1], config.summaries * dim)
        self.norm = nn.LayerNorm(dim)
        self.direct = DirectPath(1 + config.summaries, dim, config.direct) if config.direct else None

    def check(self, cameras: int, history: int) -> None:
        """Raises ValueError where there are more images than places for them."""
        if cameras > self.config.cameras or history > self.config.history:
            raise ValueError(
                f"{cameras} cameras and {history} frames of history: this backbone has places for {self.config.cameras} "
                f"and {self.config.history}"
            )

    def forward(self, seen: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        """`seen` float [B, V, T, C, h, w]: images from -1 to 1, or maps of features; `image_mask` bool [B, V, T]."""
        words, word_mask = self.embed(instruction, seen.device)
        maps, read = self._read(seen, words, word_mask)
        image = self._placed(torch.cat([self.vision.tokens(maps), read], 1), seen)
        direct = None if self.direct is None else self.direct(image[..., -read.shape[1] :, :], image_mask)
        image_mask = image_mask[..., None].expand(image.shape[:-1]).flatten(1)
        features = self.norm(torch.cat([words, image.flatten(1, 3)], 1))
        mask = torch.cat([word_mask, image_mask], 1)
        is_image = torch.zeros_like(mask)
        is_image[:, words.shape[1] :] = True
        return ContextTokens(features, mask, is_image, direct)

    def read_directly(self, seen: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> Tensor:
        """[B, W]: `direct` alone, without the tokens that nobody reads."""
        assert self.direct is not None
        _, read = self._read(seen, *self.embed(instruction, seen.device))
        direct: Tensor = self.direct(self._placed(read, seen), image_mask)
        return direct

    def _read(self, seen: Tensor, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [B V T, C, h, w], and their keypoints and summaries [B V T, 1 + summaries, D]."""
        cameras, history = seen.shape[1:3]
        self.check(cameras, history)
        pooled = (words * word_mask[..., None]).sum(1) / word_mask.sum(1, keepdim=True)
        maps = self.vision.maps(seen.flatten(0, 2), pooled.repeat_interleave(cameras * history, 0))
        keypoints = self.keypoints(soft_argmax(self.heat(maps)).flatten(1))[:, None]
        pooled_maps = F.adaptive_avg_pool2d(maps, SUMMARY_GRID).flatten(1)
        summary = self.summary(pooled_maps).unflatten(1, (self.config.summaries, self.dim))
        return maps, torch.cat([keypoints, summary], 1)

    def _placed(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """[B V T, M, D] -> [B, V, T, M, D], with which camera and moment they are of."""
        return tokens.unflatten(0, seen.shape[:3]) + self.place[None, : seen.shape[1], : seen.shape[2], None]

    def read_text(self, instruction: str) -> ReadText:
        """A token a word."""
        tokens = word_buckets(instruction, self.config.words, self.config.text_format)
        room = self.config.max_words
        return tuple(tokens[:room]), max(0, len(tokens) - room)

    def embed(self, instruction: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Word features [B, L, D] and bool mask [B, L]; an empty instruction is one token of its own."""
        rows = [self.read_text(text)[0] for text in instruction]
        length = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for k, row in enumerate(rows):
            ids[k, : len(row)] = torch.tensor(row)
            mask[k, : len(row)] = True
        ids, mask = ids.to(device), mask.to(device)
        return self.text(self.words(ids) + self.word_position[:length]), mask


class SmallBackbone(Backbone):
    """A reader of the images themselves, each sample cropped and recoloured at random in training."""

    def __init__(self, config: SmallBackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.reader = ImageReader(config)
        self.register_load_state_dict_pre_hook(_renamed)

    @property
    def direct_dim(self) -> int:
        return self.config.direct

    @property
    def frame_encoder(self) -> nn.Module:
        return self.reader.vision

    def read_text(self, instruction: str) -> ReadText:
        return self.reader.read_text(instruction)

    def forward(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        seen = scaled(crop_images(images.flatten(1, 2), self.config.crop, self.training))
        if self.training:
            seen = recoloured(seen, self.config.colour)
        read: ContextTokens = self.reader(seen.unflatten(1, images.shape[1:3]), image_mask, instruction)
        return read


def _renamed(backbone: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Weights saved before the reader had a name of its own."""
    own = [name for name in state if name.startswith(prefix) and not name.startswith(f"{prefix}reader.")]
    for name in own:
        state[f"{prefix}reader.{name.removeprefix(prefix)}"] = state.pop(name)


class DirectPath(nn.Module):
    """Keypoints and summaries of all images -> one vector, the sum over the images that are there."""

    def __init__(self, tokens: int, dim: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(3), nn.LayerNorm(tokens * dim), nn.Linear(tokens * dim, width), nn.ReLU()
        )

    def forward(self, tokens: Tensor, image_mask: Tensor) -> Tensor:
        """[B, V, T, tokens, dim] and bool [B, V, T] -> [B, width]."""
        return (self.layers(tokens) * image_mask[..., None]).sum((1, 2))


def crop_images(images: Tensor, share: float, training: bool) -> Tensor:
    """[B, P, 3, S, S] -> [B, P, 3, s, s], s = share x S: at a random place in training (one place for all P images of a
    sample), the centre otherwise."""
    size = images.shape[-1]
    side = max(8, round(size * share))
    if side >= size:
        return images
    if not training:
        edge = (size - side) // 2
        return images[..., edge : edge + side, edge : edge + side]
    places = ranks.whole(size - side + 1, len(images), 2).tolist()
    return torch.stack([p[..., y : y + side, x : x + side] for p, (y, x) in zip(images, places, strict=True)])


def scaled(images: Tensor) -> Tensor:
    """uint8 -> float from -1 to 1."""
    return images.float() / 127.5 - 1


def recoloured(images: Tensor, amount: float) -> Tensor:
    """Float [B, P, 3, s, s], each sample's colours c changed to M c + b; M is near the identity, b near zero, both by
    `amount` (standard deviation). Brightness, contrast, saturation and hue all move, the same for all P images."""
    if not amount:
        return images
    batch, device = len(images), images.device
    matrix = torch.eye(3, device=device) + amount * ranks.normal(batch, 3, 3, device=device)
    offset = amount * ranks.normal(batch, 1, 3, 1, 1, device=device)
    return torch.einsum("bij,bpjhw->bpihw", matrix, images) + offset


def grid_position(dim: int, side: int) -> Tensor:
    """[1, dim, side, side]: sines and cosines of the row in one half of the features, of the column in the other."""
    quarter = dim // 4
    frequency = math.pi * 2.0 ** torch.linspace(0, math.log2(side), quarter)
    angle = torch.linspace(0, 1, side)[:, None] * frequency
    waves = torch.cat([angle.sin(), angle.cos(), torch.zeros(side, dim // 2 - 2 * quarter)], 1)
    rows = waves.T[:, :, None].expand(-1, -1, side)
    columns = waves.T[:, None, :].expand(-1, side, -1)
    grid = torch.cat([rows, columns], 0)
    return torch.cat([grid, torch.zeros(dim - len(grid), side, side)], 0)[None]


def word_buckets(text: str, buckets: int, text_format: int = TEXT_FORMAT) -> list[int]:
    """Word -> bucket 1 ... buckets - 1 by its CRC; 0 stands for a text without words."""
    return [1 + zlib.crc32(word.encode()) % (buckets - 1) for word in words_of(text, text_format)] or [0]


def soft_argmax(heat: Tensor) -> Tensor:
    """[P, K, H, W] -> [P, K, 2]: expected (x, y) in [-1, 1] under the softmax over the image."""
    height, width = heat.shape[-2:]
    share = heat.float().flatten(2).softmax(-1).unflatten(-1, (height, width))
    x = torch.linspace(-1, 1, width, device=heat.device)
    y = torch.linspace(-1, 1, height, device=heat.device)
    return torch.stack([(share.sum(2) * x).sum(-1), (share.sum(3) * y).sum(-1)], -1).to(heat.dtype)
