"""Vision-language models as backbones: padding, the layer cut, what is frozen, what matters, saving. Tiny random models."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch

from tests.builders.vlms import (
    DEPTH,
    DIM,
    FAMILIES,
    SIDE,
    TOKENS_PER_IMAGE,
    Family,
    some_images,
    tiny_backbone,
    tiny_config,
    tiny_processor,
)
from vla.models.huggingface import HfBackbone

TEXTS = ["open the drawer", "", "turn the faucet the other way round"]


def tiny(family: Family, *, layer: int = 3) -> HfBackbone:
    torch.manual_seed(0)
    return tiny_backbone(family, layer=layer)


def everywhere(images: torch.Tensor) -> torch.Tensor:
    return torch.ones(images.shape[:3], dtype=torch.bool)


def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    """Three samples of two cameras and two frames: four images, none, and one."""
    images = some_images(3, cameras=2, history=2)
    mask = everywhere(images)
    mask[1] = False
    mask[2] = torch.tensor([[False, False], [False, True]])
    return images, mask


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_changes_no_token(family: Family, side: str) -> None:
    backbone = tiny(family)
    backbone.padding_side = side
    images, mask = ragged()
    together = backbone(images, mask, TEXTS)
    assert together.mask.sum(1).unique().numel() == 3
    for k, text in enumerate(TEXTS):
        alone = backbone(images[k : k + 1], mask[k : k + 1], [text])
        assert alone.mask.all()
        real = together.mask[k]
        torch.testing.assert_close(together.features[k][real], alone.features[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(together.is_image[k][real], alone.is_image[0])
        assert together.features[k][~real].abs().sum() == 0
        assert not together.is_image[k][~real].any()
        assert real[0] == (side == "right") or bool(real.all())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_samples_and_those_without_images_first(family: Family) -> None:
    backbone = tiny(family)
    images, mask = ragged()
    forwards = backbone(images, mask, TEXTS)
    order = [1, 2, 0]
    turned = backbone(images[order], mask[order], [TEXTS[k] for k in order])
    torch.testing.assert_close(turned.features, forwards.features[order], atol=1e-5, rtol=1e-5)
    nothing = backbone(images, torch.zeros_like(mask), TEXTS)
    assert not nothing.is_image.any()
    torch.testing.assert_close(nothing.features[1][nothing.mask[1]], forwards.features[1][forwards.mask[1]])


@pytest.mark.parametrize("layer", range(1, DEPTH + 1))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_cut_model_computes_what_the_whole_one_computes_at_that_layer(family: Family, layer: int) -> None:
    whole = tiny(family, layer=DEPTH)
    assert len(whole.language_layers) == DEPTH
    images = some_images(2)
    inputs = whole.prepare(images, everywhere(images), TEXTS[:2])
    entering: list[torch.Tensor] = []
    if layer < DEPTH:
        whole.language_layers[layer].register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    with torch.no_grad():
        states = whole.vlm(**inputs, use_cache=False, output_hidden_states=True).hidden_states
    want = entering[0] if layer < DEPTH else states[-1]
    cut = tiny(family, layer=layer)
    cut.vlm.load_state_dict(whole.vlm.state_dict(), strict=False)
    assert len(cut.language_layers) == layer
    tokens = cut(images, everywhere(images), TEXTS[:2])
    assert tokens.features.shape[-1] == cut.dim == DIM
    real = tokens.mask
    torch.testing.assert_close(tokens.features[real], want[real])
    # DeepStack's images join behind layer 1 of this Qwen3-VL; transformers lists the state before that
    same = real & ~tokens.is_image if (family == "qwen3vl" and layer == 1) else real
    torch.testing.assert_close(tokens.features[same], states[layer][same])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_cut_costs_no_memory(family: Family) -> None:
    whole, cut = tiny(family, layer=DEPTH), tiny(family, layer=2)
    block = sum(p.numel() for p in cut.language_layers[0].parameters())
    sizes = [sum(p.numel() for p in backbone.parameters()) for backbone in (whole, cut)]
    assert sizes[0] - sizes[1] == (DEPTH - 2) * block
    assert not any("lm_head" in name for name, _ in cut.named_parameters())


@pytest.mark.parametrize("layer", [0, DEPTH + 1, -1])
def test_a_layer_beyond_the_models_is_refused(layer: int) -> None:
    with pytest.raises(ValueError, match=rf"layer {layer}: .*{DEPTH} language layers, choose 1 to {DEPTH}"):
        tiny("smolvlm", layer=layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_image_tokens_are_counted_and_marked(family: Family) -> None:
    backbone = tiny(family)
    images, mask = ragged()
    inputs = backbone.prepare(images, mask, TEXTS)
    tokens = backbone.encode(inputs)
    assert tokens.is_image.sum(1).tolist() == [4 * TOKENS_PER_IMAGE, 0, TOKENS_PER_IMAGE]
    mark = backbone.processor.tokenizer.convert_tokens_to_ids(backbone.processor.image_token)
    assert torch.equal(tokens.is_image, inputs["input_ids"] == mark)
    assert torch.equal(tokens.mask, inputs["attention_mask"].bool())


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_shown_camera_by_camera_oldest_first(family: Family) -> None:
    """Each image in its place gives the tokens of a prompt in which the same images are cameras of one frame."""
    backbone = tiny(family)
    images = some_images(1, cameras=2, history=3)
    flat = images.reshape(1, 6, 1, 3, SIDE, SIDE)
    a = backbone(images, everywhere(images), ["go"])
    b = backbone(flat, everywhere(flat), ["go"])
    torch.testing.assert_close(a.features, b.features)
    swapped = backbone(images.flip(2), everywhere(images), ["go"])
    assert (swapped.features - a.features).abs().max() > 0.1
    # what is masked out is not looked at
    mask = everywhere(images)
    mask[0, 1, 0] = False
    changed = images.clone()
    changed[0, 1, 0] = 255 - changed[0, 1, 0]
    torch.testing.assert_close(backbone(images, mask, ["go"]).features, backbone(changed, mask, ["go"]).features)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_and_words_matter(family: Family) -> None:
    backbone = tiny(family)
    images = some_images(2, cameras=1)
    images[1] = images[0]
    images[1, 0, 0, :, : SIDE // 2, : SIDE // 2] = 0
    mask = everywhere(images)
    tokens = backbone(images, mask, ["open", "open"])
    apart = (tokens.features[0] - tokens.features[1]).abs()
    first = int(tokens.is_image[0].nonzero()[0])
    assert apart[:first].max() == 0
    assert apart[first].max() > 0.1  # the image
    assert apart[~tokens.is_image[0]].max() > 0.01  # and the words that follow it
    images[1] = images[0]
    tokens = backbone(images, mask, ["open", "shut"])
    apart = (tokens.features[0] - tokens.features[1]).abs().amax(-1)
    assert apart[tokens.is_image[0]].max() == 0
    assert apart.max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_means_no_gradients_and_evaluation_mode(family: Family) -> None:
    backbone = tiny(family).train()
    images = some_images(1)
    tokens = backbone(images, everywhere(images), ["go"])
    assert not tokens.features.requires_grad
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.vlm.modules())


@pytest.mark.parametrize(("vision", "top"), [(True, 0), (False, 2), (True, 1)])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_what_is_tuned_and_nothing_else(family: Family, vision: bool, top: int) -> None:
    backbone = tiny(family).train()
    backbone.set_trainable(vision=vision, top_layers=top)
    assert backbone.vlm.training
    images = some_images(1)
    backbone(images, everywhere(images), ["go"]).features.square().sum().backward()
    reached = {name for name, p in backbone.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    blocks = {
        int(found[1]) for name in reached if (found := re.search(r"(?:text|language)_model\.layers\.(\d+)\.", name))
    }
    assert blocks == set(range(3 - top, 3))
    tower = {name for name in reached if re.match(r"vlm\.(vision_model|visual|connector)\.", name)}
    assert bool(tower) == vision
    assert any("connector" in name or "merger" in name for name in tower) == vision
    assert not any("embed_tokens" in name for name in reached)
    with torch.no_grad():
        assert not backbone(images, everywhere(images), ["go"]).features.requires_grad


def test_more_layers_than_are_left_are_refused() -> None:
    with pytest.raises(ValueError, match="top 4 layers: this backbone has 3, choose 0 to 3"):
        tiny("smolvlm").set_trainable(vision=False, top_layers=4)


@pytest.mark.parametrize("layer", [3, DEPTH])
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_it_is_the_same(family: Family, layer: int, tmp_path: Path) -> None:
    backbone = tiny(family, layer=layer)
    backbone.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".jinja"}
    loaded = HfBackbone.from_pretrained(tmp_path)
    images, mask = ragged()
    want, found = backbone(images, mask, TEXTS), loaded(images, mask, TEXTS)
    torch.testing.assert_close(found.features, want.features, atol=0, rtol=0)
    assert loaded.layer == layer
    assert loaded.describe() == backbone.describe()
    with pytest.raises(ValueError, match=f"layer 2: the layers of .* above {layer} were cut off"):
        HfBackbone.from_pretrained(tmp_path, layer=2)
    # without weights, for a state that comes from elsewhere
    empty = HfBackbone.from_pretrained(tmp_path, weights=False)
    assert (empty(images, mask, TEXTS).features - want.features).abs().max() > 0.1
    empty.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(empty(images, mask, TEXTS).features, want.features, atol=0, rtol=0)


def test_groots_prompt_asks_for_no_answer_in_small_letters_without_signs(tmp_path: Path) -> None:
    plain, groot = tiny("qwen3vl"), tiny("qwen3vl")
    groot.prompt = "groot"
    images = some_images(1, cameras=1)
    said, asked = (
        backbone.processor.tokenizer.decode(
            backbone.prepare(images, everywhere(images), ["Open, the DOOR!"])["input_ids"][0]
        )
        for backbone in (plain, groot)
    )
    assert said.endswith("Open, the DOOR!<|im_end|>\n<|im_start|>assistant\n")
    assert asked.endswith("open the door<|im_end|>\n")
    assert groot.read_text("Open, the DOOR!") == groot.read_text("open the door") != plain.read_text("Open, the DOOR!")
    groot.save_pretrained(tmp_path)
    assert HfBackbone.from_pretrained(tmp_path).prompt == "groot" and groot.describe() != plain.describe()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_models_own_folder_is_loaded_and_cut(family: Family, tmp_path: Path) -> None:
    """The layout of the hub: a model with its language head, and its processor."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(tiny_config(family), dtype=torch.float32)
    model.save_pretrained(tmp_path)
    tiny_processor(family).save_pretrained(tmp_path)
    backbone = HfBackbone.from_pretrained(tmp_path, layer=2)
    images, mask = ragged()
    want = HfBackbone(copy.deepcopy(model), tiny_processor(family), layer=2)(images, mask, TEXTS)
    torch.testing.assert_close(backbone(images, mask, TEXTS).features, want.features, atol=0, rtol=0)
    with pytest.raises(ValueError, match="layer 12: .*choose 1 to 5"):
        HfBackbone.from_pretrained(tmp_path)
    half = HfBackbone.from_pretrained(tmp_path, layer=2, dtype=torch.bfloat16)(images, mask, TEXTS)
    assert half.features.dtype == torch.bfloat16
    error = (half.features.float() - want.features).norm() / want.features.norm()
    assert 0 < error < 0.05


