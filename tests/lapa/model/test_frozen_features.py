"""A latent action model of a frozen vision model's features."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from flare.vision import FrozenVision
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch
from lapa.pairs.config import PairConfig
from lapa.recipes import DEBUG
from tests.flare.test_vision import save


def test_a_model_of_features_encodes_and_predicts_features(tmp_path: Path) -> None:
    vision = FrozenVision(save("dinov2", tmp_path))
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
    images = torch.randint(0, 256, (4, 3, 28, 28)).to(torch.uint8)
    first, second = vision(images), vision(images.flip(0))
    encoding = model.encode(PairBatch(first, second))
    assert encoding.latent.shape == (4, 2, 8)
    assert model.decode(first, encoding.quantized).shape == (4, 16, 16)
