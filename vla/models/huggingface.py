"""A Hugging Face vision-language model as System 2: read at one language layer, the layers above cut off, frozen by default.

    images, instruction --(the model's own processor)--> prompt of text and image tokens, right-padded
        --(vision tower, language layers 1 ... `layer`)--> ContextTokens, one for each token of the prompt

SmolVLM2 (SmolLM2 + SigLIP, the nearest native relative of GR00T N1's Eagle-2) and Qwen3-VL (Cosmos-Reason2's architecture,
GR00T N1.7) are tested. GR00T N1 and N1.5 read layer 12 (REFERENCE.md, section 2). No remote code is run, no pickle is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from corpora.text import TEXT_FORMAT, ReadText, one_form
from vla.policy import Backbone, ContextTokens

DEFAULT_LAYER = 12
SETTINGS = "hf_backbone.json"


class HfBackbone(Backbone):
    """The language layers 1 to `layer` of `model`, a transformers image-text-to-text model, with its `processor`.

    The features are the hidden states that transformers calls `hidden_states[layer]`: the sum of embeddings and blocks,
    not normalised unless `layer` is the model's last. (Qwen3-VL adds image features behind its first three layers,
    DeepStack; read there, they are included, as the next layer would see them.) They come in the model's own dtype.

    It is frozen (evaluation mode, no gradients) until `set_trainable` says otherwise, and shows an image as one tile (SmolVLM2
    would show 16 more). Raises ValueError for a layer beyond the model's and for a model that shows no images.
    """

    def __init__(
        self, model: nn.Module, processor: Any, *, layer: int = DEFAULT_LAYER, name: str = "", prompt: str = "chat"
    ) -> None:
        super().__init__()
        # without the language head, which nobody asks for words
        vlm: Any = model.model if hasattr(model, "lm_head") else model
        image_token = getattr(vlm.config, "image_token_id", None)
        if image_token is None or _vision(vlm) is None:
            raise ValueError(
                f"{_named(name)}is no vision-language model that is known here: give a SmolVLM2 or a Qwen3-VL"
            )
        self.image_token = int(image_token)
        self.vlm = vlm
        self.processor = processor
        self.layer = layer
        self.name = name
        self.prompt = prompt
        self.padding_side = "right"
        self.text_format = TEXT_FORMAT
        self.reads_normed = self._cut(layer)
        self.dim = int(vlm.get_decoder().config.hidden_size)
        self.set_trainable(vision=False, top_layers=0)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        layer: int | None = None,
        dtype: torch.dtype = torch.float32,
        weights: bool = True,
        prompt: str = "chat",
    ) -> HfBackbone:
        """By hub name, by the folder of a model, or from what `save_pretrained` wrote (which keeps its own layer).

        `weights` False: random weights, for a state that is loaded afterwards; `prompt`: of `VlmConfig`. Raises ValueError where
        the model cannot be loaded, or not completely.
        """
        from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

        saved = _saved_settings(Path(name))
        if saved:
            if layer not in (None, saved["layer"]):
                raise ValueError(
                    f"layer {layer}: the layers of '{name}' above {saved['layer']} were cut off; leave it out"
                )
            layer = saved["layer"]
        auto: Any = AutoModel if saved else AutoModelForImageTextToText
        try:
            processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
            if weights:
                model, info = auto.from_pretrained(
                    name, trust_remote_code=False, use_safetensors=True, dtype=dtype, output_loading_info=True
                )
            else:
                config = AutoConfig.from_pretrained(name, trust_remote_code=False)
                model, info = auto.from_config(config, trust_remote_code=False, dtype=dtype), {}
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(
                f"vision-language model '{name}' cannot be loaded ({reason}): give the hub name or the folder of a SmolVLM2 or "
                "Qwen3-VL model with safetensors weights; without a network, download it before (hf download NAME); "
                "SmolVLM2's processor needs the package num2words"
            ) from error
        lost = sorted(key for key in info.get("missing_keys", ()) if not key.startswith("lm_head."))
        if lost:
            raise ValueError(
                f"vision-language model '{name}' lacks {len(lost)} of its weights ({lost[0]}, ...): download it again"
            )
        layer = DEFAULT_LAYER if layer is None else layer
        prompt = saved.get("prompt", "chat") if saved else prompt
        backbone = cls(model, processor, layer=layer, name=str(name), prompt=prompt)
        if saved and not saved["reads_normed"]:
            backbone._skip_norm()
        if saved:
            backbone.text_format = saved.get("text_format", 1)
        return backbone

    def save_pretrained(self, folder: str | Path, *, weights: bool = True) -> None:
        """Configuration, processor and (safetensors) weights of what is left of the model.

        Raises ValueError while LoRA adapters are in it: transformers could not load their names again.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if weights:
            if any(".lora_" in name for name, _ in self.vlm.named_parameters()):
                raise ValueError(
                    "a backbone with LoRA adapters cannot be saved by itself: merge them first (merge_lora)"
                )
            self.vlm.save_pretrained(folder)
        else:
            self.vlm.config.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        settings = {
            "layer": self.layer,
            "reads_normed": self.reads_normed,
            "name": self.name,
            "text_format": self.text_format,
            "prompt": self.prompt,
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")

    def forward(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        """`images` uint8 [B, V, T, 3, S, S], `image_mask` bool [B, V, T], B instructions -> tokens of D = `dim`.

        A prompt shows the images of a sample camera by camera, oldest first, then the instruction; missing ones are left
        out. Raises ValueError for other shapes.
        """
        return self.encode(self.prepare(images, image_mask, instruction))

    def prepare(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> dict[str, Tensor]:
        """What the model's own processor makes of a batch (the preprocessing of `forward`), on the model's device."""
        self._check(images, image_mask, instruction)
        kept = image_mask.cpu()
        shown = [list(images[k][kept[k]]) for k in range(len(images))]
        instruction = [self._asked(text) for text in instruction]
        chats = [
            [{"role": "user", "content": [*({"type": "image"} for _ in row), {"type": "text", "text": text}]}]
            for row, text in zip(shown, instruction, strict=True)
        ]
        found = self.processor(
            text=self.processor.apply_chat_template(chats, add_generation_prompt=self.prompt == "chat"),
            images=shown if any(shown) else None,
            padding=True,
            padding_side=self.padding_side,
            return_tensors="pt",
            **self._image_options(),
        )
        device = next(self.vlm.parameters()).device
        return {name: value.to(device, non_blocking=True) for name, value in found.items()}

    def read_text(self, instruction: str) -> ReadText:
        return tuple(self.processor.tokenizer(self._asked(instruction))["input_ids"]), 0

    def encode(self, inputs: dict[str, Tensor]) -> ContextTokens:
        """The model on what `prepare` returned."""
        mask = inputs["attention_mask"].bool()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.is_trainable):
            features = self.vlm(**inputs, use_cache=False).last_hidden_state
            # what padding computes is nobody's business; zeros keep it from being random, or NaN
            features = features.masked_fill(~mask.unsqueeze(-1), 0)
        return ContextTokens(features, mask, (inputs["input_ids"] == self.image_token) & mask)

    def set_trainable(self, *, vision: bool, top_layers: int) -> None:
        """Which weights take gradients: the vision tower with its connector, and the top of the language layers.

        Raises ValueError for more layers than are left.
        """
        if not 0 <= top_layers <= self.layer:
            raise ValueError(f"top {top_layers} layers: this backbone has {self.layer}, choose 0 to {self.layer}")
        self.vlm.requires_grad_(False)
        if vision:
            for part in self.vision_parts:
                part.requires_grad_(True)
        for block in self.language_layers[self.layer - top_layers :]:
            block.requires_grad_(True)
        self.train(self.training)

    @property
    def language_layers(self) -> nn.ModuleList:
        """The language layers that are left, the lowest first."""
        return self.vlm.get_decoder().layers

    @property
    def vision_parts(self) -> list[nn.Module]:
        """The vision tower, and what leads from it to the language model where that is a module of its own."""
        parts = [_vision(self.vlm), getattr(self.vlm, "connector", None)]
        return [part for part in parts if part is not None]

    @property
    def is_trainable(self) -> bool:
        """Whether any weight takes gradients."""
        return any(parameter.requires_grad for parameter in self.vlm.parameters())

    @property
    def is_constant(self) -> bool:
        return not self.is_trainable

    def save_settings(self, folder: Path) -> None:
        self.save_pretrained(folder, weights=False)

    def train(self, mode: bool = True) -> HfBackbone:
        """A frozen model stays in evaluation mode."""
        super().train(mode)
        self.vlm.train(mode and self.is_trainable)
        return self

    def describe(self) -> dict[str, Any]:
        """All that decides the features beside the weights, for JSON (the key of the feature cache)."""
        processor = self.processor
        vocabulary = json.dumps(sorted(processor.tokenizer.get_vocab().items())).encode()
        return {
            "class": type(self.vlm).__name__,
            "layer": self.layer,
            "reads_normed": self.reads_normed,
            "padding_side": self.padding_side,
            "pictures": {**processor.image_processor.to_dict(), **self._image_options()},
            "chat_template": processor.chat_template,
            "text_format": self.text_format,
            "vocabulary": hashlib.sha256(vocabulary).hexdigest(),
            **({} if self.prompt == "chat" else {"prompt": self.prompt}),
        }

    def _asked(self, instruction: str) -> str:
        text = one_form(instruction, self.text_format)
        return text if self.prompt == "chat" else re.sub(r"[^\w\s]", "", text.lower())

    def _cut(self, layer: int) -> bool:
        """Drops the language layers above `layer`; whether the final norm is still applied."""
        decoder = self.vlm.get_decoder()
        depth = len(decoder.layers)
        if not 1 <= layer <= depth:
            raise ValueError(f"layer {layer}: {_named(self.name)}has {depth} language layers, choose 1 to {depth}")
        del decoder.layers[layer:]
        for config in {id(part): part for part in (decoder.config, self.vlm.config.get_text_config())}.values():
            config.num_hidden_layers = layer
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:layer]
        if layer < depth:
            self._skip_norm()
        return layer == depth

    def _skip_norm(self) -> None:
        """The final norm belongs to the last layer's output: it stays among the weights, so that the model can be loaded
        again, and does nothing."""
        self.vlm.get_decoder().norm.forward = _unchanged
        self.reads_normed = False

    def _image_options(self) -> dict[str, Any]:
        processor = self.processor.image_processor
        if not hasattr(processor, "do_image_splitting"):
            return {}
        # straight to the size of a tile: the processor would go by way of the size of all tiles together
        return {"do_image_splitting": False, "size": dict(processor.max_image_size)}

    def _check(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> None:
        if images.ndim != 6 or images.shape[3] != 3 or images.dtype != torch.uint8:
            raise ValueError(f"images {images.dtype} {list(images.shape)}: must be uint8 [B, V, T, 3, S, S]")
        if image_mask.dtype != torch.bool or image_mask.shape != images.shape[:3]:
            raise ValueError(
                f"image_mask {image_mask.dtype} {list(image_mask.shape)}: must be bool {list(images.shape[:3])}"
            )
        if len(instruction) != len(images):
            raise ValueError(f"{len(instruction)} instructions for {len(images)} samples")
        for token in (self.processor.image_token, self.processor.video_token):
            for text in instruction:
                if token in text:
                    raise ValueError(
                        f"instruction {text!r}: holds {token}, the model's own mark for an image; take it out"
                    )


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


def _vision(vlm: Any) -> nn.Module | None:
    """The vision tower: SmolVLM and Idefics call it vision_model, Qwen visual, LLaVA vision_tower."""
    for name in ("vision_model", "visual", "vision_tower"):
        if isinstance(part := getattr(vlm, name, None), nn.Module):
            return part
    return None


def _named(name: str) -> str:
    return f"'{name}' " if name else "the model "


def _saved_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    return json.loads(path.read_text()) if path.is_file() else {}
