"""Features of a frozen vision-language model in training: computed once, and the same losses as looking each time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from corpora.mixture.spec import Sample
from flare.config import FlareConfig
from flare.targets import pool_grid
from jobs.training.policy_run import flare_target
from tests.builders.vlms import tiny_backbone
from tests.flare.test_vision import save
from tests.jobs.training.test_policy_data import CONFIG, members
from vla.checkpoint import build_policy
from vla.data.loader import cacheable, cached_features, collate, some_images
from vla.models.behaviour_cloning import BehaviourCloning
from vla.models.config import VisionConfig, VlmConfig
from vla.models.dual_system import DualSystemPolicy
from vla.models.huggingface import HfBackbone
from vla.training import PolicyTraining
from vla.training_config import PolicyTrainingConfig


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


class Shuffled:
    """Samples whose future follows another frame than they show."""

    def __init__(self, samples: Any, before: NDArray[np.uint8]) -> None:
        self.samples, self.before = samples, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self.samples, name)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.samples[index]
        return dataclasses.replace(sample, before=None if sample.future is None else self.before)


@pytest.fixture
def seeing(tmp_path: Path) -> BehaviourCloning:
    """A policy with a frozen vision model and future tokens, of two cameras and two moments."""
    vision = VisionConfig(name=save("dinov2", tmp_path / "dino"), components=6)
    config = dataclasses.replace(CONFIG, head="regression", feeding=True, future_tokens=2, vision=vision, image_size=8)
    torch.manual_seed(0)
    policy = build_policy(config).eval()
    assert isinstance(policy, BehaviourCloning) and policy.system2 is not None
    policy.system2.fit(lambda: some_images(members()[0]))
    return policy


def test_flare_on_kept_features_is_flare_on_looking(seeing: BehaviourCloning, tmp_path: Path) -> None:
    """What follows, what is seen now, and what a control follows from."""
    made = members()
    chosen = [(0, 3), (1, 2), (2, 5), (0, 4), (2, 7)]
    other = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    made[2] = dataclasses.replace(made[2], data=Shuffled(made[2].data, other))
    cache = cached_features(seeing, made, tmp_path / "cache", cameras=2, kept_future=True)
    batch = collate(made, chosen, seeing.config, cameras=2, look_up=cache.tokens, kept_future=True)
    training = PolicyTrainingConfig(steps=1, flare=True, alignment=FlareConfig(target="backbone", change=True))
    target = flare_target(seeing, training, 2, kept=True)
    module = PolicyTraining(seeing, training, target=target)

    def slowly(images: torch.Tensor) -> torch.Tensor:
        seen = seeing.system2(images[:, :, None], torch.ones(len(images), 2, 1, dtype=torch.bool), batch["instruction"])
        return torch.cat([pool_grid(one, 1) for one in seen.features.chunk(2, 1)], 1)

    there = batch["has_future"][:, None, None]
    before = batch["images"][:, :, -1].clone()
    for row in (2, 4):
        before[row, 0] = torch.from_numpy(other[0]).permute(2, 0, 1)
    _, found, has_future, mask = module._aligned(seeing.loss(batch), batch)
    with torch.no_grad():
        wanted = (slowly(batch["future"]) - slowly(before)) * there
    shown = mask[..., None].expand_as(found)
    assert has_future.tolist() == [True, False, True, False, True] and shown.any()
    torch.testing.assert_close(found[shown], wanted[shown], atol=5e-3, rtol=5e-3)  # kept as float16


def test_what_is_not_kept_is_no_target(seeing: BehaviourCloning) -> None:
    training = PolicyTrainingConfig(steps=1, flare=True, alignment=FlareConfig(target="backbone"))
    for policy, kept in ((seeing, False), (build_policy(dataclasses.replace(CONFIG, future_tokens=2)), True)):
        with pytest.raises(ValueError, match="no features of a frozen vision model are kept"):
            flare_target(policy, training, 2, kept=kept)
