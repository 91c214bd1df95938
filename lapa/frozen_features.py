"""Frozen Hugging Face models as targets (vision) and as conditions (text), by hub name or folder.

DINOv2, DINOv3, SigLIP2 and V-JEPA2 all load through AutoModel; only their token layouts differ. No remote code is run.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FrozenVision(nn.Module):
    """Patch features of a frozen vision model.

    `name`: a hub name or a local folder. Raises ValueError where it cannot be loaded or is no vision model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            model = AutoModel.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"vision model '{name}' cannot be loaded ({reason}): give the hub name or the folder of a DINOv2, DINOv3, "
                "SigLIP2 or V-JEPA2 model, and check the network"
            ) from error
        model = getattr(model, "vision_model", model)
        self.video = config.model_type == "vjepa2"
        self.net = model.eval().requires_grad_(False)
        vision = getattr(config, "vision_config", config)
        self.size = int(getattr(vision, "image_size", 0) or getattr(vision, "crop_size", 224))
        self.patch = int(vision.patch_size)
        self.extra = _leading_tokens(config)
        mean, std = self._normalisation(name)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @staticmethod
    def _normalisation(name: str) -> tuple[Any, Any]:
        """The model's own, from its image processor; ImageNet's where it ships none."""
        from transformers import AutoImageProcessor

        try:
            processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError):
            return IMAGENET_MEAN, IMAGENET_STD
        return getattr(processor, "image_mean", IMAGENET_MEAN), getattr(processor, "image_std", IMAGENET_STD)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """float [B, 3, S, S] in [0, 1] -> float32 [B, N, F], N patches in row-major order, a square grid.

        The picture is resized to the model's own multiple of the patch nearest to S.
        """
        side = max(1, round(min(pictures.shape[-1], self.size) / self.patch)) * self.patch
        if pictures.shape[-1] != side:
            pictures = F.interpolate(pictures, size=(side, side), mode="bilinear", antialias=True)
        x = (pictures - self.mean) / self.std
        if self.video:  # V-JEPA2 sees tubelets of two frames; a still frame is shown twice
            clip = x[:, None].expand(-1, 2, -1, -1, -1)
            return self.net(pixel_values_videos=clip, skip_predictor=True).last_hidden_state.float()
        keywords = {"interpolate_pos_encoding": True} if self.extra == 0 and side != self.size else {}
        tokens = self.net(pixel_values=x, **keywords).last_hidden_state[:, self.extra :].float()
        count = math.isqrt(tokens.shape[1]) ** 2
        return tokens[:, :count]

    def of_frames(self, frames: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float16]:
        """uint8 [T, S, S, 3] -> float16 [T, N, F]: what lapa/frame_store.py keeps, once per frame."""
        parts = []
        for start in range(0, len(frames), batch):
            pictures = torch.from_numpy(frames[start : start + batch].transpose(0, 3, 1, 2).copy()).float() / 255
            parts.append(self(pictures.to(self.mean.device)).cpu().half().numpy())
        return np.concatenate(parts)


def _leading_tokens(config: Any) -> int:
    """Class and register tokens in front of the patches."""
    if config.model_type.startswith("dino"):
        return 1 + int(getattr(config, "num_register_tokens", 0) or 0)
    return 0


@lru_cache(maxsize=2)
def frozen_vision(name: str) -> FrozenVision:
    """The frozen model, loaded once a process."""
    return FrozenVision(name)


@torch.no_grad()
def embed_texts(name: str, texts: list[str], *, length: int = 16) -> Tensor:
    """Token embeddings [len(texts), length, D] of a frozen text encoder (T5 or any AutoModel); padding is zero.

    Raises ValueError where the model cannot be loaded.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer, T5EncoderModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind = T5EncoderModel if config.model_type == "t5" else AutoModel
        model = kind.from_pretrained(name, trust_remote_code=False).eval()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"text model '{name}' cannot be loaded: give a hub name or a folder, and check the network"
        ) from error
    rows = []
    for start in range(0, len(texts), 64):
        tokens = tokenizer(
            texts[start : start + 64], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        hidden = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        rows.append(hidden.float() * tokens["attention_mask"][..., None])
    return torch.cat(rows)
