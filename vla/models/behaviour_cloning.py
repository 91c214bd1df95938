"""Plain convolutional behaviour cloning, what a user would write in an afternoon: the baseline `bc`.

One stack of strided convolutions, flattened; the state; one learned vector for each whole instruction; an MLP that
regresses the chunk. No attention, no flow, no language beyond telling instructions apart. With a frozen vision model (`bc_dino`)
its tokens are read by keypoints and summaries, modulated by the instruction, in the convolutions' place.

With `feeding`, latent actions and FLARE's future are outputs of the same trunk, and the action is read from them, too, without
gradients: what people's video teaches reaches the robot's action by the trunk and by these numbers.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from corpora.mixture.embodiments import LATENT
from corpora.text import ReadText, one_form
from vla.batch import PolicyBatch, check_batch, shown_state
from vla.models.config import PolicyConfig
from vla.models.flow_matching import flow_loss_per_sample
from vla.models.small import crop_images, recoloured, scaled
from vla.models.vision import VisionBackbone, vision_parts
from vla.noise import NoiseKey
from vla.policy import Backbone, ContextTokens, Policy, PolicyLoss

INSTRUCTIONS = 1024
"""Buckets that whole instructions are hashed into."""
IMAGE_WIDTH = 256
"""Of the vector that the image becomes."""
GRID_LAYERS = 8
"""Of the stack, before its grid becomes a vector."""
FUTURE_WIDTH = 64
"""Of each future token's state."""


class ConvolutionFrames(nn.Module):
    """The convolutions' last grid of frames alone, for FLARE's target: uint8 [B, 3, S, S] -> [B, N, D]."""

    def __init__(self, convolutions: nn.Sequential, crop: float) -> None:
        super().__init__()
        self.layers = convolutions[:GRID_LAYERS]
        self.crop = crop

    def forward(self, images: Tensor) -> Tensor:
        seen = scaled(crop_images(images[:, None], self.crop, False))[:, 0]
        grid: Tensor = self.layers(seen.to(next(self.layers.parameters()).dtype))
        return grid.flatten(2).transpose(1, 2)


