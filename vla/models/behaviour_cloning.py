"""Plain convolutional behaviour cloning, what a user would write in an afternoon: the baseline `bc`.

One stack of strided convolutions, flattened; the state; one learned vector for each whole instruction; an MLP that
regresses the chunk. No attention, no flow, no language beyond telling instructions apart. With a frozen vision model (`bc_dino`)
its tokens are read by keypoints and summaries, modulated by the instruction, in the convolutions' place.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

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


class BehaviourCloning(Policy):
    """Mean square error on chunks; one robot at a time (embodiments share all weights)."""

    config: PolicyConfig

    def __init__(self, config: PolicyConfig, settings: Path | None = None) -> None:
        super().__init__(config)
        self.backbone: VisionBackbone | None = None
        if config.vision.name:
            small = dataclasses.replace(config.small, direct=IMAGE_WIDTH)
            self.backbone, self.reader = vision_parts(dataclasses.replace(config, small=small), settings)
            self.backbone.set_trainable(vision=False, top_layers=0)
        else:
            self.convolutions = self._convolutions(config)
        self.instruction = nn.Embedding(INSTRUCTIONS, 64)
        self.head = nn.Sequential(
            nn.Linear(IMAGE_WIDTH + 64 + config.max_state_dim, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, config.horizon * config.max_action_dim),
        )

    @staticmethod
    def _convolutions(config: PolicyConfig) -> nn.Module:
        side = max(8, round(config.image_size * config.small.crop))
        widths = (3, 32, 48, 64, 64)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
            side = (side + 1) // 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, IMAGE_WIDTH), nn.ReLU())

    @classmethod
    def build(cls, config: PolicyConfig, settings: Path | None) -> BehaviourCloning:
        """With fresh weights; `settings`: folder of a saved frozen model's settings."""
        return cls(config, settings)

    @property
    def system2(self) -> Backbone | None:
        return self.backbone

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
        return self._context(self.reader(tokens, image_mask, instruction).direct, instruction)

    def _context(self, seen: Tensor, instruction: Sequence[str]) -> ContextTokens:
        ids = torch.tensor([self.read_text(text)[0][0] for text in instruction], device=seen.device)
        features = torch.cat([seen, self.instruction(ids)], 1)[:, None]
        there = torch.ones(features.shape[:2], dtype=torch.bool, device=seen.device)
        return ContextTokens(features, there, there)

    def _chunk(self, tokens: ContextTokens, state: Tensor) -> Tensor:
        chunk = self.head(torch.cat([tokens.features[:, 0], state.to(tokens.features.dtype)], 1))
        return chunk.view(-1, self.config.horizon, self.config.max_action_dim)

    def loss(self, batch: PolicyBatch) -> PolicyLoss:
        config = self.config
        check_batch(batch, horizon=config.horizon, state_dim=config.max_state_dim, action_dim=config.max_action_dim)
        if "features" in batch:
            seen = ContextTokens(batch["features"], batch["feature_mask"], batch["feature_is_image"])
            tokens = self._read(seen, batch["image_mask"], batch["instruction"])
        else:
            tokens = self.encode(batch["images"], batch["image_mask"], batch["instruction"])
        known = shown_state(batch["state_mask"], config.state_dropout if self.training else 0.0)
        predicted = self._chunk(tokens, batch["state"].masked_fill(~known, 0)).float()
        return PolicyLoss(
            action_loss=flow_loss_per_sample(predicted, batch["action"], batch["action_mask"]),
            has_action=batch["action_mask"].flatten(1).any(1),
            future_states=None,
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
        return self._chunk(tokens, state.masked_fill(~state_mask, 0))
