"""Patch and word tokens of Hugging Face models, by hub name or folder: DINOv2, DINOv3, SigLIP, SigLIP2, CLIP, SmolVLM.

All load through AutoModel; only their keywords and leading tokens differ. No remote code is run.
Shapes: B batch, S picture size, N patches of a picture in row-major order (a square grid), L words, D the model's width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class HubVision(nn.Module):
    """The vision tower of `name`: uint8 [B, 3, S, S] -> patch tokens float32 [B, N, D].

    Frozen and in evaluation mode unless `trainable`. Raises ValueError where it cannot be loaded or has no tower that
    reads plain pictures.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, *, trainable: bool = False) -> None:
        super().__init__()
        config, model = _load(name, "vision")
        vision = getattr(config, "vision_config", config)
        if not hasattr(vision, "patch_size"):
            raise ValueError(f"'{name}' is no vision model: give DINOv2, DINOv3, SigLIP2, CLIP or SmolVLM")
        self.net = getattr(model, "vision_model", model)
        self.trainable = trainable
        self.net.eval().requires_grad_(trainable)
        self.patch = int(vision.patch_size)
        self.size = int(getattr(vision, "image_size", 0) or 16 * self.patch)
        self.dim = int(vision.hidden_size)
        mean, std = _normalisation(name)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> HubVision:
        """A frozen tower stays in evaluation mode."""
        super().train(mode)
        self.net.train(mode and self.trainable)
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> float32 [B, N, D], without class and register tokens.

        A picture is resized to the multiple of the patch nearest to S, at most to the size that the model was trained with.
        """
        side = max(1, round(min(pictures.shape[-1], self.size) / self.patch)) * self.patch
        x = pictures.float() / 255
        if x.shape[-2:] != (side, side):
            x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        x = (x - self.mean) / self.std
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            tokens = self.net(**self._inputs(x)).last_hidden_state
        patches = (side // self.patch) ** 2
        if tokens.ndim != 3 or tokens.shape[1] < patches:
            raise ValueError(
                f"{type(self.net).__name__} gives {list(tokens.shape)} for {patches} patches of a picture: give a model whose "
                "output has one token a patch"
            )
        return tokens[:, tokens.shape[1] - patches :].float()  # class and register tokens lead

    def _inputs(self, x: Tensor) -> dict[str, Any]:
        if "spatial_shapes" in inspect.signature(self.net.forward).parameters:  # SigLIP2 of any aspect reads patches
            rows = x.unflatten(2, (-1, self.patch)).unflatten(4, (-1, self.patch))  # B, 3, row, y, column, x
            patches = rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
            shape = x.new_full((len(x), 2), x.shape[-1] // self.patch, dtype=torch.long)
            mask = x.new_ones(patches.shape[:2], dtype=torch.long)
            names = inspect.signature(self.net.forward).parameters
            key = "pixel_attention_mask" if "pixel_attention_mask" in names else "attention_mask"
            return {"pixel_values": patches, key: mask, "spatial_shapes": shape}
        if x.shape[-1] != self.size and self._interpolates():
            return {"pixel_values": x, "interpolate_pos_encoding": True}
        return {"pixel_values": x}

    def _interpolates(self) -> bool:
        """Whether the model stretches its position embedding only when asked (others do so by themselves)."""
        embeddings = getattr(self.net, "embeddings", self.net)
        return "interpolate_pos_encoding" in inspect.signature(embeddings.forward).parameters


class HubText(nn.Module):
    """The frozen text tower of `name` (SigLIP2, CLIP): instructions -> word tokens and their mask.

    `length`: words kept, padding included; FLARE gives SigLIP2 32. Raises ValueError where it cannot be loaded or has no
    text tower.
    """

    def __init__(self, name: str, *, length: int = 32) -> None:
        super().__init__()
        config, model = _load(name, "text")
        if not hasattr(model, "text_model"):
            raise ValueError(f"'{name}' has no text tower: give SigLIP2 or CLIP, or go without text")
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        self.net = model.text_model.eval().requires_grad_(False)
        self.length = min(length, int(config.text_config.max_position_embeddings))
        self.dim = int(config.text_config.hidden_size)

    def train(self, mode: bool = True) -> HubText:
        """Stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self

    @torch.no_grad()
    def forward(self, instruction: Sequence[str]) -> tuple[Tensor, Tensor]:
        """B texts -> tokens float32 [B, L, D] and bool [B, L]; the mask of an empty text is all False."""
        words = self.tokenizer(
            list(instruction), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        device = next(self.net.parameters()).device
        # no attention mask: SigLIP was trained with its padding in sight, and at this fixed length
        tokens = self.net(input_ids=words["input_ids"].to(device)).last_hidden_state.float()
        given = torch.tensor([bool(text) for text in instruction])
        real = words["input_ids"] != self.tokenizer.pad_token_id
        return tokens, (real & given[:, None]).to(device)


def _load(name: str, what: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        return config, AutoModel.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{what} model '{name}' cannot be loaded ({reason}): give a hub name or a folder, and check the network"
        ) from error


def _normalisation(name: str) -> tuple[Any, Any]:
    """The model's own mean and deviation, from its image processor; ImageNet's where it ships none."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError):
        return IMAGENET_MEAN, IMAGENET_STD
    return getattr(processor, "image_mean", IMAGENET_MEAN), getattr(processor, "image_std", IMAGENET_STD)
