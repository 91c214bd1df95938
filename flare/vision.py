"""Patch and word tokens of Hugging Face models, by hub name or folder: the one place that reads them.

Vision: DINOv2, DINOv3, SigLIP, SigLIP2, CLIP, SmolVLM, V-JEPA2. Text: SigLIP2 and CLIP, and encoders such as T5. All load
through AutoModel; only their keywords and leading tokens differ. No remote code is run.
Shapes: B batch, S image size, N patches of an image in row-major order (a square grid), L words, D the model's width.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from corpora.store.files import write_json
from corpora.text import ReadText, one_form

SETTINGS = "vision.json"
_IMAGENET = (("image_mean", (0.485, 0.456, 0.406)), ("image_std", (0.229, 0.224, 0.225)))


class FrozenVision(nn.Module):
    """The vision tower of `name`: uint8 [B, 3, S, S] -> patch tokens float32 [B, N, D].

    Frozen, and always in evaluation mode. Raises ValueError where it cannot be loaded or has no tower that
    reads plain images.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._take(name, *_load(name, "vision"), _normalisation(name))

    @classmethod
    def from_settings(cls, folder: str | Path) -> FrozenVision:
        """The model that `save_settings` described, with random weights, for a state that is loaded afterwards."""
        from transformers import AutoConfig, AutoModel

        record = json.loads((Path(folder) / SETTINGS).read_text("utf-8"))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._take(record["name"], config, AutoModel.from_config(config), (record["mean"], record["std"]))
        return model

    @classmethod
    def of_state(cls, name: str, kind: type[Any], config: Any, state: Mapping[str, Tensor]) -> FrozenVision:
        """The model of class `kind` and `config` of transformers with the weights `state`, named as the hub's
        checkpoints of its kind name them; colours have ImageNet's mean and deviation. Raises ValueError where names or
        shapes are not that model's."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        net, told = kind.from_pretrained(
            None, config=config, state_dict=dict(state), output_loading_info=True, ignore_mismatched_sizes=True
        )
        wrong = sorted(
            str(each) for found in ("missing_keys", "unexpected_keys", "mismatched_keys") for each in told[found]
        )
        if wrong:
            raise ValueError(f"{wrong[0]} of {name} is not as a {config.model_type} model has it ({len(wrong)} such)")
        model._take(name, config, net, (list(_IMAGENET[0][1]), list(_IMAGENET[1][1])))
        return model

    def save_settings(self, folder: str | Path) -> None:
        """Writes what is needed to build it again, without weights."""
        self.config.save_pretrained(folder)
        write_json(Path(folder) / SETTINGS, self.describe())

    def describe(self) -> dict[str, Any]:
        """What, beside the weights, decides what it says."""
        return {"name": self.name, "mean": self.mean, "std": self.std}

    def _take(self, name: str, config: Any, model: Any, normalisation: tuple[list[float], list[float]]) -> None:
        self.name, self.config = name, config
        vision = getattr(config, "vision_config", config)
        if not hasattr(vision, "patch_size"):
            raise ValueError(f"'{name}' is no vision model: give DINOv2, DINOv3, SigLIP2, CLIP, SmolVLM or V-JEPA2")
        self.net = getattr(model, "vision_model", model)
        self.net.eval().requires_grad_(False)
        if next(self.net.parameters()).dtype == torch.float16:  # as weights are stored; CPUs' autocast does not know it
            self.net.float()
        self.video = config.model_type == "vjepa2"
        self.patch = int(vision.patch_size)
        size = getattr(vision, "image_size", 0) or getattr(vision, "crop_size", 0) or 16 * self.patch
        self.size = int(size)
        self.dim = int(vision.hidden_size)
        self.mean, self.std = normalisation

    def train(self, mode: bool = True) -> FrozenVision:
        """Stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> float32 [B, N, D], without class and register tokens.

        An image is resized to the multiple of the patch nearest to S, at most to the size that the model was trained with.
        """
        side = self.side(images.shape[-1]) * self.patch
        x = images.float() / 255
        if x.shape[-2:] != (side, side):
            x = transforms.resize(x, [side, side], antialias=True)
        x = transforms.normalize(x, self.mean, self.std).to(next(self.net.parameters()).dtype)
        with torch.no_grad():
            tokens = self.net(**self._inputs(x)).last_hidden_state
        patches = self.side(images.shape[-1]) ** 2
        if tokens.ndim != 3 or tokens.shape[1] < patches:
            raise ValueError(
                f"{type(self.net).__name__} gives {list(tokens.shape)} for {patches} patches of an image: give a model whose "
                "output has one token a patch"
            )
        return tokens[:, tokens.shape[1] - patches :].float()  # class and register tokens lead

    def side(self, image_size: int) -> int:
        """Patches along a side of an image of so many pixels."""
        return max(1, round(min(image_size, self.size) / self.patch))

    def of_frames(self, frames: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float16]:
        """uint8 [T, S, S, 3] -> float16 [T, N, D] in batches: what a frame's features are kept as, once a frame."""
        return self.exactly(frames, batch).astype(np.float16)

    def exactly(self, frames: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float32]:
        """As `of_frames`, float32 [T, N, D]."""
        parts = []
        for start in range(0, len(frames), batch):
            images = torch.from_numpy(frames[start : start + batch].transpose(0, 3, 1, 2).copy())
            parts.append(self(images.to(next(self.net.parameters()).device)).cpu().numpy())
        return np.concatenate(parts)

    def _inputs(self, x: Tensor) -> dict[str, Any]:
        if self.video:  # tubelets of two frames; a still frame is shown twice
            return {"pixel_values_videos": x[:, None].expand(-1, 2, -1, -1, -1), "skip_predictor": True}
        names = inspect.signature(self.net.forward).parameters
        if "spatial_shapes" in names:  # SigLIP2 of any aspect reads patches
            rows = x.unflatten(2, (-1, self.patch)).unflatten(4, (-1, self.patch))  # B, 3, row, y, column, x
            patches = rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
            shape = x.new_full((len(x), 2), x.shape[-1] // self.patch, dtype=torch.long)
            mask = x.new_ones(patches.shape[:2], dtype=torch.long)
            key = "pixel_attention_mask" if "pixel_attention_mask" in names else "attention_mask"
            return {"pixel_values": patches, key: mask, "spatial_shapes": shape}
        if x.shape[-1] != self.size and self._interpolates():
            return {"pixel_values": x, "interpolate_pos_encoding": True}
        return {"pixel_values": x}

    def _interpolates(self) -> bool:
        """Whether the model stretches its position embedding only when asked (others do so by themselves)."""
        embeddings = getattr(self.net, "embeddings", self.net)
        return "interpolate_pos_encoding" in inspect.signature(embeddings.forward).parameters


@lru_cache(maxsize=2)
def frozen_vision(name: str) -> FrozenVision:
    """The frozen model, loaded once a process."""
    return FrozenVision(name)


class FrozenText(nn.Module):
    """A frozen text encoder: instructions -> word tokens and their mask.

    `name`: a model with a text tower (SigLIP2, CLIP), which sees its padding as it did in training, or an encoder of text
    (T5), which does not. `length`: words kept, padding included; FLARE gives SigLIP2 32. Raises ValueError where it cannot
    be loaded or reads no text.
    """

    def __init__(self, name: str, *, length: int = 32) -> None:
        super().__init__()
        config, model = _load(name, "text")
        from transformers import AutoTokenizer

        self.tower = hasattr(model, "text_model")
        if not self.tower and not hasattr(config, "vocab_size"):
            raise ValueError(f"'{name}' has no text tower: give SigLIP2, CLIP or T5, or go without text")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"text model '{name}' has no tokenizer that loads: give a hub name or a folder with it"
            ) from error
        text = config.text_config if self.tower else config
        self.net = (model.text_model if self.tower else model).eval().requires_grad_(False)
        self.length = min(length, int(text.max_position_embeddings)) if self.tower else length
        self.dim = int(text.hidden_size)

    def train(self, mode: bool = True) -> FrozenText:
        """Stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self

    @torch.no_grad()
    def forward(self, instruction: Sequence[str]) -> tuple[Tensor, Tensor]:
        """B texts -> tokens float32 [B, L, D] and bool [B, L]; the mask of an empty text is all False."""
        tokens, real = self._read(instruction)
        given = torch.tensor([bool(text) for text in instruction], device=real.device)
        return tokens, real & given[:, None]

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str], batch: int = 64) -> Tensor:
        """float32 [len(texts), L, D] in batches; padding is zero, an empty text keeps what its end mark says."""
        rows = []
        for start in range(0, len(texts), batch):
            tokens, real = self._read(texts[start : start + batch])
            rows.append(tokens * real[..., None])
        return torch.cat(rows)

    def read_text(self, instruction: str) -> ReadText:
        """What it reads of a text, beginning and end marks included."""
        tokens = self.tokenizer(one_form(instruction), truncation=False, verbose=False)["input_ids"]
        return tuple(tokens[: self.length]), max(0, len(tokens) - self.length)

    def _read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        words = self.tokenizer(
            [one_form(text) for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        device = next(self.net.parameters()).device
        ids = words["input_ids"].to(device)
        if self.tower:  # no attention mask: SigLIP was trained with its padding in sight, and at this fixed length
            return self.net(input_ids=ids).last_hidden_state.float(), ids != self.tokenizer.pad_token_id
        mask = words["attention_mask"].to(device)
        return self.net(input_ids=ids, attention_mask=mask).last_hidden_state.float(), mask.bool()


def _load(name: str, what: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModel, T5EncoderModel

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind = T5EncoderModel if config.model_type == "t5" else AutoModel  # AutoModel would bring T5's decoder
        return config, kind.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{what} model '{name}' cannot be loaded ({reason}): give a hub name or a folder, and check the network"
        ) from error


def _normalisation(name: str) -> tuple[list[float], list[float]]:
    """The model's own mean and deviation, from its image processor; ImageNet's where it ships none."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError):
        processor = None
    mean, std = (getattr(processor, field, default) for field, default in _IMAGENET)
    return list(mean), list(std)
