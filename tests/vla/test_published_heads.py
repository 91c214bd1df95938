"""Heads in the layout that NVIDIA publishes, read here, give what NVIDIA's own code gives; other folders are refused.

`fixtures/groot_n1_*.safetensors` (tests/peers/groot_head_peer.py) hold inputs and what that code made of them, with the names and
shapes of its weights, whose values both sides draw by one rule; no test needs that code or the real weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import vla
from corpora.mixture.embodiments import SLOTS
from tests.builders.groot_head import LAYOUTS, Shown, expected, of_layout, off
from tests.builders.policies import tiny_bc, tiny_policy
from tests.peers.groot_head_peer import drawn, write_published
from vla.checkpoint import model_card
from vla.models.dual_system import DualSystemPolicy
from vla.published_heads import head_fingerprint, load_head

FIXTURES = Path(__file__).parent / "fixtures"


@dataclasses.dataclass(frozen=True)
class Head:
    """What a fixture holds, and a folder as NVIDIA would publish it."""

    layout: str
    folder: Path
    theirs: dict[str, Tensor]
    config: dict[str, Any]
    weights: dict[str, Tensor]
    robots: list[str]

    def policy(self, **options: Any) -> DualSystemPolicy:
        return of_layout(dataclasses.replace(LAYOUTS[self.layout], **options), self.config)


@pytest.fixture(params=list(LAYOUTS))
def head(request: pytest.FixtureRequest, tmp_path: Path) -> Head:
    return made(request.param, tmp_path)


def made(layout: str, folder: Path) -> Head:
    theirs, told = expected(FIXTURES / f"groot_{layout}.safetensors")
    weights = drawn(told["shapes"])
    write_published(folder, told["config"], weights)
    return Head(layout, folder, theirs, told["config"], weights, told["robots"])


def test_a_published_head_gives_what_nvidias_code_gives(head: Head) -> None:
    policy, theirs = head.policy(), head.theirs
    load_head(policy, head.folder)
    shown = Shown(policy, theirs, head.robots)
    assert off(shown.sampled(dims=5), theirs["sampled"]) < 1e-6
    assert off(shown.velocity(), theirs["velocity"]) < 1e-6
    if "loss" in theirs:  # of a training step, of a robot with fewer dimensions than the policy
        assert shown.loss().mean() == pytest.approx(float(theirs["loss"]), rel=1e-6)
    exact = Shown(policy.double(), theirs, head.robots).velocity()
    assert off(exact, theirs["velocity_double"]) < 1e-6  # 4e-16 on the machine of the fixtures


def test_a_robot_of_fewer_dimensions_gets_nvidias_actions_for_those_it_has(head: Head) -> None:
    """NVIDIA's network sees noise in the others, in acting as in training."""
    for padded, same in (("noise", True), ("zero", False)):
        policy = head.policy()
        load_head(policy, head.folder)
        policy.config = dataclasses.replace(policy.config, padded=padded)
        few = Shown(policy, head.theirs, head.robots).sampled(dims=3)
        assert (off(few[..., :3], head.theirs["sampled"][..., :3]) < 1e-6) == same
        assert not few[..., 3:].any()


def test_each_name_begins_with_the_published_robot_of_that_name_and_all_others_with_the_new_one(head: Head) -> None:
    policy = head.policy()
    rows = load_head(policy, head.folder)
    new, gr1, droid = {"n1_5": (31, 24, 17), "n1_6": (10, 20, 16), "n1_7": (10, 10, 10)}[head.layout]
    assert [rows[name] for name in ("new_embodiment", "gr1", "oxe_droid")] == [new, gr1, droid]
    assert {rows[name] for name in ("latent", "digit", "aloha", "franka", "metaworld")} == {new}
    if head.layout == "n1_6":
        assert (rows["libero_panda"], rows["agibot_genie1"]) == (2, new)
        assert len(policy.slots) == len(SLOTS) + 5
    if head.layout == "n1_7":
        assert (rows["real_r1_pro_sharpa_relative_eef"], rows["oxe_droid_relative_eef_relative_joint"]) == (26, 24)
    theirs = head.weights["action_head.action_encoder.W2.W"]
    ours = policy.embodiment_layers.action.layer2.weight
    for name, row in rows.items():
        assert torch.equal(ours[policy.embodiment_id(name)], theirs[row])
    later = policy.add_embodiment("one_that_comes_later")
    assert torch.equal(ours[later], theirs[new]) and torch.equal(ours[-1], theirs[new])


def test_the_card_leaves_the_licence_to_those_whose_weights_it_began_with(head: Head) -> None:
    policy = head.policy()
    assert "license: apache-2.0" in model_card(policy)
    load_head(policy, head.folder)
    name = f"nvidia/GR00T-{head.layout.upper().replace('_', '.')}-3B"
    card = model_card(policy)
    assert "license: other" in card and f"- {name}\n" in card and f"began with the weights of {name}" in card


def test_a_folders_own_list_of_embodiments_goes_before_nvidias_code(tmp_path: Path) -> None:
    head = made("n1_6", tmp_path)
    (tmp_path / "embodiment_id.json").write_text(json.dumps({"gr1": 5, "a_robot_of_theirs": 6}))
    policy = head.policy()
    rows = load_head(policy, tmp_path)
    assert rows["gr1"] == 5 and rows["libero_panda"] == 2 and "a_robot_of_theirs" not in rows
    assert torch.equal(
        policy.embodiment_layers.state.layer1.bias[1], head.weights["action_head.state_encoder.layer1.b"][5]
    )


