"""Policies on disk: the same actions after a round trip, what is not a policy, no pickle, the model card."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.builders.policies import some_images, teach, tiny_bc, tiny_policy
from tests.builders.vlms import FAMILIES, Family, tiny_backbone
from vla.checkpoint import CARD, record_measured
from vla.models.config import PolicyConfig, VlmConfig, from_dict, to_dict
from vla.models.dual_system import DualSystemPolicy
from vla.noise import NoiseKey
from vla.policy import Policy
from vla.recipes import DEBUG, RECIPES
from vla.stored import BACKBONE, CONFIG, WEIGHTS, policy_fingerprint
from vla.trained_on import DATA, TrainedOn

PICTURES = some_images(2)
NOISE = [NoiseKey(0, (row,)) for row in range(2)]
TEXTS = ["open the drawer", ""]


def act(policy: Policy, name: str, state_dim: int) -> np.ndarray:
    state = np.random.default_rng(0).normal(2, 3, (2, state_dim)) if state_dim else None
    mask = torch.ones(PICTURES.shape[:3], dtype=torch.bool)
    return policy.act_batch(PICTURES, mask, TEXTS, state, name, noise=NOISE)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Path]:
    policy = tiny_policy()
    teach(policy, "gr1", 4, 3)
    policy.add_embodiment("so101", start_from="gr1")
    teach(policy, "so101", 6, 5, seed=3)
    policy.measured = {"training": {"steps": 17}, "closed loop": {"success": 0.475}}
    folder = tmp_path_factory.mktemp("policy")
    policy.save_pretrained(folder)
    return policy, folder


@pytest.fixture
def copied(saved: tuple[Policy, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[1], tmp_path / "copy"))


def test_a_loaded_policy_acts_alike_on_all_its_robots(saved: tuple[Policy, Path]) -> None:
    policy, folder = saved
    again = Policy.from_pretrained(folder)
    assert not again.training
    for name, state_dim in (("gr1", 4), ("so101", 6)):
        assert np.array_equal(act(again, name, state_dim), act(policy, name, state_dim))
        assert again.embodiments[name].to_json() == policy.embodiments[name].to_json()
        assert again.embodiment_id(name) == policy.embodiment_id(name)
    assert again.config == policy.config and again.measured == policy.measured
    assert again.embodiment("gr1").step_s == 0.1


def test_saving_again_writes_the_same(saved: tuple[Policy, Path], tmp_path: Path) -> None:
    _, folder = saved
    Policy.from_pretrained(folder).save_pretrained(tmp_path)
    for name in (CONFIG, WEIGHTS, CARD):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_baseline_comes_back_too(tmp_path: Path) -> None:
    policy = tiny_bc()
    teach(policy, "so101", 4, 3)
    policy.save_pretrained(tmp_path)
    change(giza_policy=1)(tmp_path)  # whose other head read the flow time otherwise
    again = Policy.from_pretrained(str(tmp_path))
    assert np.array_equal(act(again, "so101", 4), act(policy, "so101", 4))
    assert again.embodiment_id("so101") == policy.embodiment_id("so101")


def test_there_is_no_pickle_and_nothing_half_written(saved: tuple[Policy, Path]) -> None:
    assert sorted(path.name for path in saved[1].iterdir()) == sorted([CONFIG, WEIGHTS, CARD, DATA])
    for path in saved[1].iterdir():
        head = path.read_bytes()[:16]
        assert not head.startswith((b"\x80", b"PK"))  # pickle; torch's zip of pickles


def test_the_card_holds_what_was_measured_and_the_robots(saved: tuple[Policy, Path], tmp_path: Path) -> None:
    policy, folder = saved
    card = (folder / CARD).read_text()
    block = card.split("```json")[1].split("```")[0]
    assert json.loads(block) == policy.measured
    assert "| so101 | head | 5 | 0.1000 |" in card
    assert f"{sum(p.numel() for p in policy.parameters()) / 1e6:.1f} million parameters" in card
    tiny_policy().save_pretrained(tmp_path)
    assert "giza evaluate" in (tmp_path / CARD).read_text()
    record_measured(tmp_path, "evaluation", {"verdict": {"open_loop": "better than every baseline"}})
    assert "- open loop: **better than every baseline**" in (tmp_path / CARD).read_text().partition("## Measured")[2]


def test_the_card_says_how_it_is_used_and_what_it_is_not_good_for(tmp_path: Path) -> None:
    policy = tiny_policy()
    teach(policy, "latent", 4, 3)
    teach(policy, "so101", 4, 3)
    said = "human: trust with care (2026-12-01)"
    hands = TrainedOn("hands", "people", "", "latent", "clips", ("a",), verdict=said)
    policy.trained_on = (hands, TrainedOn("pick", "drawers", "", "so101", "episodes", ("0:5",)))
    policy.save_pretrained(tmp_path)
    assert Policy.from_pretrained(tmp_path).trained_on == policy.trained_on
    card = (tmp_path / CARD).read_text()
    usage = card.split("```python\n")[1].split("```")[0]
    compile(usage, "card", "exec")
    assert '"head": image' in usage and 'policy.act(seen, "so101")' in usage and len(usage.splitlines()) == 5
    assert (
        f"trained on people (latents, {said}), drawers;" in card.partition("## Limits")[2]
        and "stay at the stop" in card
    )


def test_slots_keep_their_places_when_a_later_version_knows_other_names(copied: Path) -> None:
    values = json.loads((copied / CONFIG).read_text())
    values["slots"] = ["a_robot_of_the_past", *values["slots"]]
    weights = load_file(copied / WEIGHTS)
    for name, value in weights.items():
        if name.startswith("embodiment_layers."):
            weights[name] = value.roll(1, 0)
    save_file(weights, copied / WEIGHTS)
    before = act(Policy.from_pretrained(copied), "gr1", 4)
    (copied / CONFIG).write_text(json.dumps(values))
    moved = Policy.from_pretrained(copied)
    assert moved.embodiment_id("gr1") == values["slots"].index("gr1")
    assert np.abs(act(moved, "gr1", 4) - before).max() > 1e-3


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(**changed: object):
    def do(folder: Path) -> None:
        values = json.loads((folder / CONFIG).read_text())
        values.update(changed)
        (folder / CONFIG).write_text(json.dumps(values))

    return do


def rename_weight(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["elsewhere"] = weights.pop("action_position")
    save_file(weights, folder / WEIGHTS)


WIDER = to_dict(dataclasses.replace(DEBUG, hidden=48))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda f: shutil.rmtree(f) or f.mkdir(),
            "is no policy: it lacks config.json or model.safetensors.*giza ground",
        ),
        (lambda f: (f / WEIGHTS).unlink(), "it lacks config.json or model.safetensors"),
        (lambda f: cut_short(f / CONFIG), "not the configuration of a policy"),
        (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe\x00"), "not the configuration of a policy"),
        (lambda f: (f / CONFIG).write_text("[1, 2]"), "not the configuration of a policy"),
        (lambda f: (f / CONFIG).write_text('{"model_type": "llama"}'), "not the configuration of a policy"),
        (change(giza_policy=99), "format 99; this version of giza reads 2"),
        (
            change(giza_policy=1),
            "format 1; this version of giza reads 2: train it again with giza pretrain or giza ground",
        ),
        (change(giza_policy=None), "format None; this version of giza reads 2"),
        (change(robots={"gr1": {}}), "not the configuration of a policy"),
        (change(policy={**to_dict(DEBUG), "wings": 2}), "unknown field wings.*another version"),
        (change(policy=WIDER), "damaged, or not of this config.json"),
        (change(slots=[f"robot{k}" for k in range(40)]), "at most 32"),
        (lambda f: cut_short(f / WEIGHTS), "damaged, or not of this config.json"),
        (lambda f: (f / WEIGHTS).write_bytes(b"x" * 100), "damaged, or not of this config.json"),
        (rename_weight, "missing action_position, unexpected elsewhere"),
    ],
)
def test_what_is_foreign_or_damaged_is_a_value_error(copied: Path, damage, said: str) -> None:
    damage(copied)
    with pytest.raises(ValueError, match=said):
        Policy.from_pretrained(copied)


def test_a_name_that_is_neither_folder_nor_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"no folder of this name.*check the path"):
        Policy.from_pretrained(tmp_path / "nothing" / "here")


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_survives_json(name: str) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(RECIPES[name].policy)))) == RECIPES[name].policy


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"history_s": (0.0, 0.5)}, "history_s"),
        ({"history_s": ()}, "history_s"),
        ({"horizon": 0}, "horizon 0"),
        ({"state_dropout": 1.0}, "state_dropout 1.0"),
        ({"head": "regression", "vlm": VlmConfig(name="x")}, "takes no vlm.name"),
    ],
)
def test_a_policy_without_sense_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PolicyConfig(**options)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_on_a_vision_language_model_comes_back_without_a_hub(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    torch.manual_seed(0)
    backbone = tiny_backbone(family, layer=2)
    # a name that nobody has: whoever asked a hub for it would fail
    vlm = VlmConfig(name="nobody/has-this", layer=2, self_attention_layers=1, project_to=64)
    policy = DualSystemPolicy(dataclasses.replace(DEBUG, vlm=vlm), backbone).eval()
    teach(policy, "gr1", 4, 3)
    policy.save_pretrained(tmp_path)
    again = Policy.from_pretrained(tmp_path)
    assert np.array_equal(act(again, "gr1", 4), act(policy, "gr1", 4))
    weights = [path.name for path in tmp_path.rglob("*") if path.suffix in {".safetensors", ".bin", ".pt", ".pkl"}]
    assert weights == [WEIGHTS]  # once, and no pickle


def test_the_fingerprint_is_of_all_that_decides_what_a_policy_does(copied: Path, tmp_path: Path) -> None:
    """V9: weights to the last byte (a frozen backbone may fill the first gigabyte), statistics, robots' places, the backbone's
    settings; not what was measured, nor where it lies."""
    first = policy_fingerprint(copied)
    record_measured(copied, "evaluation", {"success": 0.5})
    (copied / "train.json").write_text("{}")
    assert policy_fingerprint(shutil.copytree(copied, tmp_path / "elsewhere")) == first
    found = {first}
    with (copied / WEIGHTS).open("r+b") as file:
        file.truncate(65 << 20)
    found.add(policy_fingerprint(copied))
    with (copied / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    found.add(policy_fingerprint(copied))
    for change in (
        lambda values: values["slots"].reverse(),
        lambda values: values["robots"]["gr1"].update(step_s=0.2),
        lambda values: values["policy"].update(history_s=[0.1, 0.0]),
    ):
        values = json.loads((copied / CONFIG).read_text())
        change(values)
        (copied / CONFIG).write_text(json.dumps(values))
        found.add(policy_fingerprint(copied))
    (copied / BACKBONE).mkdir()
    (copied / BACKBONE / "processor_config.json").write_text("{}")
    found.add(policy_fingerprint(copied))
    assert len(found) == 7
