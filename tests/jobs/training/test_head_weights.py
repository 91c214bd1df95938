"""A training that begins with a published action head (--head-weights)."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from jobs.commands import ground
from tests.builders.datasets import lerobot_v3
from tests.builders.recipes import LAYERS, narrow, small_of
from tests.builders.vlms import tiny_backbone
from tests.peers.groot_head_peer import drawn, write_published
from vla.models.config import PolicyConfig
from vla.models.dual_system import DualSystemPolicy
from vla.published_heads import published_name
from vla.recipes import N1_5, recipe_named
from vla.training import PolicyTraining

LAST = "model-00003-of-00003.safetensors"
REST = {"attend_text_every_n_blocks": 2, "num_timestep_buckets": 1000, "num_target_vision_tokens": 32}


def head_of(policy: DualSystemPolicy, folder: Path) -> dict[str, Tensor]:
    """Writes a folder that fits the policy, as NVIDIA would, its weights drawn; these."""
    size = policy.config
    settings = {
        **REST,
        "action_horizon": size.horizon,
        "max_state_dim": size.max_state_dim,
        "action_dim": size.max_action_dim,
        "hidden_size": size.hidden,
        "backbone_embedding_dim": policy.backbone.dim,
        "vl_self_attention_cfg": {"num_layers": size.vlm.self_attention_layers},
        "diffusion_model_cfg": {
            "num_layers": size.dit.layers,
            "num_attention_heads": size.dit.heads,
            "attention_head_dim": size.dit.head_dim,
            "output_dim": size.dit.output_dim,
        },
    }
    shapes = {
        published_name(name): list(value.shape)
        for name, value in policy.state_dict().items()
        if not name.startswith("backbone.")
    }
    weights = drawn(shapes)
    write_published(folder, {"model_type": "gr00t_n1_5", "action_head_cfg": settings}, weights)
    return weights


@pytest.fixture
def model(tmp_path: Path) -> PolicyConfig:
    torch.manual_seed(0)
    tiny_backbone(layer=LAYERS, depth=LAYERS + 1).save_pretrained(tmp_path / "vlm")
    config = narrow(dataclasses.replace(N1_5, future_tokens=32))
    return dataclasses.replace(config, vlm=dataclasses.replace(config.vlm, name=str(tmp_path / "vlm")))


def config_of(tmp_path: Path, model: PolicyConfig, **changes: Any) -> ground.GroundConfig:
    data = tmp_path / "pick"
    base = ground.GroundConfig(
        data=data if data.exists() else lerobot_v3(data), out=tmp_path / "run", recipe="n1_5", embodiment="three_link",
        model=model, training=dataclasses.replace(recipe_named("debug").training, steps=2, val_every_steps=2),
        cache=tmp_path / "cache", head_weights=tmp_path / "head", start_from="gr1",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def test_a_training_begins_with_published_weights_and_is_the_same_run_wherever_they_lie(
    tmp_path: Path, model: PolicyConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy = small_of("n1_5", future_tokens=32)
    assert isinstance(policy, DualSystemPolicy)
    theirs = head_of(policy, tmp_path / "head")
    seen: dict[str, Tensor] = {}

    def before(self: PolicyTraining) -> None:
        seen.update({name: value.clone() for name, value in self.policy.state_dict().items()})
        seen["slot"] = torch.tensor(self.policy.embodiment_id("three_link"))

    monkeypatch.setattr(PolicyTraining, "on_train_start", before)
    with caplog.at_level(logging.INFO):
        ground.run(config_of(tmp_path, model), quiet=True)
    assert "latent 31, gr1 24, oxe_droid 17, agibot_genie1 26, unitree_g1 31" in caplog.text
    assert torch.equal(seen["dit.out.weight"], theirs["action_head.model.proj_out_2.weight"])
    assert torch.equal(seen["future"], theirs["action_head.future_tokens.weight"])
    mine = seen["embodiment_layers.decoder.layer2.bias"][int(seen["slot"])]
    assert torch.equal(mine, theirs["action_head.action_decoder.layer2.b"][24])  # --start-from gr1
    assert "license: other" in (tmp_path / "run" / "README.md").read_text()
    moved = (tmp_path / "head").rename(tmp_path / "elsewhere")
    again = ground.run(config_of(tmp_path, model, head_weights=moved), quiet=True)
    assert again["already_finished"]
    save_file({name: value + 1 for name, value in load_file(moved / LAST).items()}, moved / LAST)
    with pytest.raises(ValueError, match=r"other settings \(head_fingerprint .* give another --out"):
        ground.run(config_of(tmp_path, model, head_weights=moved), quiet=True)


def test_head_weights_beside_a_policy_or_of_another_recipe_are_refused(tmp_path: Path, model: PolicyConfig) -> None:
    with pytest.raises(ValueError, match=r"--head-weights beside --policy: .* leave one of them out"):
        config_of(tmp_path, model, policy="runs/policy")
    head_of(small_of("n1_5", future_tokens=32), tmp_path / "head")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"is the head of GR00T N1.5: this policy .* choose --recipe n1_5"):
        ground.run(config_of(tmp_path, recipe_named("debug").policy, recipe="debug"), quiet=True)
    assert not (tmp_path / "run").exists()
