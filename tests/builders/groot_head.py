"""Policies of the layout of a published action head, and how they differ from what NVIDIA's own code made of the same inputs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from vla.batch import PolicyBatch
from vla.models.config import PolicyConfig
from vla.models.dual_system import DualSystemPolicy
from vla.models.flow_matching import noised
from vla.policy import Backbone, ContextTokens
from vla.recipes import N1_5, N1_6, N1_7

LAYOUTS = {"n1_5": N1_5, "n1_6": N1_6, "n1_7": N1_7}


class Tokens(Backbone):
    """Stands for a vision-language model."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        raise AssertionError("the tests bring their own tokens")


def sized(recipe: PolicyConfig, config: dict[str, Any]) -> PolicyConfig:
    """The recipe's policy of a published head's sizes."""
    head = config.get("action_head_cfg", config)
    dit = head["diffusion_model_cfg"]
    return dataclasses.replace(
        recipe,
        horizon=head["action_horizon"],
        max_state_dim=head["max_state_dim"],
        max_action_dim=head["max_action_dim"],
        hidden=head["hidden_size"],
        future_tokens=head.get("num_target_vision_tokens", 0),
        dit=dataclasses.replace(
            recipe.dit,
            layers=dit["num_layers"],
            heads=dit["num_attention_heads"],
            head_dim=dit["attention_head_dim"],
            output_dim=dit["output_dim"],
            future_layer=-1,
        ),
        vlm=dataclasses.replace(
            recipe.vlm, self_attention_layers=head.get("vl_self_attention_cfg", {}).get("num_layers", 0)
        ),
    )


def of_layout(recipe: PolicyConfig, config: dict[str, Any]) -> DualSystemPolicy:
    torch.manual_seed(0)
    width = config.get("action_head_cfg", config)["backbone_embedding_dim"]
    return DualSystemPolicy(sized(recipe, config), backbone=Tokens(width)).eval()


def expected(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        told = {name: json.loads(text) for name, text in file.metadata().items() if text.startswith(("{", "["))}
        return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118


class Shown:
    """The peer's inputs, in the policy's precision."""

    def __init__(self, policy: DualSystemPolicy, theirs: dict[str, Tensor], robots: Sequence[str]) -> None:
        like = next(policy.parameters()).dtype
        given = {name: value.to(like) if value.is_floating_point() else value for name, value in theirs.items()}
        self.policy, self.given = policy, given
        self.rows = torch.tensor([policy.embodiment_id(robots[k % 2]) for k in range(4)])
        self.state = given["state"][:, 0]
        self.there = torch.ones_like(self.state, dtype=torch.bool)
        with torch.no_grad():
            seen = ContextTokens(given["features"], given["mask"], given["image_mask"])
            self.tokens = policy.projector(seen, torch.ones(4, 1, 1), [""] * 4)

    def sampled(self, dims: int) -> Tensor:
        """Actions of a robot of so many dimensions, from the peer's noise."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vla.models.dual_system.drawn", lambda *_: self.given["noise"])
            return self.policy.sample(self.tokens, self.state, self.there, self.rows, dims)

    @torch.no_grad()
    def loss(self) -> Tensor:
        """Of the training step at the peer's times, where its robot has an action."""
        given, size = self.given, len(self.state)
        batch = PolicyBatch(
            images=torch.zeros(size, 1, 1, 3, 8, 8, dtype=torch.uint8),
            image_mask=torch.ones(size, 1, 1, dtype=torch.bool),
            instruction=[""] * size,
            state=self.state,
            state_mask=self.there,
            action=given["action"] * given["action_mask"],
            action_mask=given["action_mask"].bool(),
            embodiment=self.rows,
            features=given["features"],
            feature_mask=given["mask"],
            feature_is_image=given["image_mask"],
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vla.models.dual_system.sample_start", lambda *_: (given["noise"], given["time"]))
            patch.setattr("vla.models.dual_system.shown_state", lambda mask, _: mask & ~given["hidden"][:, None])
            return self.policy.loss(batch).action_loss

    @torch.no_grad()
    def velocity(self) -> Tensor:
        """At the peer's times, of its noised chunks, some states hidden."""
        time, action = self.given["time"], self.given["action"]
        x, _ = noised(action, self.given["noise"], time)
        dims = torch.ones(4, action.shape[2], dtype=torch.bool)
        there = self.there & ~self.given["hidden"][:, None]
        return self.policy.velocity(self.tokens, x, dims, time, self.state, there, self.rows)[0]


def off(found: Tensor, theirs: Tensor) -> float:
    """Largest difference, of the spread of what is expected, from its smallest to its largest number."""
    return float((found - theirs).abs().max() / (theirs.max() - theirs.min()))