def test_a_model_that_cannot_be_loaded_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"vision-language model 'giza/no-such-vlm' cannot be loaded .*hf download NAME"
    ):
        HfBackbone.from_pretrained("giza/no-such-vlm")
    with pytest.raises(ValueError, match=r"vision-language model '.*empty' cannot be loaded"):
        HfBackbone.from_pretrained(tmp_path / "empty")
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"'.*bert' cannot be loaded"):
        HfBackbone.from_pretrained(tmp_path / "bert")

    tiny("smolvlm").save_pretrained(tmp_path / "vlm")
    state = load_file(tmp_path / "vlm" / "model.safetensors")
    kept = {name: value for name, value in state.items() if "layers.1.self_attn.q_proj" not in name}
    save_file(kept, tmp_path / "vlm" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks \d of its weights \(.*q_proj.*download it again"):
        HfBackbone.from_pretrained(tmp_path / "vlm")
    torch.save(state, tmp_path / "vlm" / "pytorch_model.bin")
    (tmp_path / "vlm" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be loaded .*safetensors"):
        HfBackbone.from_pretrained(tmp_path / "vlm")

    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(ValueError, match="cannot be loaded .*num2words"):
        HfBackbone.from_pretrained(tmp_path / "vlm")


def test_rubbish_is_refused() -> None:
    backbone = tiny("smolvlm")
    images = some_images(2)
    mask = everywhere(images)
    with pytest.raises(ValueError, match=r"images torch.float32 .*must be uint8 \[B, V, T, 3, S, S\]"):
        backbone(images.float(), mask, ["a", "b"])
    with pytest.raises(ValueError, match=r"image_mask torch.bool \[2, 2\]: must be bool \[2, 2, 1\]"):
        backbone(images, mask[..., 0], ["a", "b"])
    with pytest.raises(ValueError, match="1 instructions for 2 samples"):
        backbone(images, mask, ["a"])
    with pytest.raises(ValueError, match="instruction 'push <image>': holds <image>"):
        backbone(images, mask, ["push <image>", ""])


def test_an_image_is_one_tile() -> None:
    backbone = tiny("smolvlm")
    images = some_images(1, cameras=1, side=48)
    assert int(backbone(images, everywhere(images), ["go"]).is_image.sum()) == TOKENS_PER_IMAGE
