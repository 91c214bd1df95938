"""FLARE with the target that learns from actions, as `giza pretrain` trains it beside the policy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from flare.config import ActionAwareConfig, FlareConfig
from jobs.commands import pretrain
from tests.builders.datasets import CAMERAS, ONE_TASK, lerobot_v3
from tests.jobs.training.test_policy_training import logged
from vla.policy import Policy
from vla.recipes import recipe_named
from vla.training import PolicyTraining

DEBUG = recipe_named("debug")
SIZES = ActionAwareConfig(dim=32, layers=1, reads=1, heads=2, head_dim=32, head_layers=1)
STEPS = 120


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> pretrain.PretrainConfig:
    """A mixture of one robot's episodes."""
    folder = tmp_path_factory.mktemp("action_aware")
    data = lerobot_v3(folder / "pick", tasks=ONE_TASK)
    (folder / "pyramid.toml").write_text(
        f'[[member]]\nname = "pick"\ntier = "robot"\nlabel = "action"\ndataset = "{data}"\nembodiment = "two_link"\n'
        f'cameras = ["{CAMERAS[0]}"]\n'
    )
    alignment = FlareConfig(target="action_aware", future_s=0.3, ema=0.9, action_aware=SIZES)
    training = dataclasses.replace(DEBUG.training, flare=True, alignment=alignment, val_every_steps=30, lr=3e-3)
    return pretrain.PretrainConfig(
        pyramid=folder / "pyramid.toml", out=folder / "run", recipe="debug", cache=folder / "cache", steps=STEPS,
        held_share=0.5, model=DEBUG.policy, training=training,
    )  # fmt: skip


@pytest.fixture(scope="module")
def straight(settings: pretrain.PretrainConfig) -> dict[str, Any]:
    return pretrain.run(settings, quiet=True)


def target_of(folder: Path) -> dict[str, torch.Tensor]:
    """The target's slow copy in a run's last checkpoint."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if ".average." in name and name.startswith("target.")}


def test_the_target_learns_from_actions_and_the_policy_aligns_with_it(settings, straight) -> None:
    curves = logged(settings.out)
    taught = [value for _, value in sorted(curves["train/target_loss"].items())]
    assert taught[-1] < 0.75 * taught[0]
    unseen = [value for _, value in sorted(curves["val/flare/target_loss"].items())]
    assert unseen[-1] < 0.75 * unseen[0]  # on the held-out episode
    aligned = [value for _, value in sorted(curves["val/flare/alignment_higher_is_better"].items())]
    assert aligned[0] < aligned[-1] and aligned[-1] > 0.98
    assert {"val/flare/target_loss", "val/flare/alignment_higher_is_better", "val/action_loss/pick"} <= set(
        straight["held_out"]
    )
    moved = target_of(settings.out)
    assert moved and int(next(value for name, value in moved.items() if name.endswith("n_averaged"))) == STEPS + 1


def test_it_is_resumed_to_the_same_policy_and_target(settings, tmp_path: Path, monkeypatch) -> None:
    training = dataclasses.replace(settings.training, val_every_steps=4)  # checkpoints every two steps
    whole = dataclasses.replace(settings, steps=8, training=training, out=tmp_path / "whole")
    held_out = pretrain.run(whole, quiet=True)["held_out"]
    real = PolicyTraining.on_train_batch_end

    def killed(self: PolicyTraining, outputs: Any, batch: Any, index: int) -> None:
        real(self, outputs, batch, index)
        if self.trainer.global_step == 5:
            raise RuntimeError("killed")

    config = dataclasses.replace(whole, out=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(PolicyTraining, "on_train_batch_end", killed)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain.run(config, quiet=True)
    state = torch.load(config.out / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 4
    assert pretrain.run(config, quiet=True)["held_out"] == held_out
    a, b = (Policy.from_pretrained(folder).state_dict() for folder in (whole.out, config.out))
    assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = target_of(whole.out), target_of(config.out)
    assert a and all(torch.equal(a[name], b[name]) for name in a)
