"""The latent action model: every exchangeable part, masks, round trips, and a motion that it must learn to read."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from lapa.model.checkpoint import load_lam, model_hash, save_lam
from lapa.model.config import LamConfig, QuantiserConfig
from lapa.model.decoder import FrameDecoder
from lapa.model.encoder import WayIn
from lapa.model.kinds import CONDITIONS, POOLS, WAYS_IN
from lapa.model.lam import LatentActionModel
from lapa.model.pools import Pool
from lapa.pairs.batch import PairBatch
from lapa.pairs.pair import STABILISED
from lapa.recipes import DEBUG, RECIPES
from lapa.training import LamTraining, flow_loss, target_loss
from lapa.training_config import TrainingConfig
from tests.builders.lam import TINY_SMALL

PLAIN_PAIR = dataclasses.replace(DEBUG.pair, flow="none")
PLAIN = dataclasses.replace(DEBUG, input="both", pair=PLAIN_PAIR, flow_weight=0.0, temporal_depth=1)


def images(count: int = 4, size: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator), torch.rand(count, 3, size, size, generator=generator)


@pytest.mark.parametrize("way", ["both", "difference", "como", "change", "additive", "motion"])
@pytest.mark.parametrize(("pool", "tokens"), [("flatten", 3), ("conv", 4), ("queries", 2), ("keypoints", 2)])
@pytest.mark.parametrize(("condition", "position"), [("add", "learned"), ("cross", "peg"), ("prepend", "learned")])
def test_every_combination_encodes_and_decodes(way: str, pool: str, tokens: int, condition: str, position: str) -> None:
    tokens = 2 if (way, pool) == ("motion", "conv") else tokens  # each half makes a square number
    config = dataclasses.replace(
        PLAIN, input=way, pool=pool, tokens=tokens, condition=condition, position=position, stem="patch"
    )
    model = LatentActionModel(config).eval()
    first, second = images()
    encoding = model.encode(PairBatch(first, second))
    assert encoding.latent.shape == encoding.quantized.shape == (4, tokens, 8)
    assert encoding.codes is not None
    assert encoding.codes.shape == (4, tokens)
    decoded = model.decode(first, encoding.quantized)
    assert decoded.shape == first.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1


@pytest.mark.parametrize("way", ["difference", "change"])
def test_nothing_happened_is_the_same_latent_whatever_the_scene(way: str) -> None:
    config = dataclasses.replace(PLAIN, input=way)
    model = LatentActionModel(config).eval()
    first, other = images()
    still, still_too = model.encode(PairBatch(first, first)).latent, model.encode(PairBatch(other, other)).latent
    moved = model.encode(PairBatch(first, other)).latent
    # `difference` subtracts after causal attention over time, which sees an equal pair as two equal tokens
    assert (still - still_too).abs().max() <= (1e-5 if way == "change" else (moved - still).abs().max())


def test_additive_steps_add_up_and_run_backwards() -> None:
    model = LatentActionModel(dataclasses.replace(PLAIN, input="additive")).eval()
    a, b = images()
    c, _ = images(seed=1)
    steps = model.encode(PairBatch(a, b)).latent + model.encode(PairBatch(b, c)).latent
    torch.testing.assert_close(steps, model.encode(PairBatch(a, c)).latent, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        model.encode(PairBatch(b, a)).latent, -model.encode(PairBatch(a, b)).latent, atol=1e-6, rtol=1e-5
    )


def test_como_never_sees_the_future_frame_alone() -> None:
    """Adding the same constant to both frames' features leaves the difference: with zeroed first-frame tokens nothing of the
    scene remains."""
    model = LatentActionModel(dataclasses.replace(PLAIN, input="como", temporal_depth=0)).eval()
    first, second = images()
    model.encoder.branches[0].stem = torch.nn.Sequential(
        torch.nn.PixelUnshuffle(8), torch.nn.Flatten(2), Transposed(), torch.nn.Linear(192, 32)
    )
    base = model.encode(PairBatch(first, second)).latent
    shifted = model.encode(PairBatch(first + 0.1, second + 0.1)).latent
    torch.testing.assert_close(base, shifted, atol=1e-4, rtol=1e-4)


class Transposed(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def test_what_a_stabilised_frame_does_not_show_changes_nothing() -> None:
    model = LatentActionModel(dataclasses.replace(DEBUG, pair=PLAIN_PAIR, flow_weight=0.0)).eval()
    first, second = images()
    valid = torch.ones(4, 1, 32, 32)
    valid[..., :7] = 0
    noise = first + (1 - valid) * torch.rand_like(first)
    noise_second = second + (1 - valid) * torch.rand_like(second)
    a, b = model.encode(PairBatch(first, second, valid)), model.encode(PairBatch(noise, noise_second, valid))
    torch.testing.assert_close(a.latent, b.latent)
    torch.testing.assert_close(
        model.decode(first, a.quantized, valid) * valid, model.decode(noise, b.quantized, valid) * valid
    )
    assert target_loss(first, noise, valid, model.config) == 0
    assert flow_loss(torch.ones(4, 2, 8, 8), torch.zeros(4, 2, 8, 8), torch.zeros(4, 1, 32, 32)) == 0


def test_flow_is_computed_where_the_caller_has_none() -> None:
    from lapa.pairs.flow import batch_flow

    model = LatentActionModel(DEBUG).eval()
    first, second = images()
    a = model.encode(PairBatch(first, second)).latent
    b = model.encode(PairBatch(first, second, flow=batch_flow(first, second))).latent
    torch.testing.assert_close(a, b)
    assert (a - model.encode(PairBatch(first, second, flow=torch.zeros(4, 2, 8, 8))).latent).abs().max() > 1e-3


def test_flow_that_is_a_target_alone_is_no_input() -> None:
    config = dataclasses.replace(DEBUG, pair=dataclasses.replace(DEBUG.pair, flow="target"))
    module = LamTraining(LatentActionModel(config), TrainingConfig(steps=1))
    pairs = PairBatch(*images(), torch.ones(4, 1, 32, 32), torch.randn(4, 2, 8, 8))
    assert module.losses(pairs)[0]["flow"] > 0
    bare = PairBatch(pairs.first, pairs.second, pairs.valid)
    assert torch.equal(module.model.eval().encode(pairs).latent, module.model.encode(bare).latent)


def test_flow_measures_a_known_shift() -> None:
    from lapa.pairs.flow import pair_flow

    generator = np.random.default_rng(0)
    import cv2

    world = cv2.resize((generator.random((12, 14, 3)) * 255).astype(np.uint8), (72, 64), interpolation=cv2.INTER_CUBIC)
    flow = pair_flow(np.ascontiguousarray(world[:, 4:68]), np.ascontiguousarray(world[:, :64]))
    assert flow.shape == (2, 16, 16)
    assert np.median(flow[0][2:-2, 3:-3]) == pytest.approx(4 / 64 * 100, rel=0.1)
    assert abs(np.median(flow[1][2:-2, 3:-3])) < 0.3


def test_saved_and_loaded_it_is_the_same_model(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = LatentActionModel(DEBUG)
    first, second = images()
    model.train().encode(PairBatch(first, second))  # the first batch starts the codebook
    save_lam(model.eval(), tmp_path)
    again = load_lam(tmp_path)
    assert again.config == model.config
    torch.testing.assert_close(
        again.encode(PairBatch(first, second)).latent, model.encode(PairBatch(first, second)).latent, atol=0, rtol=0
    )
    before = model_hash(tmp_path)
    save_lam(again, tmp_path)
    assert model_hash(tmp_path) == before
    with pytest.raises(ValueError, match="holds no latent action model"):
        load_lam(tmp_path / "elsewhere")


def test_a_model_of_other_stabilised_images_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def kept(compensates: bool, **changes: object) -> None:
        pair = dataclasses.replace(PLAIN_PAIR, camera_compensation=compensates)
        save_lam(LatentActionModel(dataclasses.replace(PLAIN, pair=pair)), tmp_path)
        record = json.loads((tmp_path / "config.json").read_text())
        assert record.get("stabilised") == (STABILISED if compensates else None)
        record.pop("stabilised", None)
        (tmp_path / "config.json").write_text(json.dumps(record | changes))

    kept(False)
    assert not load_lam(tmp_path).config.pair.camera_compensation
    kept(True, stabilised=STABILISED)
    assert load_lam(tmp_path).config.pair.camera_compensation
    for changes, was in (({}, "no number"), ({"stabilised": 1}, "number 1")):
        kept(True, **changes)
        with pytest.raises(ValueError, match=f"has {was} .* by number {STABILISED}.* train it again"):
            load_lam(tmp_path)


def test_random_codes_come_from_the_codebook() -> None:
    for kind in ("vq", "nsvq", "fsq", "rvq", "none"):
        config = dataclasses.replace(DEBUG, quantiser=QuantiserConfig(kind=kind, codebook_size=9))  # type: ignore[arg-type]
        model = LatentActionModel(config)
        model.train().encode(PairBatch(*images(64)))  # the first batch starts the codebook
        model.eval()
        drawn = model.random_codes(64, torch.Generator().manual_seed(0))
        assert drawn.shape == (64, 2, 8)
        assert len(drawn.flatten(0, 1).unique(dim=0)) > 3
        if kind in {"vq", "nsvq"}:
            torch.testing.assert_close(model.quantiser(drawn).quantized, drawn, atol=1e-4, rtol=1e-4)


class Halves(WayIn):
    """The mean of both frames."""

    frames = 1

    def forward(self, first: Tensor, second: Tensor, flow: Tensor | None) -> Tensor:
        return self.pool(self.blocks(self.stem((first + second) / 2)[:, None])[:, 0])


class MeanPool(Pool):
    def __init__(self, config: LamConfig) -> None:
        super().__init__(config)
        self.out = torch.nn.Linear(config.dim, config.latent_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mean(1)).unflatten(1, self.shape)


class Ignored(FrameDecoder):
    """The latent changes nothing."""

    def enter_latent(self, x: Tensor, latent: Tensor, text: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        return x, None


def test_a_part_of_ones_own_is_one_class_and_a_name() -> None:
    WAYS_IN.register("halves", Halves)
    POOLS.register("mean", MeanPool)
    CONDITIONS.register("ignored", Ignored)
    model = LatentActionModel(dataclasses.replace(PLAIN, input="halves", pool="mean", condition="ignored")).eval()
    first, second = images()
    latent = model.encode(PairBatch(first, second)).latent
    torch.testing.assert_close(model.encode(PairBatch(second, first)).latent, latent)
    assert torch.equal(model.decode(first, latent), model.decode(first, -latent))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair": {"image_size": 30}}, "image_size 30"),
        ({"pair": {"flow": "none"}}, "flow_weight 1.0 with pair.flow none"),
        ({"flow_weight": 0.0, "pair": {"flow": "target"}, "input": "both"}, "set pair.flow none"),
        ({"pair": {"gap_s": ()}}, "gap_s"),
        ({"tokens": 3, "pool": "conv"}, "pool 'conv'"),
        ({"target": "some/model"}, "optical flow needs pixels"),
        ({"target": "some/model", "flow_weight": 0.0, "pair": {"flow": "none"}}, "it needs pixels"),
        ({"stage": 2}, "stage 2 with input 'motion': .* use recipe univla"),
        ({"stage": 2, "text_model": "some/text"}, "stage 2 with text_model 'some/text'"),
        ({"input": "task_tokens"}, "input 'task_tokens' with target 'pixels'"),
        ({"condition": "task_tokens"}, "condition 'task_tokens'.* set target"),
        ({"tokens": 1}, "input 'motion' with tokens 1"),
        ({"quantised_share": 0.0}, "quantised_share"),
        ({"input": "moton"}, "input 'moton': .* Did you mean 'motion'"),
        ({"pool": "query"}, "pool 'query': choose one of flatten"),
        ({"condition": "film"}, "condition 'film'"),
    ],
)
def test_a_wrong_configuration_names_the_field(change: dict[str, object], message: str) -> None:
    values = dataclasses.asdict(DEBUG)
    values |= change | {"pair": values["pair"] | change.get("pair", {})}  # type: ignore[operator]
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        LatentActionModel(LamConfig.from_dict(values))  # what a part needs is said by the part


def test_a_configuration_of_before_pairs_were_a_part_of_it_still_loads() -> None:
    for config in (RECIPES[name].model for name in ("small", "groot", "debug")):
        flat = dataclasses.asdict(config)
        pair = flat.pop("pair")
        flat |= {name: pair[name] for name in ("image_size", "gap_s", "extract_gap_s", "camera_compensation")}
        flat["flow_input"] = config.sees_flow
        assert LamConfig.from_dict(json.loads(json.dumps(flat))) == config
    for config in (recipe.model for recipe in RECIPES.values()):
        assert LamConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    # flow_input meant nothing to a model that does not look at changes
    ignored = dict(flat, input="both", flow_input=True)
    assert LamConfig.from_dict(ignored).pair.flow == "target"


def test_groots_recipe_has_its_published_size() -> None:
    with torch.device("meta"):
        groot = LatentActionModel(RECIPES["groot"].model)
    assert (groot.config.tokens, groot.config.latent_dim) == (16, 32)


def squares(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A bright square that moves by (dx, dy) over a random background: images, and the motion."""
    background = torch.nn.functional.interpolate(
        torch.rand(count, 3, 4, 4, generator=generator), size=(32, 32), mode="bilinear"
    )
    start = torch.randint(8, 16, (count, 2), generator=generator)
    move = torch.randint(-5, 6, (count, 2), generator=generator)
    first, second = 0.5 * background, 0.5 * background.clone()
    first, second = first.clone(), second.clone()
    for k in range(count):
        (y, x), (dy, dx) = start[k].tolist(), move[k].tolist()
        first[k, :, y : y + 8, x : x + 8] = 0.95
        second[k, :, y + dy : y + dy + 8, x + dx : x + dx + 8] = 0.95
    return first, second, move.float()


