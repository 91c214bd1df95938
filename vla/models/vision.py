"""A frozen vision model as System 2: its patch tokens, computed once for each image, and the reader that is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from corpora.text import ReadText
from flare import ranks
from flare.vision import FrozenVision
from vla.models.config import PolicyConfig, SmallBackboneConfig, VisionConfig
from vla.models.small import ImageReader
from vla.policy import Backbone, ContextTokens

FIT_BATCH = 32
"""Images at a time that the components are fitted on."""


class VisionBackbone(Backbone):
    """Patch tokens [B, V T N, D] of every image, whether it is there or not: the reader takes out what is not. The instruction
    is not seen, and nothing is ever trained."""

    mean: Tensor
    axes: Tensor

    def __init__(self, config: VisionConfig, settings: Path | None = None) -> None:
        """`settings`: folder of what `save_settings` wrote, for weights that are loaded afterwards."""
        super().__init__()
        self.vision = FrozenVision(config.name) if settings is None else FrozenVision.from_settings(settings)
        if config.bfloat16:
            self.vision.net.bfloat16()
        if config.components > self.vision.dim:
            raise ValueError(
                f"vision.components {config.components}: '{self.vision.name}' has {self.vision.dim} features; choose at most so "
                "many, or 0 for all"
            )
        self.dim = config.components or self.vision.dim
        self._fitted = False
        self.reduced = bool(config.components)
        if self.reduced:
            self.register_buffer("mean", torch.zeros(self.vision.dim))
            self.register_buffer("axes", torch.zeros(self.vision.dim, self.dim))

    @property
    def fitted(self) -> bool:
        """Whether its components are, here or in the weights that were loaded; always where it has none."""
        self._fitted = (
            self._fitted or not self.reduced or bool(self.axes.any())
        )  # once: a look at a device waits for it
        return self._fitted

    def fit(self, images: Callable[[], Sequence[Tensor]]) -> None:
        """Principal components of the tokens of some images; once."""
        if self.fitted:
            return
        with torch.no_grad():
            shown = torch.cat([each.flatten(0, 1) for each in images()]).split(FIT_BATCH)
            tokens = torch.cat([self.vision(part.to(self.mean.device)) for part in shown]).flatten(0, 1)
        mean = tokens.double().mean(0)
        away = tokens.double() - mean
        axes = torch.linalg.eigh(away.T @ away).eigenvectors.flip(1)[:, : self.dim]
        axes = axes * axes.sum(0).sign()  # which way an axis points depends on the machine
        self.mean.copy_(mean)
        self.axes.copy_(axes)

    def forward(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        tokens = self.vision(images.flatten(0, 2)).unflatten(0, (len(images), -1)).flatten(1, 2)
        if self.reduced:
            if not self.fitted:
                raise ValueError(
                    f"the {self.dim} components of '{self.vision.name}' are not fitted yet: giza pretrain or giza ground does it "
                    "when a training begins"
                )
            tokens = (tokens - self.mean) @ self.axes
        there = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return ContextTokens(tokens, there, there)

    @property
    def reads_text(self) -> bool:
        return False

    def patches(self, image_size: int) -> int:
        return self.vision.side(image_size) ** 2

    @property
    def is_constant(self) -> bool:
        return True

    def set_trainable(self, *, vision: bool, top_layers: int) -> None:
        if vision or top_layers:
            raise ValueError(
                "a frozen vision model is not trained: set tuning.no-vision and no vlm_top_layers; the reader of its features "
                "is the projector"
            )

    def describe(self) -> Any:
        return self.vision.describe()

    def save_settings(self, folder: Path) -> None:
        self.vision.save_settings(folder)


class VisionReader(nn.Module):
    """Between the frozen model and System 1, in the projector's place: what is learned of its tokens."""

    def __init__(self, features: int, small: SmallBackboneConfig, vision: VisionConfig) -> None:
        super().__init__()
        self.noise = vision.noise
        self.norm = nn.LayerNorm(features, elementwise_affine=False)
        self.reader = ImageReader(small, features)
        self.dim = small.dim
        self.direct_dim = small.direct

    def read_text(self, instruction: str) -> ReadText:
        """A token a word."""
        return self.reader.read_text(instruction)

    def forward(self, tokens: ContextTokens, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        """`tokens`: of the images that `image_mask` bool [B, V, T] tells of."""
        read: ContextTokens = self.reader(self._maps(tokens, image_mask), image_mask, instruction)
        return read

    def read_directly(self, tokens: ContextTokens, image_mask: Tensor, instruction: Sequence[str]) -> Tensor:
        """[B, W]: `direct` alone."""
        return self.reader.read_directly(self._maps(tokens, image_mask), image_mask, instruction)

    def _maps(self, tokens: ContextTokens, image_mask: Tensor) -> Tensor:
        """[B, V, T, C, h, w]."""
        x = self.norm(tokens.features)
        if self.training and self.noise:
            x = x + self.noise * ranks.normal(*x.shape, device=x.device)
        grid = x.unflatten(1, (*image_mask.shape[1:], -1)).transpose(-1, -2)
        side = round(grid.shape[-1] ** 0.5)
        return grid.unflatten(-1, (side, -1))


def vision_parts(config: PolicyConfig, settings: Path | None) -> tuple[VisionBackbone, VisionReader]:
    """The frozen model, and its reader with fresh weights."""
    backbone = VisionBackbone(config.vision, settings)
    return backbone, VisionReader(backbone.dim, config.small, config.vision)
