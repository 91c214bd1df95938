"""Training of the latent action model: what its losses reach, what it tells, what it refuses."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flare.ranks import whole_batch
from lapa.model.config import LamConfig, QuantiserConfig
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch
from lapa.recipes import DEBUG
from lapa.training import LamTraining, flow_loss
from lapa.training_config import TrainingConfig

PLAIN = dataclasses.replace(DEBUG, pair=dataclasses.replace(DEBUG.pair, flow="none"), flow_weight=0.0)


def module_of(config: LamConfig, **changes: object) -> LamTraining:
    torch.manual_seed(0)
    return LamTraining(LatentActionModel(config), TrainingConfig(steps=1), **changes)  # type: ignore[arg-type]


def stepping(module: LamTraining) -> LamTraining:
    """In training mode, without a trainer to log to."""
    module.log = module.log_dict = lambda *args, **keywords: None  # type: ignore[method-assign, assignment]
    return module.train()


def batch_of(count: int = 8, seed: int = 0) -> PairBatch:
    first, second = torch.rand(2, count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return PairBatch(first, second)


@pytest.mark.parametrize("kind", ["vq", "nsvq", "kl", "none"])
def test_the_target_trains_the_encoder_whatever_the_quantiser(kind: str) -> None:
    config = dataclasses.replace(PLAIN, quantiser=QuantiserConfig(kind=kind, codebook_size=4), residual=False)
    module = module_of(config).train()
    module.losses(batch_of(32))[0]["target"].backward()
    for name, parameter in module.model.encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("codes", "collapsed"), [([0] * 40, True), ([0, 1] * 20, True), ([0, 1, 1, 0, 0, 0, 1, 1] * 5, False)]
)
def test_the_collapse_alarm_is_that_of_the_report(codes: list[int], collapsed: bool) -> None:
    """Of 8 codes one at least has a perplexity of 1, which is more than a tenth of 8: no share alone would raise it. Two
    constants are no two codes (L9)."""
    module = stepping(module_of(dataclasses.replace(PLAIN, quantiser=QuantiserConfig(codebook_size=8))))
    module._trainer = SimpleNamespace(sanity_checking=False)  # type: ignore[assignment]
    module._latents, module._codes = [torch.randn(40, 4)], [torch.tensor(codes).reshape(-1, 2)]
    module.on_validation_epoch_end()
    assert module.collapsed == collapsed


def test_codes_alone_that_leave_the_encoder_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="quantised_share 1 without code_gradient"):
        module_of(dataclasses.replace(PLAIN, quantised_share=1.0))
    module_of(dataclasses.replace(PLAIN, quantised_share=1.0, code_gradient=True))
    module_of(dataclasses.replace(PLAIN, quantised_share=1.0, quantiser=QuantiserConfig("kl")))


def test_known_actions_are_in_the_loss_each_at_its_own_scale() -> None:
    scale = torch.tensor([2.0, 0.1])
    module = stepping(module_of(dataclasses.replace(PLAIN, label_dim=2), label_scale=scale))
    batch = batch_of(6)
    label = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)) * scale
    label[:4] = torch.nan  # unknown, or withheld
    head = module.model.action_head
    assert head is not None
    latent = module.model.encode(batch).latent
    wanted = (head(latent.flatten(1))[4:] - label[4:] / scale).pow(2).mean()
    with whole_batch(0, 0):
        parts = module.losses(dataclasses.replace(batch, label=label))[0]
    torch.testing.assert_close(parts["label"], wanted)
    loss = module.training_step(dataclasses.replace(batch, label=label), 0)
    torch.testing.assert_close(loss, torch.stack(list(parts.values())).sum())
    torch.testing.assert_close(loss - module.training_step(batch, 0), wanted, atol=1e-4, rtol=1e-4)
    parts["label"].backward()
    assert head.weight.grad is not None and head.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in module.model.encoder.parameters()), "labels shape the encoder as well"
    unknown = torch.full((6, 2), torch.nan)
    assert module.losses(dataclasses.replace(batch, label=unknown))[0]["label"] == 0


def test_flow_and_the_price_of_a_code_are_in_the_loss() -> None:
    pair = dataclasses.replace(DEBUG.pair, flow="target")
    quantiser = QuantiserConfig(kind="kl")
    flow = torch.randn(8, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for weight in (0.1, 0.2):
        module = module_of(dataclasses.replace(DEBUG, pair=pair, flow_weight=weight, quantiser=quantiser)).eval()
        batch = dataclasses.replace(batch_of(8), flow=flow)
        parts, latent, _ = module.losses(batch)
        predicted = module.model.predict(batch.first, latent).flow
        torch.testing.assert_close(parts["flow"], weight * flow_loss(predicted, flow, None))
        module.train().losses(batch)[0]["quantiser"].backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
        found.append(parts["flow"].item())
    assert found[1] == pytest.approx(2 * found[0]) and found[0] > 0


def test_random_latents_are_drawn_like_those_of_training() -> None:
    module = stepping(module_of(dataclasses.replace(PLAIN, quantiser=QuantiserConfig(kind="none"))))
    batch = batch_of(32)
    with torch.no_grad():
        for _ in range(30):
            module.training_step(batch, 0)
        latent = module.model.encode(batch).latent
    left = 0.98**30  # of the mean 0 and deviation 1 that it began with
    mean, deviation = (1 - left) * latent.mean(0), left + (1 - left) * latent.std(0, unbiased=False)
    torch.testing.assert_close(module.model.latent_mean, mean)
    torch.testing.assert_close(module.model.latent_std, deviation)
    drawn = module.model.eval().random_codes(4096, torch.Generator().manual_seed(0))
    assert ((drawn.mean(0) - mean).abs() < 0.1 * deviation).all()
    torch.testing.assert_close(drawn.std(0), deviation, rtol=0.1, atol=0)


def test_flow_moves_with_the_images_that_it_was_measured_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that moves over black: wherever augmentation puts the block, there is its flow."""
    first, flow = torch.zeros(4, 3, 32, 32), torch.zeros(4, 2, 8, 8)
    for k, (y, x) in enumerate([(8, 8), (12, 16), (16, 8), (20, 20)]):
        first[k, :, y : y + 4, x : x + 4] = 1
        flow[k, :, y // 4, x // 4] = 6.0
    batch = PairBatch(first, first, first[:, :1].clone(), flow)
    for name, value in (("SHIFT", 1 / 8), ("CONTRAST", 0), ("BRIGHTNESS", 0)):
        monkeypatch.setattr(f"lapa.pairs.batch.{name}", value)
    shifts = set()
    for seed in range(8):
        seen = batch.augmented(np.random.default_rng(seed)).floats()
        images = torch.nn.functional.avg_pool2d(seen.first[:, :1], 4)
        torch.testing.assert_close(seen.flow, 6 * images.expand(-1, 2, -1, -1))
        torch.testing.assert_close(seen.valid, seen.first[:, :1])
        shifts.add(int(seen.first[0, 0].flatten().argmax()))
    assert len(shifts) > 4