def test_one_file_in_bfloat16_is_read_too_and_a_mask_token_may_be_missing(tmp_path: Path) -> None:
    head = made("n1_6", tmp_path)
    for path in tmp_path.glob("model*"):
        path.unlink()
    weights = {name: value.bfloat16() for name, value in head.weights.items() if not name.endswith("mask_token")}
    save_file(weights, tmp_path / "model.safetensors")
    policy = head.policy()
    before = policy.no_state.clone()
    load_head(policy, tmp_path)
    assert torch.equal(policy.no_state, before)
    assert policy.dit.out.weight.dtype == torch.float32
    assert torch.equal(policy.dit.out.weight, weights["action_head.model.proj_out_2.weight"].float())
    positions = weights["action_head.position_embedding.weight"]
    assert len(positions) == 1024 and torch.equal(policy.action_position, positions[:6].float())


def edit_config(**changed: Any) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config.get("action_head_cfg", config).update(changed)
        (folder / "config.json").write_text(json.dumps(config | {k: v for k, v in changed.items() if k in config}))

    return do


def edit_weights(edit: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        path = folder / "model-00003-of-00003.safetensors"
        weights = load_file(path)
        edit(weights)
        save_file(weights, path)

    return do


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


LAST = "action_head.vlln.weight"
DIT = "action_head.model.transformer_blocks.0.norm1.linear.weight"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "config.json").unlink(), r"holds no config.json: give the folder of a published model"),
        (edit_config(model_type="Gr00tN2"), r"type 'Gr00tN2'; heads are read of GR00T N1.5 .* and GR00T N1.7"),
        (
            edit_config(action_horizon=16, hidden_size=1024),
            r"--model.horizon 16 \(the policy has 6\), --model.hidden 1024 \(the policy has 20\); choose --recipe n1_5",
        ),
        (
            edit_config(backbone_embedding_dim=96),
            r"reads tokens of width 96, and those of '.*' are 128 wide: .*--backbone",
        ),
        (edit_config(attend_text_every_n_blocks=3), r"attend_text_every_n_blocks 3 \(giza builds 2\).*is not read"),
        (edit_config(diffusion_model_cfg={}), r"lacks a setting of its head \(KeyError: 'num_layers'\)"),
        (lambda f: (f / "embodiment_id.json").write_text('{"gr1": -1}'), "embodiment_id.json: gr1: no place among"),
        (
            lambda f: (f / "embodiment_id.json").write_text('{"gr1": 32}'),
            r"layer1.W is \[32, 20, 20\], and by .* \[33, 20, 20\]",
        ),
        (edit_weights(lambda w: w.pop(LAST)), rf"missing {LAST}, unexpected none: download it again"),
        (edit_weights(lambda w: w.update({"action_head.x": w[LAST] + 0})), "missing none, unexpected action_head.x"),
        (edit_weights(lambda w: w.update({LAST: torch.ones(3)})), rf"{LAST} is \[3\], and by config.json \[128\]"),
        (
            lambda f: cut_short(f / "model-00002-of-00003.safetensors"),
            r"00002-of-00003.safetensors: missing or damaged",
        ),
        (
            lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
            r"00002-of-00003.safetensors: missing or damaged",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").unlink(),
            "only safetensors are read, as hf download brings them",
        ),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "no weight_map; download it again"),
    ],
)
def test_what_is_no_such_head_is_refused_and_changes_nothing(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    head = made("n1_5", tmp_path)
    policy = head.policy()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    damage(tmp_path)
    with pytest.raises(ValueError, match=said):
        load_head(policy, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_policy_of_another_layout_is_refused(tmp_path: Path) -> None:
    head = made("n1_5", tmp_path)
    for policy in (tiny_policy(), tiny_bc()):
        with pytest.raises(ValueError, match=r"the head of GR00T N1.5: this policy .*choose --recipe n1_5"):
            vla.load_head(policy, tmp_path)
    older = made("n1_6", tmp_path / "later")
    with pytest.raises(
        ValueError, match=r"--model.future-tokens 0 \(the policy has 3\), --model.hidden-state token.*n1_6"
    ):
        load_head(head.policy(), older.folder)


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ("n1_6", "n1_7", r"--model.hidden-state token \(the policy has zero\); choose --recipe n1_6"),
        ("n1_7", "n1_6", r"--model.hidden-state zero \(the policy has token\); choose --recipe n1_7"),
    ],
)
def test_the_head_of_another_generation_is_refused_by_its_settings(
    theirs: str, ours: str, said: str, tmp_path: Path
) -> None:
    head = made(theirs, tmp_path)
    with pytest.raises(ValueError, match=said):
        load_head(of_layout(LAYOUTS[ours], head.config), tmp_path)


def test_the_weights_of_another_generation_are_refused_by_their_names(tmp_path: Path) -> None:
    made("n1_6", tmp_path)
    edit_config(model_type="Gr00tN1d7")(tmp_path)
    later = made("n1_7", tmp_path / "later")
    with pytest.raises(ValueError, match=r"N1.7's head; missing none, unexpected action_head.mask_token: .*choose the"):
        load_head(later.policy(), tmp_path)


def test_a_head_that_reads_more_than_one_state_is_refused(tmp_path: Path) -> None:
    head = made("n1_7", tmp_path)
    edit_config(state_history_length=2)(tmp_path)
    with pytest.raises(ValueError, match=r"state_history_length 2 \(giza builds 1\); such a head is not read"):
        load_head(head.policy(), tmp_path)


def test_the_fingerprint_is_that_of_the_contents(tmp_path: Path) -> None:
    one, other = made("n1_5", tmp_path / "one").folder, made("n1_5", tmp_path / "other").folder
    assert head_fingerprint(one) == head_fingerprint(other)
    edit_weights(lambda w: w.update({LAST: w[LAST] + 1}))(other)
    assert head_fingerprint(one) != head_fingerprint(other)