def probe_r2(latent: Tensor, move: Tensor) -> float:
    half = len(latent) // 2
    x = torch.cat([latent.flatten(1), torch.ones(len(latent), 1)], 1).double()
    y = move.double()
    weight = torch.linalg.solve(x[:half].T @ x[:half] + 1e-2 * torch.eye(x.shape[1]), x[:half].T @ y[:half])
    error = (x[half:] @ weight - y[half:]).pow(2).sum(0)
    return float((1 - error / (y[half:] - y[half:].mean(0)).pow(2).sum(0)).mean())


@pytest.mark.parametrize(
    ("config", "reached", "gained"),
    [(dataclasses.replace(DEBUG, quantised_share=0.25), 0.75, 0.05), (TINY_SMALL, 0.85, 0.5)],
    ids=["debug", "small"],
)
def test_training_makes_a_known_motion_linear_in_the_latent(config: LamConfig, reached: float, gained: float) -> None:
    """Of images of a square that moves over random backgrounds, a short training without labels makes the motion readable
    by a linear probe, and better so than the same network untrained."""
    from lapa.pairs.flow import batch_flow

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = LatentActionModel(config)
    first, second, move = squares(768, generator)
    flow = batch_flow(first, second)

    def score() -> float:
        model.eval()
        seen = flow[512:] if config.sees_flow else None
        with torch.no_grad():
            return probe_r2(model.encode(PairBatch(first[512:], second[512:], flow=seen)).latent, move[512:])

    untrained = score()
    module = LamTraining(model, TrainingConfig(steps=1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(60):
        k = torch.randint(512, (64,), generator=generator)
        parts, _, _ = module.losses(PairBatch(first[k], second[k], flow=flow[k]))
        optimiser.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        optimiser.step()
    trained = score()
    assert trained > reached
    assert trained > untrained + gained
