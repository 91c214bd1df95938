"""Features of a frozen vision-language model in training: computed once, and the same losses as looking each time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.builders.vlms import tiny_backbone
from tests.jobs.training.test_policy_data import CONFIG, members
from vla.checkpoint import build_policy
from vla.data.loader import cacheable, cached_features, collate
from vla.models.config import VlmConfig
from vla.models.dual_system import DualSystemPolicy
from vla.models.huggingface import HfBackbone


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    backbone = tiny_backbone(layer=2)
    vlm = VlmConfig(name="nobody/has-this", layer=2)
    return DualSystemPolicy(dataclasses.replace(CONFIG, vlm=vlm), backbone).eval()


def test_cached_features_give_the_losses_of_looking(policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = members()
    cache = cached_features(policy, made, tmp_path, cameras=2)
    assert len(cache) == sum(len(member.train) + len(member.held_out) for member in made)
    chosen = [(0, 3), (1, 2), (2, 5), (0, 4)]
    losses = []
    for look_up in (None, cache.tokens):
        batch = collate(made, chosen, policy.config, cameras=2, look_up=look_up)
        if look_up is not None:
            monkeypatch.setattr(HfBackbone, "forward", lambda *_: pytest.fail("the frozen model was asked again"))
        torch.manual_seed(1)
        with torch.no_grad():
            losses.append(policy.loss(batch).action_loss)
    torch.testing.assert_close(losses[0], losses[1], atol=2e-3, rtol=2e-3)  # kept as float16
    assert losses[0][0] != losses[0][3]


def test_a_filled_cache_computes_nothing_again(policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_features(policy, members(), tmp_path, cameras=2)
    monkeypatch.setattr(HfBackbone, "forward", lambda *_: pytest.fail("the frozen model was asked again"))
    told: list[tuple[int, int]] = []
    cached_features(policy, members(), tmp_path, cameras=2, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]


def test_only_what_is_frozen_is_cached(policy) -> None:
    assert cacheable(policy)
    assert not cacheable(build_policy(CONFIG))
    policy.backbone.set_trainable(vision=False, top_layers=1)
    assert not cacheable(policy)
    policy.backbone.set_trainable(vision=False, top_layers=0)