class BehaviourCloning(Policy):
    """Mean square error on chunks; one robot at a time (embodiments share all weights)."""

    config: PolicyConfig

    def __init__(self, config: PolicyConfig, settings: Path | None = None) -> None:
        """With fresh weights; `settings`: folder of a saved frozen model's settings."""
        super().__init__(config)
        self.backbone: VisionBackbone | None = None
        if config.vision.name:
            small = dataclasses.replace(config.small, direct=IMAGE_WIDTH)
            self.backbone, self.reader = vision_parts(dataclasses.replace(config, small=small), settings)
            self.backbone.set_trainable(vision=False, top_layers=0)
        else:
            self.convolutions = self._convolutions(config)
        self.most_views = (config.small.cameras, config.small.history) if config.vision.name else (1, 1)
        self.instruction = nn.Embedding(INSTRUCTIONS, 64)
        seen, chunk = IMAGE_WIDTH + 64, config.horizon * config.max_action_dim
        self.latent: nn.Module | None = None
        self.future: nn.Module | None = None
        if config.feeding:
            self.latent = _mlp(seen, chunk)
            self.future = _mlp(seen, config.future_tokens * FUTURE_WIDTH) if config.future_tokens else None
        fed = (chunk if self.latent else 0) + (config.future_tokens * FUTURE_WIDTH if self.future else 0)
        self.head = _mlp(seen + config.max_state_dim + fed, chunk)

    @staticmethod
    def _convolutions(config: PolicyConfig) -> nn.Sequential:
        side = max(8, round(config.image_size * config.small.crop))
        widths = (3, 32, 48, 64, 64)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
            side = (side + 1) // 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, IMAGE_WIDTH), nn.ReLU())

    @property
    def system2(self) -> Backbone | None:
        return self.backbone

    @property
    def frame_encoder(self) -> nn.Module | None:
        return None if self.backbone is not None else ConvolutionFrames(self.convolutions, self.config.small.crop)

    @property
    def future_tokens(self) -> int:
        return self.config.future_tokens if self.future is not None else 0

    @property
    def future_width(self) -> int:
        return FUTURE_WIDTH if self.future is not None else 0

    def read_text(self, instruction: str) -> ReadText:
        """One token for all of it."""
        whole = one_form(instruction, self.config.small.text_format)
        return (zlib.crc32(whole.encode()) % INSTRUCTIONS,), 0

    def encode(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        if self.backbone is not None:
            return self._read(self.backbone(images, image_mask, instruction), image_mask, instruction)
        if images.shape[1] != 1 or images.shape[2] != 1:
            raise ValueError("the baseline bc sees one camera and one frame; choose another recipe, or one camera")
        seen = scaled(crop_images(images[:, 0], self.config.small.crop, self.training))
        seen = (recoloured(seen, self.config.small.colour) if self.training else seen)[:, 0]
        return self._context(self.convolutions(seen.to(self.instruction.weight.dtype)), instruction)

    def _read(self, tokens: ContextTokens, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        return self._context(self.reader.read_directly(tokens, image_mask, instruction), instruction)

    def _context(self, seen: Tensor, instruction: Sequence[str]) -> ContextTokens:
        ids = torch.tensor([self.read_text(text)[0][0] for text in instruction], device=seen.device)
        features = torch.cat([seen, self.instruction(ids)], 1)[:, None]
        there = torch.ones(features.shape[:2], dtype=torch.bool, device=seen.device)
        return ContextTokens(features, there, there)

    def _chunks(self, tokens: ContextTokens, state: Tensor, embodiment_id: Tensor) -> tuple[Tensor, Tensor | None]:
        """Chunks [B, H, Da], of latents where that is the sample's embodiment, and future states [B, M, W]."""
        seen = tokens.features[:, 0]
        latent = None if self.latent is None else self.latent(seen)
        future = None if self.future is None else self.future(seen)
        fed = [value.detach() for value in (latent, future) if value is not None]
        chunk = self.head(torch.cat([seen, state.to(seen.dtype), *fed], 1))
        if latent is not None:
            chunk = torch.where((embodiment_id == self.embodiment_id(LATENT))[:, None], latent, chunk)
        states = None if future is None else future.unflatten(1, (-1, FUTURE_WIDTH))
        return chunk.view(-1, self.config.horizon, self.config.max_action_dim), states

    def loss(self, batch: PolicyBatch) -> PolicyLoss:
        config = self.config
        check_batch(batch, horizon=config.horizon, state_dim=config.max_state_dim, action_dim=config.max_action_dim)
        if "features" in batch:
            seen = ContextTokens(batch["features"], batch["feature_mask"], batch["feature_is_image"])
            tokens = self._read(seen, batch["image_mask"], batch["instruction"])
        else:
            tokens = self.encode(batch["images"], batch["image_mask"], batch["instruction"])
        known = shown_state(batch["state_mask"], config.state_dropout if self.training else 0.0)
        predicted, states = self._chunks(tokens, batch["state"].masked_fill(~known, 0), batch["embodiment"])
        return PolicyLoss(
            action_loss=flow_loss_per_sample(predicted.float(), batch["action"], batch["action_mask"]),
            has_action=batch["action_mask"].flatten(1).any(1),
            future_states=None if states is None else states[:, None],
            tokens=tokens,
        )

    @torch.no_grad()
    def sample(
        self,
        tokens: ContextTokens,
        state: Tensor,
        state_mask: Tensor,
        embodiment_id: Tensor,
        action_dim: int,
        noise: Sequence[NoiseKey] | None = None,
    ) -> Tensor:
        return self._chunks(tokens, state.masked_fill(~state_mask, 0), embodiment_id)[0]


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, outputs))
