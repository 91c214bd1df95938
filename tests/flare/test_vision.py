"""Tokens of Hugging Face models: tiny random models of the real classes, saved and loaded by folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flare.config import FlareConfig
from flare.targets import TargetShape, build_target, pool_grid
from flare.vision import FrozenText, FrozenVision

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PICTURE = {"image_size": 28, "patch_size": 7}
TEXT = {**SMALL, "vocab_size": 32, "max_position_embeddings": 8}


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def save(kind: str, folder: Path) -> str:
    import transformers as hf

    torch.manual_seed(0)
    model: nn.Module
    if kind == "dinov2":
        model = hf.Dinov2Model(hf.Dinov2Config(**SMALL, **PICTURE))
    elif kind == "dinov2-registers":
        model = hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SMALL, **PICTURE, num_register_tokens=3))
    elif kind == "dinov3":
        model = hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SMALL, **PICTURE, num_register_tokens=2))
    elif kind == "siglip":
        model = hf.SiglipModel(hf.SiglipConfig(vision_config={**SMALL, **PICTURE}, text_config=TEXT))
    elif kind == "siglip2":
        vision = {**SMALL, "patch_size": 7, "num_patches": 16}
        model = hf.Siglip2Model(hf.Siglip2Config(vision_config=vision, text_config=TEXT))
    elif kind == "clip":
        model = hf.CLIPModel(hf.CLIPConfig(vision_config={**SMALL, **PICTURE}, text_config=TEXT))
    elif kind == "vjepa2":
        config = hf.VJEPA2Config(
            **{k: v for k, v in SMALL.items() if k != "intermediate_size"},
            crop_size=28, patch_size=7, tubelet_size=2, frames_per_clip=2, mlp_ratio=2,
            pred_hidden_size=16, pred_num_hidden_layers=1, pred_num_attention_heads=2,
        )  # fmt: skip
        model = hf.VJEPA2Model(config)
    else:
        text = {**SMALL, "vocab_size": 32, "num_key_value_heads": 2, "model_type": "llama", "pad_token_id": 0}
        config = hf.SmolVLMConfig(vision_config={**SMALL, **PICTURE}, text_config=text, scale_factor=2, pad_token_id=0)
        model = hf.SmolVLMModel(config)
    model.save_pretrained(folder)
    return str(folder)


def save_words(folder: Path, *, end: bool = False) -> None:
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<pad>": 0, "<unk>": 1, "open": 2, "the": 3, "drawer": 4, "<end>": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if end:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 5)])
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)


def save_t5(folder: Path) -> str:
    import transformers as hf

    save_words(folder)
    config = hf.T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    hf.T5EncoderModel(config).save_pretrained(folder)
    return str(folder)


KINDS = ["dinov2", "dinov2-registers", "dinov3", "siglip", "siglip2", "clip", "smolvlm", "vjepa2"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_hub_model_gives_its_patches_in_place(kind: str, tmp_path: Path) -> None:
    vision = FrozenVision(save(kind, tmp_path)).train()
    shown = images(2, 3, 28, 28)
    tokens = vision(shown)
    assert tokens.shape == (2, 16, 16) and vision.dim == 16
    assert not tokens.requires_grad
    torch.testing.assert_close(vision(shown[1:])[0], tokens[1], atol=1e-5, rtol=1e-4)
    changed = shown.clone()
    changed[:, :, 7:14, 21:] = 255 - changed[:, :, 7:14, 21:]  # row 1, column 3
    moved = (vision(changed) - tokens).abs().sum((0, 2))
    assert moved.argmax() == 7
    if kind != "vjepa2":  # of one size
        assert vision(images(1, 3, 14, 14)).shape == (1, 4, 16)
    target = build_target(FlareConfig(target="frozen", target_name=str(tmp_path)), TargetShape(8, 28))
    out = target(shown[:, None], ["", ""])
    torch.testing.assert_close(out, pool_grid(tokens, 8), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dinov3", "siglip", "vjepa2"])
def test_features_of_frames_are_those_of_images_in_half_precision(kind: str, tmp_path: Path) -> None:
    vision = FrozenVision(save(kind, tmp_path))
    frames = (np.random.default_rng(0).random((3, 28, 28, 3)) * 255).astype(np.uint8)
    features = vision.of_frames(frames, batch=2)
    assert features.shape == (3, 16, 16)
    assert features.dtype == np.float16
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    np.testing.assert_allclose(vision(images).numpy(), features, atol=2e-3)
    # patches are in place: a change of the last corner moves the last patch most
    changed = frames.copy()
    changed[:, 21:, 21:] = 255 - changed[:, 21:, 21:]
    moved = np.abs(vision.of_frames(changed).astype(np.float32) - features).sum((0, 2))
    assert moved.argmax() == 15


def test_texts_are_embedded_with_their_padding_at_zero(tmp_path: Path) -> None:
    rows = FrozenText(save_t5(tmp_path), length=5).of_texts(["open the drawer", "open"], batch=1)
    assert rows.shape == (2, 5, 16)
    assert rows[0, :3].abs().sum(-1).min() > 0
    assert rows[0, 3:].abs().max() == 0
    assert rows[1, 1:].abs().max() == 0


def test_what_is_read_of_a_text_is_one_form_of_it_and_known(tmp_path: Path) -> None:
    """M12: two words are read, whatever letters they are in."""
    reader = FrozenText(save_t5(tmp_path), length=2)
    wide = "\uff4f\uff50\uff45\uff4e the drawer"
    assert reader.read_text(wide) == reader.read_text("open the drawer") == ((2, 3), 1)
    assert torch.equal(*reader.of_texts(["open the", wide]))


def test_siglip2_patches_are_cut_as_its_processor_cuts_them(tmp_path: Path) -> None:
    from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

    vision = FrozenVision(save("siglip2", tmp_path))
    x = torch.randn(2, 3, 28, 28)
    given = vision._inputs(x)
    for b in range(2):
        torch.testing.assert_close(given["pixel_values"][b], convert_image_to_patches(x[b], 7))
    assert given["spatial_shapes"].tolist() == [[4, 4], [4, 4]]


def test_a_hub_model_is_frozen_and_one_that_there_is_not_is_refused(tmp_path: Path) -> None:
    name = save("dinov2", tmp_path)
    assert not any(p.requires_grad for p in FrozenVision(name).parameters())
    assert not FrozenVision(name)(images(1, 3, 28, 28)).requires_grad
    with pytest.raises(ValueError, match="vision model '.*nowhere' cannot be loaded"):
        FrozenVision(str(tmp_path / "nowhere"))


def test_words_have_a_mask_and_no_text_has_none(tmp_path: Path) -> None:
    save_words(tmp_path, end=True)
    text = FrozenText(save("siglip", tmp_path), length=32)
    tokens, mask = text(["open the drawer", "", "open"])
    assert tokens.shape == (3, 8, 16)  # the model has 8 positions
    assert mask.sum(1).tolist() == [4, 0, 2]  # an end is written even after no text
    assert not torch.allclose(tokens[0], tokens[2])
    with pytest.raises(ValueError, match="has no text tower"):
        FrozenText(save("dinov2", tmp_path / "dino"))
