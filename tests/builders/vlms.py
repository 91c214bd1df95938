"""Tiny random vision-language models of the real classes with processors of their own: SmolVLM and Qwen3-VL, no hub needed.

Both see images of 32 pixels as 4 tokens each and read text byte by byte.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.smolvlm import processing_smolvlm

from vla.models.huggingface import HfBackbone

Family = Literal["smolvlm", "qwen3vl"]
FAMILIES: tuple[Family, ...] = ("smolvlm", "qwen3vl")
SIDE, TOKENS_PER_IMAGE, DEPTH, DIM = 32, 4, 5, 32

SMOL_TOKENS = [
    "<pad>",
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<global-img>",
    "<image>",
    "<video>",
]
QWEN_TOKENS = [
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(special: list[str]) -> PreTrainedTokenizerFast:
    """Special tokens first, then one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0])


def tiny_processor(family: Family) -> Any:
    """The family's own processor class, with small images."""
    if family == "smolvlm":
        if processing_smolvlm.num2words is None:  # spells the number of a video's frames; images have no use for it
            processing_smolvlm.num2words = str
        return SmolVLMProcessor(
            SmolVLMImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}),
            byte_tokenizer(SMOL_TOKENS),
            SmolVLMVideoProcessor(),
            image_seq_len=TOKENS_PER_IMAGE,
            chat_template=SMOL_TEMPLATE,
        )
    pixels = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2}
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(patch_size=8, merge_size=2, temporal_patch_size=2, size=pixels),
        byte_tokenizer(QWEN_TOKENS),
        Qwen3VLVideoProcessor(patch_size=8),
        chat_template=QWEN_TEMPLATE,
    )


def tiny_config(family: Family, *, depth: int = DEPTH) -> Any:
    """`depth` language layers, DIM wide. Weights are drawn wide, so that images and words leave their mark."""
    vocabulary = 7 + 256
    text = {
        "vocab_size": vocabulary, "hidden_size": DIM, "intermediate_size": 48, "num_hidden_layers": depth,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.2, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 2048,
    }  # fmt: skip
    if family == "smolvlm":
        vision = {
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": SIDE, "patch_size": 8, "initializer_range": 0.2,
        }  # fmt: skip
        return SmolVLMConfig(
            text_config={"model_type": "llama", **text},
            vision_config=vision,
            scale_factor=2,
            image_token_id=SMOL_TOKENS.index("<image>"),
        )
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2,
        "temporal_patch_size": 2, "out_hidden_size": DIM, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0], "initializer_range": 0.2,
    }  # fmt: skip
    return Qwen3VLConfig(
        text_config={**text, "rope_parameters": rope},
        vision_config=vision,
        image_token_id=QWEN_TOKENS.index("<|image_pad|>"),
        video_token_id=QWEN_TOKENS.index("<|video_pad|>"),
        vision_start_token_id=QWEN_TOKENS.index("<|vision_start|>"),
        vision_end_token_id=QWEN_TOKENS.index("<|vision_end|>"),
    )


def some_images(batch: int, cameras: int = 2, history: int = 1, *, seed: int = 0, side: int = SIDE) -> torch.Tensor:
    """Random uint8 [batch, cameras, history, 3, side, side]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, cameras, history, 3, side, side)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def tiny_backbone(family: Family = "smolvlm", *, layer: int, depth: int = DEPTH) -> HfBackbone:
    """The first `layer` of `depth` language layers, with random weights."""
    model = AutoModelForImageTextToText.from_config(tiny_config(family, depth=depth), dtype=torch.float32)
    return HfBackbone(model, tiny_processor(family), layer=layer)
