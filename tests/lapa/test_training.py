"""Training of the latent action model: what its losses reach, what it tells, what it refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lapa.model.config import LamConfig
from lapa.model.lam import LatentActionModel
from lapa.model.quantiser_config import QuantiserConfig
from lapa.recipes import DEBUG
from lapa.training import LamTraining, TrainingConfig

PLAIN = dataclasses.replace(DEBUG, pair=dataclasses.replace(DEBUG.pair, flow="none"), flow_weight=0.0)


def module_of(config: LamConfig, **changes: object) -> LamTraining:
    torch.manual_seed(0)
    return LamTraining(LatentActionModel(config), TrainingConfig(steps=1), **changes)  # type: ignore[arg-type]


def batch_of(count: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    first, second = torch.rand(2, count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return {"first": first, "second": second}


@pytest.mark.parametrize("kind", ["vq", "nsvq", "kl", "none"])
def test_the_target_trains_the_encoder_whatever_the_quantiser(kind: str) -> None:
    config = dataclasses.replace(PLAIN, quantiser=QuantiserConfig(kind=kind, codebook_size=4), residual=False)
    module = module_of(config).train()
    module.losses(batch_of(32))[0]["target"].backward()
    for name, parameter in module.model.encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_codes_alone_that_leave_the_encoder_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="quantised_share 1 without code_gradient"):
        module_of(dataclasses.replace(PLAIN, quantised_share=1.0))
    module_of(dataclasses.replace(PLAIN, quantised_share=1.0, code_gradient=True))
    module_of(dataclasses.replace(PLAIN, quantised_share=1.0, quantiser=QuantiserConfig("kl")))
