"""A SAM2 with random weights that is small enough for a test, stored as the hub has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    Sam2VideoConfig,
    Sam2VideoModel,
)

SIDE = 64
"""Of the images that it sees, pixels."""


def tiny_sam2(folder: Path, *, seed: int = 0, video: bool = False) -> Path:
    """`video`: the model that follows through video."""
    torch.manual_seed(seed)
    parts: dict[str, Any] = {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [SIDE, SIDE],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 24, 32],
                "num_attention_heads_per_stage": [1, 1, 1, 1],
                "window_size_per_stage": [4, 4, 2, 2],
                "window_positional_embedding_background_size": [2, 2],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [32, 24, 16, 8],
            "backbone_feature_sizes": [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
            "fpn_hidden_size": 16,
        },
        "prompt_encoder_config": {"hidden_size": 16, "image_size": SIDE, "patch_size": 16},
        "mask_decoder_config": {
            "hidden_size": 16,
            "mlp_dim": 16,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    }
    if video:
        memory = {
            "image_size": SIDE,
            "memory_attention_hidden_size": 16,
            "memory_attention_num_layers": 1,
            "memory_attention_feed_forward_hidden_size": 16,
            "memory_attention_rope_feat_sizes": [4, 4],
            "memory_encoder_hidden_size": 16,
            "memory_encoder_output_channels": 8,
            "mask_downsampler_embed_dim": 16,
            "memory_fuser_embed_dim": 16,
            "memory_fuser_intermediate_dim": 16,
            "memory_fuser_num_layers": 1,
        }
        Sam2VideoModel(Sam2VideoConfig(**parts, **memory)).save_pretrained(folder)
    else:
        Sam2Model(Sam2Config(**parts)).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    Sam2Processor(Sam2ImageProcessor(size=size, mask_size={"height": SIDE // 4, "width": SIDE // 4})).save_pretrained(
        folder
    )
    return folder
