"""Frozen vision models as targets: tiny random models of the real classes, saved and loaded by folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lapa.frozen_features import FrozenVision, embed_texts
from lapa.model.lam import LatentActionModel
from lapa.pairs.config import PairConfig
from lapa.recipes import DEBUG

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def save(kind: str, folder: Path) -> Path:
    import transformers as hf

    torch.manual_seed(0)
    if kind == "dinov2":
        model = hf.Dinov2Model(hf.Dinov2Config(**SMALL, image_size=28, patch_size=7))
    elif kind == "dinov2-registers":
        config = hf.Dinov2WithRegistersConfig(**SMALL, image_size=28, patch_size=7, num_register_tokens=3)
        model = hf.Dinov2WithRegistersModel(config)
    elif kind == "dinov3":
        model = hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SMALL, image_size=28, patch_size=7, num_register_tokens=2))
    elif kind == "siglip2":
        vision = {**SMALL, "image_size": 28, "patch_size": 7}
        text = {**SMALL, "vocab_size": 32, "max_position_embeddings": 8}
        model = hf.SiglipModel(hf.SiglipConfig(vision_config=vision, text_config=text))
    else:
        config = hf.VJEPA2Config(
            **{k: v for k, v in SMALL.items() if k != "intermediate_size"},
            crop_size=28, patch_size=7, tubelet_size=2, frames_per_clip=2, mlp_ratio=2,
            pred_hidden_size=16, pred_num_hidden_layers=1, pred_num_attention_heads=2,
        )  # fmt: skip
        model = hf.VJEPA2Model(config)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["dinov2", "dinov2-registers", "dinov3", "siglip2", "vjepa2"])
def test_each_kind_gives_a_square_grid_of_patches(kind: str, tmp_path: Path) -> None:
    vision = FrozenVision(str(save(kind, tmp_path)))
    frames = (np.random.default_rng(0).random((3, 28, 28, 3)) * 255).astype(np.uint8)
    features = vision.of_frames(frames, batch=2)
    assert features.shape == (3, 16, 16)
    assert features.dtype == np.float16
    np.testing.assert_allclose(vision.of_frames(frames[1:2])[0], features[1], atol=2e-3)
    assert not any(p.requires_grad for p in vision.parameters())
    # patches are in place: a change of the last corner moves the last patch most
    changed = frames.copy()
    changed[:, 21:, 21:] = 255 - changed[:, 21:, 21:]
    moved = np.abs(vision.of_frames(changed).astype(np.float32) - features).sum((0, 2))
    assert moved.argmax() == 15


def test_a_model_of_features_encodes_and_predicts_features(tmp_path: Path) -> None:
    vision = FrozenVision(str(save("dinov2", tmp_path)))
    config = dataclasses.replace(
        DEBUG,
        target=str(tmp_path),
        input="both",
        flow_weight=0.0,
        pair=PairConfig(image_size=28, flow="none"),
        patch=7,
        feature_patches=16,
        feature_dim=16,
    )
    model = LatentActionModel(config).eval()
    pictures = torch.rand(4, 3, 28, 28)
    first, second = vision(pictures), vision(pictures.flip(0))
    encoding = model.encode(first, second)
    assert encoding.latent.shape == (4, 2, 8)
    assert model.decode(first, encoding.quantized).shape == (4, 16, 16)


def test_a_model_that_cannot_be_loaded_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vision model '.*nowhere' cannot be loaded"):
        FrozenVision(str(tmp_path / "nowhere"))


def test_texts_are_embedded_with_their_padding_at_zero(tmp_path: Path) -> None:
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<unk>": 1, "open": 2, "the": 3, "drawer": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(
        tmp_path
    )
    config = hf.T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    hf.T5EncoderModel(config).save_pretrained(tmp_path)
    rows = embed_texts(str(tmp_path), ["open the drawer", "open"], length=5)
    assert rows.shape == (2, 5, 16)
    assert rows[0, :3].abs().sum(-1).min() > 0
    assert rows[0, 3:].abs().max() == 0
    assert rows[1, 1:].abs().max() == 0
