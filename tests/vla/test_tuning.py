"""What is trained: the parts that were asked for, counted; adapters that start as nothing, save, load and merge."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.builders.vlms import DIM, some_images, tiny_backbone
from vla.checkpoint import build_policy
from vla.models.config import DitConfig, SmallBackboneConfig
from vla.models.dit import Dit
from vla.models.huggingface import HfBackbone
from vla.models.small import SmallBackbone
from vla.recipes import DEBUG
from vla.training_config import TuningConfig
from vla.tuning import apply_tuning, count_trained, merge_lora

WHOLE = TuningConfig()


class Fake(nn.Module):
    """A policy in miniature: backbone, projector, embodiments, DiT, and something that no choice concerns."""

    def __init__(self, backbone: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = backbone or tiny_backbone(layer=3)
        self.projector = nn.Linear(self.backbone.dim, DIM)  # type: ignore[arg-type]
        self.embodiment_layers = nn.Linear(4, 32)
        self.dit = Dit(DitConfig(layers=2, heads=2, head_dim=16, output_dim=8, dropout=0.0), DIM)
        self.target = nn.Linear(3, 3).requires_grad_(False)
        self.query = nn.Parameter(torch.zeros(5))

    def forward(self, action: Tensor, images: Tensor, instruction: Sequence[str]) -> Tensor:
        tokens = self.backbone(images, torch.ones(images.shape[:3], dtype=torch.bool), instruction)
        context = type(tokens)(self.projector(tokens.features), tokens.mask, tokens.is_image)
        x = self.embodiment_layers(action)
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        return self.dit(x, mask, context, torch.tensor([3] * len(x)))[0]


def inputs() -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 4, generator=generator), some_images(2, cameras=1), ["open", "close it"]


def quiet(policy: nn.Module, config: TuningConfig) -> Any:
    return apply_tuning(policy, config, log=lambda _: None)


def reached(policy: nn.Module) -> set[str]:
    """Children whose weights a step of training would change."""
    policy.train()
    policy(*inputs()).square().sum().backward()
    return {
        name.split(".")[0] for name, p in policy.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }


def steps(policy: nn.Module, count: int = 3) -> None:
    optimiser = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(count):
        optimiser.zero_grad()
        policy(*inputs()).sub(1).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize(
    ("config", "want"),
    [
        (WHOLE, {"projector", "embodiment_layers", "dit"}),
        (TuningConfig(projector=False), {"dit"}),
        (TuningConfig(dit=False), {"projector", "embodiment_layers"}),
        (TuningConfig(dit=False, projector=False, vlm_top_layers=2), {"backbone"}),
        (TuningConfig(dit=False, projector=False, vision=True), {"backbone"}),
        (TuningConfig(dit=False, projector=False, lora_rank=2), {"backbone"}),
        (TuningConfig(dit=False, projector=False, lora_rank=2, lora_on="dit"), {"dit"}),
        (TuningConfig(vision=True, vlm_top_layers=1), {"backbone", "projector", "embodiment_layers", "dit"}),
    ],
)
def test_gradients_reach_what_was_chosen(config: TuningConfig, want: set[str]) -> None:
    policy = Fake()
    report = quiet(policy, config)
    assert reached(policy) == want
    tuned = {name.split(".")[0] for name, p in policy.named_parameters() if p.requires_grad}
    assert tuned == want | {"query"}
    assert report.trained == sum(p.numel() for p in policy.parameters() if p.requires_grad)


def test_nothing_of_a_policy_is_trained_that_was_not_chosen() -> None:
    """Positions, future tokens and the direct path were trained whatever was chosen."""
    small = dataclasses.replace(DEBUG.small, direct=8)
    policy = build_policy(dataclasses.replace(DEBUG, small=small))
    own = {"action_position", "direct.weight", "direct.bias"}

    def trained(**choice: bool) -> set[str]:
        quiet(policy, TuningConfig(**{"projector": False, "dit": False, **choice}))
        return {name for name, parameter in policy.named_parameters() if parameter.requires_grad}

    assert trained() == set()
    assert {name for name in trained(projector=True) if not name.startswith(("projector.", "embodiment_"))} == own
    assert {name for name in trained(dit=True) if not name.startswith("dit.")} == {"future"}
    assert len(trained(projector=True, dit=True, vision=True)) == len(list(policy.named_parameters()))


def test_a_second_choice_replaces_the_first() -> None:
    policy = Fake()
    quiet(policy, TuningConfig(vision=True, vlm_top_layers=3))
    quiet(policy, TuningConfig(dit=False))
    assert reached(policy) == {"projector", "embodiment_layers"}


def test_the_report_counts(capsys: pytest.CaptureFixture[str]) -> None:
    policy = Fake()
    report = apply_tuning(policy, TuningConfig(dit=False))
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in policy.named_children()}
    projector = DIM * DIM + DIM
    embodiments = 4 * 32 + 32
    assert report.by_part == {
        "backbone": (0, sizes["backbone"]),
        "projector": (projector, projector),
        "embodiment_layers": (embodiments, embodiments),
        "dit": (0, sizes["dit"]),
        "target": (0, 12),
        "(its own)": (5, 5),
    }
    assert report.trained == projector + embodiments + 5
    assert report.total == sum(sizes.values()) + 5
    assert report.share == pytest.approx(report.trained / report.total)
    said = capsys.readouterr().out
    assert said.startswith(f"trained: {report.trained:,} of {report.total:,} parameters ({100 * report.share:.1f}%)")
    assert said.count("\n") == 7


def test_adapters_are_few_and_start_as_nothing() -> None:
    policy = Fake().eval()
    want = policy(*inputs())
    before = dict(policy.state_dict())
    report = quiet(policy, TuningConfig(projector=False, dit=False, lora_rank=2))
    torch.testing.assert_close(policy(*inputs()), want, atol=0, rtol=0)
    # rank 2 on q, k, v and o of 3 layers: 32 -> 32, 16, 16 and 32 -> 32
    assert report.by_part["backbone"][0] == 3 * 2 * ((32 + 32) + 2 * (32 + 16) + (32 + 32))
    adapted = {name.rpartition(".lora_A")[0] for name, _ in policy.named_parameters() if ".lora_A" in name}
    assert len(adapted) == 12
    assert all(".text_model.layers." in name for name in adapted)  # the vision tower has a q_proj too
    assert set(before) - set(policy.state_dict()) == {f"{name}.weight" for name in adapted}


def test_targets_by_name() -> None:
    policy = Fake()
    config = TuningConfig(dit=False, projector=False, lora_rank=4, lora_on="dit")
    quiet(policy, config)
    names = {name.partition(".lora_A")[0] for name, _ in policy.named_parameters() if ".lora_A" in name}
    assert names == {f"dit.blocks.{k}.attention.{part}" for k in (0, 1) for part in ("q", "k", "v", "out")}
    policy = Fake()
    quiet(policy, TuningConfig(lora_rank=4, lora_targets=("up_proj",)))
    names = {name.partition(".lora_A")[0] for name, _ in policy.named_parameters() if ".lora_A" in name}
    assert names == {f"backbone.vlm.text_model.layers.{k}.mlp.up_proj" for k in range(3)}
    with pytest.raises(ValueError, match=r"lora_targets \['nowhere'\]: no linear layer of the vlm .*'up_proj'"):
        quiet(Fake(), TuningConfig(lora_rank=4, lora_targets=("nowhere",)))


@pytest.mark.parametrize("lora_on", ["vlm", "dit"])
def test_trained_adapters_merge_into_the_same_policy(lora_on: Any) -> None:
    policy = Fake()
    names = set(policy.state_dict())
    start = policy(*inputs()).detach()
    quiet(policy, TuningConfig(dit=False, lora_rank=4, lora_on=lora_on))
    steps(policy)
    policy.eval()
    want = policy(*inputs()).detach()
    assert (want - start).abs().max() > 1e-2
    assert merge_lora(policy) == (12 if lora_on == "vlm" else 8)
    torch.testing.assert_close(policy(*inputs()), want, atol=1e-5, rtol=1e-5)
    assert set(policy.state_dict()) == names
    fresh = Fake()
    fresh.load_state_dict(policy.state_dict())
    torch.testing.assert_close(fresh.eval()(*inputs()), want, atol=1e-5, rtol=1e-5)
    # and the merged one takes adapters again
    assert merge_lora(policy) == 0
    quiet(policy, TuningConfig(dit=False, lora_rank=2, lora_on=lora_on))
    torch.testing.assert_close(policy(*inputs()), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lora_on", ["vlm", "dit"])
def test_adapters_save_to_safetensors(lora_on: Any, tmp_path: Path) -> None:
    config = TuningConfig(dit=False, lora_rank=4, lora_on=lora_on)
    policy = Fake()
    quiet(policy, config)
    steps(policy)
    save_file(policy.state_dict(), tmp_path / "policy.safetensors")
    other = Fake()
    with torch.no_grad():
        other.projector.weight.zero_()
    quiet(other, config)
    other.load_state_dict(load_file(tmp_path / "policy.safetensors"))
    torch.testing.assert_close(other.eval()(*inputs()), policy.eval()(*inputs()), atol=0, rtol=0)


def test_a_backbone_with_adapters_is_not_saved_by_itself(tmp_path: Path) -> None:
    policy = Fake()
    quiet(policy, TuningConfig(lora_rank=2))
    assert isinstance(policy.backbone, HfBackbone)
    with pytest.raises(ValueError, match="merge them first"):
        policy.backbone.save_pretrained(tmp_path)
    merge_lora(policy)
    policy.backbone.save_pretrained(tmp_path)
    loaded = HfBackbone.from_pretrained(tmp_path)
    _, images, texts = inputs()
    mask = torch.ones(images.shape[:3], dtype=torch.bool)
    torch.testing.assert_close(
        loaded(images, mask, texts).features, policy.backbone(images, mask, texts).features, atol=0, rtol=0
    )


def test_a_small_backbone_is_tuned_whole_or_not_at_all() -> None:
    def small() -> Fake:
        return Fake(SmallBackbone(SmallBackboneConfig(dim=16, channels=(8, 8))))

    policy = small()
    assert quiet(policy, WHOLE).by_part["backbone"][0] == 0
    report = quiet(policy, TuningConfig(vision=True))
    assert report.by_part["backbone"][0] == report.by_part["backbone"][1] > 0
    with pytest.raises(ValueError, match="vlm_top_layers 2: a SmallBackbone has no language layers; set vision"):
        quiet(policy, TuningConfig(vlm_top_layers=2))
    with pytest.raises(ValueError, match="lora_rank 2 on a vlm that is trained whole"):
        quiet(policy, TuningConfig(vision=True, lora_rank=2))
    with pytest.raises(ValueError, match="no linear layer of the vlm is called so"):
        quiet(policy, TuningConfig(lora_rank=2))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"lora_rank": -1}, "lora_rank -1: must be 0 or more"),
        ({"vlm_top_layers": -1}, "vlm_top_layers -1"),
        ({"lora_rank": 2, "lora_alpha": 0}, "lora_alpha 0: must be positive"),
        ({"lora_targets": ("q",)}, "without lora_rank there are no adapters"),
        ({"lora_rank": 2, "lora_on": "dit"}, "set dit to False"),
        ({"lora_rank": 2, "vlm_top_layers": 1}, "choose one"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        TuningConfig(**options)


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="a Linear without 'projector' is no policy"):
        quiet(nn.Linear(2, 2), WHOLE)
    with pytest.raises(ValueError, match="top 9 layers: this backbone has 3"):
        quiet(Fake(), TuningConfig(vlm_top_layers=9))
    policy = Fake()
    quiet(policy, TuningConfig(lora_rank=2))
    with pytest.raises(ValueError, match="holds LoRA adapters already: merge them first"):
        quiet(policy, WHOLE)


def test_shared_weights_are_counted_once() -> None:
    policy = Fake()
    policy.twin = policy.projector
    assert count_trained(policy).total == count_trained(Fake()).total
