"""Tiny world-action policies."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from tests.builders.policies import shaken
from vla.checkpoint import build_policy
from vla.models.config import PolicyConfig, WorldConfig
from vla.models.world_action import WorldActionPolicy
from vla.recipes import DEBUG

WORLD = WorldConfig(future_s=0.3, steps=6, widths=(16, 16), channels=8)


def tiny_world_config(**options: Any) -> PolicyConfig:
    """The debug recipe's sizes; `options` of the policy, and of `WorldConfig` where they are its fields."""
    names = {field.name for field in dataclasses.fields(WorldConfig)}
    world = dataclasses.replace(WORLD, **{name: options.pop(name) for name in names & {*options}})
    dit = dataclasses.replace(DEBUG.dit, layers=2, future_layer=-1)
    config = dataclasses.replace(DEBUG, head="world_action", future_tokens=0, dit=dit, world=world)
    return dataclasses.replace(config, **options)


def tiny_world(seed: int = 0, **options: Any) -> WorldActionPolicy:
    """In evaluation mode, its autoencoder settled, with weights that make everything matter."""
    torch.manual_seed(seed)
    policy = build_policy(tiny_world_config(**options))
    assert isinstance(policy, WorldActionPolicy)
    shaken(policy, seed)
    if policy.pictures is not None:
        policy.pictures.settle()
    return policy.eval()
