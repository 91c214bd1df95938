"""Policies of the recipes, with small sizes."""

from __future__ import annotations

import atexit
import dataclasses
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.builders.vlms import SIDE, tiny_backbone
from tests.flare.test_vision import save
from vla.checkpoint import build_policy
from vla.models.config import PolicyConfig, SmallBackboneConfig
from vla.models.dual_system import DualSystemPolicy
from vla.policy import Policy
from vla.recipes import RECIPES

LAYERS = 6
"""That are read of the tiny vision-language model."""


def narrow(config: PolicyConfig) -> PolicyConfig:
    """The recipe with small sizes."""
    dit = dataclasses.replace(config.dit, layers=4, heads=2, head_dim=16, output_dim=32, future_layer=-1)
    vlm = dataclasses.replace(config.vlm, layer=LAYERS, project_to=min(config.vlm.project_to, 32))
    small = SmallBackboneConfig(dim=32, channels=(16, 16, 32), keypoints=8, words=256)
    return dataclasses.replace(config, image_size=SIDE, hidden=32, dit=dit, vlm=vlm, small=small)


@cache
def tiny_dino() -> str:
    """Folder of a tiny random DINOv2, until the process ends."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return save("dinov2", Path(folder.name))


def small_of(name: str, **changes: Any) -> Policy:
    """The recipe's policy with small sizes, and a tiny model in the place of the one by name."""
    config = narrow(dataclasses.replace(RECIPES[name].policy, **changes))
    if config.vision.name:
        config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, name=tiny_dino()))
    if not config.vlm.name:
        return build_policy(config)
    backbone = tiny_backbone(layer=LAYERS, depth=LAYERS + 1)
    return DualSystemPolicy(config, backbone)
