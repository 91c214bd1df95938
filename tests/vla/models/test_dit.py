"""The DiT: attention and blocks against naive loops, padding that changes nothing, draws side by side, published sizes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla.models.config import DitConfig, PolicyConfig
from vla.models.dit import AdaLayerNorm, Attention, Dit, VisionLanguageBlocks
from vla.models.embodiment_layers import EmbodimentLayers
from vla.policy import ContextTokens
from vla.recipes import N1_5, N1_6

CONFIG = DitConfig(layers=4, heads=2, head_dim=8, output_dim=12, dropout=0.0)
CONTEXT = 10


def shaken(module: nn.Module, seed: int = 0) -> None:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)


def dit(**options) -> Dit:
    made = Dit(dataclasses.replace(CONFIG, **options), CONTEXT).eval()
    shaken(made)
    return made


def context(batch: int = 3, count: int = 7, *, seed: int = 1) -> ContextTokens:
    """Text first, then the tokens of an image; all are there."""
    features = torch.randn(batch, count, CONTEXT, generator=torch.Generator().manual_seed(seed))
    is_image = torch.zeros(batch, count, dtype=torch.bool)
    is_image[:, count // 2 :] = True
    return ContextTokens(features, torch.ones(batch, count, dtype=torch.bool), is_image)


def sequence(batch: int = 3, length: int = 6, *, seed: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(batch, length, CONFIG.width, generator=torch.Generator().manual_seed(seed))
    return x, torch.ones(batch, length, dtype=torch.bool), torch.arange(batch) * 137 % 1000


def slow_attention(layer: Attention, x: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """Query by query, head by head, key by key."""
    width = layer.q.out_features // layer.heads
    rows = []
    for b in range(len(x)):
        for query in layer.q(x[b]):
            heads = []
            for h in range(layer.heads):
                part = slice(h * width, (h + 1) * width)
                seen = [n for n in range(keys.shape[1]) if mask is None or mask[b, n]]
                scores = [float(query[part] @ layer.k(keys[b, n])[part]) / math.sqrt(width) for n in seen]
                total = sum(math.exp(score) for score in scores)
                value = torch.zeros(width)
                for n, score in zip(seen, scores, strict=True):
                    value = value + math.exp(score) / total * layer.v(keys[b, n])[part]
                heads.append(value)
            rows.append(layer.out(torch.cat(heads)))
    return torch.stack(rows).view(len(x), x.shape[1], -1)


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("crossing", [False, True])
def test_attention_is_that_of_slow_loops(crossing: bool, masked: bool) -> None:
    layer = Attention(12, heads=3, head_dim=4, key_dim=10 if crossing else None)
    shaken(layer)
    x = torch.randn(2, 5, 12)
    keys = torch.randn(2, 6, 10) if crossing else None
    mask = torch.rand(2, 6 if crossing else 5) < 0.5 if masked else None
    if mask is not None:
        mask[0], mask[1, 0] = False, True  # one sample that sees nothing
    slow = slow_attention(layer, x, x if keys is None else keys, mask)
    torch.testing.assert_close(layer(x, keys, mask), slow, atol=1e-5, rtol=1e-5)
    if mask is not None:
        torch.testing.assert_close(slow[0], layer.out.bias.expand(5, -1))


@torch.no_grad()
def test_the_adaptive_norm_scales_and_shifts_each_sample_by_its_condition() -> None:
    norm = AdaLayerNorm(6)
    shaken(norm)
    x, condition = torch.randn(3, 4, 6) * 5 + 2, torch.randn(3, 6)
    found = norm(x, condition)
    for b in range(3):
        scale, shift = (
            norm.condition.weight @ (condition[b] * torch.sigmoid(condition[b])) + norm.condition.bias
        ).chunk(2)
        for row in range(4):
            centred = x[b, row] - x[b, row].mean()
            normal = centred / torch.sqrt((centred**2).mean() + 1e-5)
            torch.testing.assert_close(found[b, row], normal * (1 + scale) + shift, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_whole_transformer_is_its_formula() -> None:
    model, tokens, (x, mask, time) = dit(), context(2), sequence(2)
    tokens.mask[0, 2:4] = False
    mask[1, 4:] = False
    found, _ = model(x, mask, tokens, time)
    angles = time[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(128) / 127)
    condition = model.time(torch.cat([angles.cos(), angles.sin()], -1))
    h = x
    for number, block in enumerate(model.blocks):
        normed = block.norm(h, condition)
        crossing = number in (0, 2)
        keys, seen = (tokens.features, tokens.mask) if crossing else (normed, mask)
        h = h + slow_attention(block.attention, normed, keys, seen)
        inner = F.gelu(F.linear(F.layer_norm(h, (16,)), block.mlp[0].weight, block.mlp[0].bias), approximate="tanh")
        h = h + F.linear(inner, block.mlp[3].weight, block.mlp[3].bias)
    shift, scale = model.out_condition(F.silu(condition))[:, None].chunk(2, -1)
    slow = model.out(F.layer_norm(h, (16,), eps=1e-6) * (1 + scale) + shift)
    torch.testing.assert_close(found, slow, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_in_training_what_attention_gives_is_dropped_twice_and_an_mlp_once() -> None:
    model, (x, mask, time) = dit(dropout=0.2).train(), sequence(64)
    blocks = VisionLanguageBlocks(CONTEXT, layers=2, heads=2, dropout=0.2).train()
    attended: list[Tensor] = []
    for layer in (*(block.dropout for block in model.blocks), blocks.dropout):
        layer.register_forward_hook(lambda _, __, output: attended.append(output))
    through: list[Tensor] = []
    model.blocks[0].mlp.register_forward_hook(lambda _, __, output: through.append(output))
    model(x, mask, blocks(context(64)), time)
    dropped = [float((output == 0).float().mean()) for output in (*attended, *through)]
    assert dropped == pytest.approx([1 - 0.8**2] * 6 + [0.2], abs=0.03)


@torch.no_grad()
@pytest.mark.parametrize("cross", ["all", "alternate"])
def test_padded_context_changes_nothing(cross: str) -> None:
    model, tokens, (x, mask, time) = dit(cross=cross), context(), sequence()
    alone, _ = model(x, mask, tokens, time)
    rubbish = context(count=4, seed=9)
    padded = ContextTokens(
        torch.cat([tokens.features, 1e3 * rubbish.features], 1),
        torch.cat([tokens.mask, ~rubbish.mask], 1),
        torch.cat([tokens.is_image, rubbish.is_image], 1),
    )
    torch.testing.assert_close(model(x, mask, padded, time)[0], alone, atol=1e-5, rtol=1e-5)
    seen = dataclasses.replace(padded, mask=torch.ones_like(padded.mask))
    assert (model(x, mask, seen, time)[0] - alone).abs().max() > 1e-2


@torch.no_grad()
def test_padded_places_of_the_sequence_change_nothing() -> None:
    model, tokens, (x, mask, time) = dit(), context(), sequence()
    alone, _ = model(x, mask, tokens, time)
    longer = torch.cat([1e3 * torch.randn(3, 2, CONFIG.width), x, 1e3 * torch.randn(3, 3, CONFIG.width)], 1)
    there = torch.cat([torch.zeros(3, 2).bool(), mask, torch.zeros(3, 3).bool()], 1)
    torch.testing.assert_close(model(longer, there, tokens, time)[0][:, 2:8], alone, atol=1e-5, rtol=1e-5)
    assert (model(longer, torch.ones_like(there), tokens, time)[0][:, 2:8] - alone).abs().max() > 1e-2


@pytest.mark.parametrize("cross", ["all", "alternate"])
def test_a_context_or_sequence_of_which_nothing_is_there_gives_finite_numbers_and_gradients(cross: str) -> None:
    model, tokens, (x, mask, time) = dit(cross=cross).train(), context(), sequence()
    tokens.mask[0] = False
    tokens.mask[1] &= ~tokens.is_image[1]
    mask[2] = False
    output, _ = model(x.requires_grad_(), mask, tokens, time)
    output.pow(2).sum().backward()
    assert output.isfinite().all() and x.grad is not None and x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    other = dataclasses.replace(tokens, features=tokens.features.flip(2))
    with torch.no_grad():
        changed = (model(x, mask, other, time)[0] - output).abs().flatten(1).amax(1)
    assert changed[0] == 0  # who sees nothing does not look
    assert changed[2] > 1e-3  # but whose sequence is not there, still sees


@torch.no_grad()
@pytest.mark.parametrize("cross", ["all", "alternate"])
def test_draws_side_by_side_are_separate_runs(cross: str) -> None:
    draws = 3
    model, tokens = dit(cross=cross), context(2)
    tokens.mask[1, 5:] = False
    x, mask, time = sequence(2 * draws)
    mask[::2, 5:] = False
    together, states = model(x, mask, tokens, time, future=slice(1, 3))
    assert states is not None
    for k in range(draws):
        mine = torch.arange(2) * draws + k
        output, state = model(x[mine], mask[mine], tokens, time[mine], future=slice(1, 3))
        torch.testing.assert_close(together[mine], output, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(states[mine], state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("layers", "text", "image"), [(2, True, False), (4, True, True)])
def test_alternate_cross_attention_sees_text_and_images_in_turn(layers: int, text: bool, image: bool) -> None:
    model, tokens, (x, mask, time) = dit(cross="alternate", layers=layers), context(), sequence()
    features = tokens.features.clone().requires_grad_()
    model(x, mask, dataclasses.replace(tokens, features=features), time)[0].sum().backward()
    assert features.grad is not None
    assert bool(features.grad[~tokens.is_image].abs().sum() > 0) == text
    assert bool(features.grad[tokens.is_image].abs().sum() > 0) == image


def test_each_cross_attention_of_the_alternating_kind_has_its_own_turn() -> None:
    model = dit(cross="alternate", layers=8)
    tokens = context()
    tokens.mask[:, 0] = False
    for number, wants_image in ((0, False), (2, True), (4, False), (6, True)):
        seen = model._context_mask(tokens, number)
        assert torch.equal(seen, tokens.mask & (tokens.is_image == wants_image))
    assert dit()._context_mask(tokens, 2) is tokens.mask


@torch.no_grad()
def test_future_states_are_read_behind_the_layer_that_was_asked_for() -> None:
    tokens, (x, mask, time) = context(), sequence()
    behind: list[Tensor] = []
    model = dit()
    for block in model.blocks:
        block.mlp_norm.register_forward_pre_hook(lambda _, inputs: behind.append(inputs[0]))
    output, last = model(x, mask, tokens, time, future=slice(1, 4))
    for layer in (1, 2, 3):
        reading = dit(future_layer=layer)
        same, states = reading(x, mask, tokens, time, future=slice(1, 4))
        block = reading.blocks[layer - 1]
        h = behind[layer - 1]
        torch.testing.assert_close(states, (h + block.mlp(block.mlp_norm(h)))[:, 1:4])
        assert torch.equal(same, output)  # where it is read changes no action
        assert not torch.equal(states, last)
    assert torch.equal(dit(future_layer=4)(x, mask, tokens, time, future=slice(1, 4))[1], last)
    assert dit()(x, mask, tokens, time)[1] is None


@torch.no_grad()
def test_time_and_context_matter_and_samples_do_not_mix() -> None:
    model, tokens, (x, mask, time) = dit(), context(), sequence()
    output, _ = model(x, mask, tokens, time)
    later, _ = model(x, mask, tokens, time + torch.tensor([0, 300, 0]))
    assert torch.equal(later[[0, 2]], output[[0, 2]])
    assert (later[1] - output[1]).abs().max() > 1e-2
    other = tokens.features.clone()
    other[2] += 1
    seen, _ = model(x, mask, dataclasses.replace(tokens, features=other), time)
    assert torch.equal(seen[:2], output[:2])
    assert (seen[2] - output[2]).abs().max() > 1e-2


@torch.no_grad()
def test_self_attention_over_vision_language_tokens_does_not_see_padding() -> None:
    blocks = VisionLanguageBlocks(CONTEXT, layers=2, heads=2).eval()
    shaken(blocks)
    tokens = context()
    short = ContextTokens(tokens.features[:, :5], tokens.mask[:, :5], tokens.is_image[:, :5])
    tokens.mask[:, 5:] = False
    found = blocks(dataclasses.replace(tokens, features=tokens.features * (1 + 99 * ~tokens.mask[..., None])))
    torch.testing.assert_close(found.features[:, :5], blocks(short).features, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.mask, tokens.mask) and torch.equal(found.is_image, tokens.is_image)
    with pytest.raises(ValueError, match="3 heads do not divide"):
        VisionLanguageBlocks(CONTEXT, layers=1, heads=3)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def head_sizes(config: PolicyConfig, context_dim: int) -> dict[str, int]:
    """Parameters of what stands behind a vision-language model of this width, without making any."""
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {
            "dit": Dit(config.dit, context_dim),
            "embodiments": EmbodimentLayers(
                config.slots,
                state_dim=config.max_state_dim,
                action_dim=config.max_action_dim,
                hidden=config.hidden,
                width=config.dit.width,
                output_dim=config.dit.output_dim,
            ),
            "norm": nn.LayerNorm(context_dim),
        }
        if config.vlm.self_attention_layers:
            parts["attention"] = VisionLanguageBlocks(context_dim, config.vlm.self_attention_layers, context_dim // 64)
    sizes = {name: count(part) for name, part in parts.items()}
    sizes["learned"] = (config.horizon + config.future_tokens) * config.dit.width
    return sizes


def test_a_head_of_n1_5s_size_has_as_many_parameters_as_nvidias() -> None:
    sizes = head_sizes(N1_5, 2048)
    assert sizes["dit"] == 550_386_688  # both as NVIDIA's code prints them
    assert sizes["attention"] == 201_433_088
    slots, width, hidden = 32, 1536, 1024
    encoders = 64 * hidden + hidden + hidden * width + width  # state
    encoders += 32 * width + width + 2 * width * width + width + width * width + width  # action
    assert sizes["embodiments"] == slots * (encoders + 1024 * hidden + hidden + hidden * 32 + 32)
    # NVIDIA's table of positions has 1024 rows; ours has one for each of the 16 steps of a chunk
    assert sum(sizes.values()) == 1_067_257_856


def test_a_dit_of_n1_6s_size_has_as_many_parameters_as_nvidias() -> None:
    assert head_sizes(N1_6, 2048)["dit"] == 1_091_722_240


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": 0}, r"dit.layers 0: must be at least 1"),
        ({"dropout": 1.0}, r"dit.dropout 1.0"),
        ({"future_layer": 5}, r"dit.future_layer 5: must be -1 or within 1 to 4"),
        ({"future_layer": 0}, r"dit.future_layer 0"),
    ],
)
def test_settings_without_sense_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(CONFIG, **options)
