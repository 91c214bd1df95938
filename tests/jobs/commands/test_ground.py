"""giza ground on a tiny dataset: killed and resumed, refused settings, faults with their remedy."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import jobs
from corpora.episodes.selection import EpisodeSelection
from jobs import cli
from jobs.ablation.cells import _curve
from jobs.commands import ground
from jobs.training.trainer import CHECKPOINT
from tests.builders.datasets import CAMERAS, FPS, ONE_TASK, lerobot_v2, lerobot_v3, opened
from tests.builders.processes import run_apart
from tests.flare.test_vision import save
from vla.checkpoint import record_measured
from vla.policy import Policy
from vla.recipes import recipe_named
from vla.training import PolicyTraining

STEPS = 12
DEBUG = recipe_named("debug")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_v3(tmp_path_factory.mktemp("data") / "pick", tasks=ONE_TASK)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def settings(data: Path, out: Path, cache: Path, **changes: Any) -> ground.GroundConfig:
    training = dataclasses.replace(DEBUG.training, val_every_steps=4, **changes.pop("training", {}))
    base = ground.GroundConfig(
        data=data, out=out, recipe="debug", cache=cache, steps=STEPS, embodiment="two_link",
        selection=EpisodeSelection(cameras=CAMERAS[:1]),
        model=DEBUG.policy, training=training,
    )  # fmt: skip
    chosen = {
        item.name: changes.pop(item.name) for item in dataclasses.fields(EpisodeSelection) if item.name in changes
    }
    return dataclasses.replace(base, selection=dataclasses.replace(base.selection, **chosen), **changes)


def logged(out: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value, of all sessions of a run."""
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def losses_of(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Batch number -> loss, of whatever is trained from now on."""
    losses: dict[int, float] = {}
    real = PolicyTraining.training_step

    def watched(self: PolicyTraining, batch: Any, index: int) -> torch.Tensor:
        loss = real(self, batch, index)
        losses[int(self.trainer.fit_loop.total_batch_idx)] = float(loss.detach())
        return loss

    monkeypatch.setattr(PolicyTraining, "training_step", watched)
    return losses


@pytest.fixture(scope="module")
def straight(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict[int, float]]:
    """An uninterrupted run: its folder, summary and losses."""
    out = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as monkeypatch:
        losses = losses_of(monkeypatch)
        summary = ground.run(settings(data, out, cache), quiet=True)
    return out, summary, losses


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Policy.from_pretrained(folder).state_dict()


def test_a_run_trains_and_leaves_a_policy_that_acts(straight, data: Path) -> None:
    out, summary, losses = straight
    assert summary["steps"] == STEPS and sorted(losses) == list(range(STEPS))
    assert summary["members"][0]["samples"] + summary["members"][0]["held_out_samples"] == 75
    policy = Policy.from_pretrained(out)
    assert policy.embodiments["two_link"].step_s == pytest.approx(1 / 15)
    pictures = torch.zeros(1, 1, 1, 3, 32, 32, dtype=torch.uint8)
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    chunk = policy.act_batch(pictures, mask, ["pick the cup"], np.zeros((1, 3)), "two_link")
    assert chunk.shape == (1, 8, 2) and np.isfinite(chunk).all()
    assert json.loads((out / "run.json").read_text())["steps"] == policy.measured["training"]["steps"] == STEPS


def test_held_out_losses_are_logged_for_each_member_and_kept(straight) -> None:
    out, summary, _ = straight
    curve = logged(out)["val/action_loss/demonstrations"]
    assert _curve(out, "demonstrations") == [
        [step, round(value, 5)] for step, value in sorted(curve.items())
    ]  # an ablation's
    assert len(curve) >= 3 and all(value > 0 for value in curve.values())
    assert summary["held_out"]["val/action_loss/demonstrations"] == pytest.approx(list(curve.values())[-1], rel=1e-3)


@pytest.mark.parametrize("stop", [5])
def test_stopped_and_resumed_it_ends_where_an_uninterrupted_run_ends(
    straight, data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    losses = losses_of(monkeypatch)
    real = PolicyTraining.on_train_batch_end

    def killed(self: PolicyTraining, outputs: Any, batch: Any, index: int) -> None:
        real(self, outputs, batch, index)
        if self.trainer.global_step == stop:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(PolicyTraining, "on_train_batch_end", killed)
        with pytest.raises(RuntimeError, match="killed"):
            ground.run(settings(data, tmp_path, cache), quiet=True)
    assert not (tmp_path / "model.safetensors").exists()
    losses.clear()
    resumed = ground.run(settings(data, tmp_path, cache), quiet=True)
    assert resumed["steps"] == STEPS
    assert 0 < min(losses) <= stop  # it did not begin anew
    assert losses == {number: loss for number, loss in straight[2].items() if number >= min(losses)}
    assert resumed["held_out"] == straight[1]["held_out"]
    a, b = weights(straight[0]), weights(tmp_path)
    assert all(torch.equal(a[name], b[name]) for name in a)


def die_after_step(step: int, words: list[str]) -> None:
    real = PolicyTraining.on_train_batch_end

    def killed(self: PolicyTraining, outputs: Any, batch: Any, index: int) -> None:
        real(self, outputs, batch, index)
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    PolicyTraining.on_train_batch_end = killed  # type: ignore[method-assign]
    ground.main(words)


def test_killed_outright_it_resumes_to_the_same_weights(straight, data: Path, cache: Path, tmp_path: Path) -> None:
    flags = ["--data", data, "--out", tmp_path, "--cache", cache, "--recipe", "debug", "--steps", STEPS]
    flags += ["--embodiment", "two_link", "--cameras", CAMERAS[0], "--training.val-every-steps", 4]
    words = [str(flag) for flag in flags]
    log = tmp_path.with_suffix(".log")
    assert run_apart(die_after_step, 7, words, log=log) == -signal.SIGKILL, log.read_text()
    ground.main(words)
    a, b = weights(straight[0]), weights(tmp_path)
    assert all(torch.equal(a[name], b[name]) for name in a)


def interrupt_after_step(step: int, words: list[str]) -> int:
    def interrupted(self: PolicyTraining, outputs: Any, batch: Any, index: int) -> None:
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)

    PolicyTraining.on_train_batch_end = interrupted  # type: ignore[method-assign]
    return cli.main(["ground", *words])


def test_ctrl_c_saves_the_step_ends_with_130_and_resumes_to_the_same_weights(
    straight, data: Path, cache: Path, tmp_path: Path
) -> None:
    """J3: checkpoints come every two steps; it is stopped after the eighth, ends the ninth and saves it."""
    flags = ["--data", data, "--out", tmp_path / "run", "--cache", cache, "--recipe", "debug", "--steps", STEPS]
    flags += ["--embodiment", "two_link", "--cameras", CAMERAS[0], "--training.val-every-steps", 4]
    words = [str(flag) for flag in flags]
    log = tmp_path / "log"
    assert run_apart(interrupt_after_step, 8, words, log=log) == 130, log.read_text()
    assert "giza ground: stopped; run the same command again to resume" in log.read_text()
    assert torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)["global_step"] == 9
    assert not (tmp_path / "run" / "model.safetensors").exists()
    ground.main(words)
    a, b = weights(straight[0]), weights(tmp_path / "run")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_run_is_not_trained_again(straight, data: Path, cache: Path) -> None:
    before, stamp = weights(straight[0]), time.time()
    record_measured(straight[0], "evaluation", {"success": 0.5})
    again = ground.run(settings(data, straight[0], cache), quiet=True)
    after = weights(straight[0])
    assert all(torch.equal(before[name], after[name]) for name in before) and time.time() - stamp < 60
    assert again == {**straight[1], "already_finished": True}  # J2: the speed, too
    assert Policy.from_pretrained(straight[0]).measured["evaluation"] == {"success": 0.5}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"demos": 1}, "demos"),
        ({"training": {"lr": 1e-2}}, r"training\.lr"),
        ({}, r"data_contents\.demonstrations .*data_fingerprint\.demonstrations"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    straight, data: Path, cache: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    other = lerobot_v2(tmp_path / "other") if not changes else data
    with pytest.raises(
        ValueError,
        match=rf"other settings \({named} .* there and .* here\): resume with the same flags, or give another --out",
    ):
        ground.run(settings(other, straight[0], cache, **changes), quiet=True)


def test_grounding_goes_on_from_a_policy_and_starts_a_slot_from_another(
    straight, data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"policy": str(straight[0]), "embodiment": "three_link", "start_from": "two_link"}
    seen: dict[str, torch.Tensor] = {}

    def before(self: PolicyTraining) -> None:
        seen.update({name: value.clone() for name, value in self.policy.state_dict().items()})

    monkeypatch.setattr(PolicyTraining, "on_train_start", before)
    ground.run(settings(data, tmp_path, cache, **changes), quiet=True)
    first, grounded = Policy.from_pretrained(straight[0]), Policy.from_pretrained(tmp_path)
    name = "embodiment_layers.state.layer1.weight"
    assert torch.equal(
        seen[name][grounded.embodiment_id("three_link")], first.state_dict()[name][first.embodiment_id("two_link")]
    )
    assert torch.equal(seen["action_position"], first.state_dict()["action_position"])
    assert list(grounded.embodiments) == ["two_link", "three_link"]


def test_faults_name_the_remedy(straight, data: Path, cache: Path, tmp_path: Path) -> None:
    def refused(said: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=said):
            ground.run(settings(changes.pop("data", data), tmp_path / "run", cache, **changes), quiet=True)
        assert not (tmp_path / "run").exists()  # J4: the corrected command finds no run of other settings

    refused("lacks meta/info.json", data=tmp_path / "nothing")
    refused("is no policy.*giza ground|no folder of this name", policy=str(tmp_path))
    refused(
        "'three_link'.*does not know it.*two_link", policy=str(straight[0]), embodiment="h1", start_from="three_link"
    )
    refused(r"its action \[action_0\] is not that of embodiment 'two_link', \[action_0, action_1\]: \[action_1\] is lacking",
            policy=str(straight[0]), action=("0:1",))  # fmt: skip
    narrow = dataclasses.replace(DEBUG.policy, max_state_dim=2)
    refused("3 state dimensions, but the policy has room for 2; .* --model.max-state-dim 3 or more", model=narrow)
    refused("episodes '9:12'.*no episode is left of 2", episodes="9:12")
    refused("has no action", data=lerobot_v2(tmp_path / "blind", actions=False))
    refused("--training.flare.*--model.future-tokens", training={"flare": True},
            model=dataclasses.replace(DEBUG.policy, future_tokens=0))  # fmt: skip


def test_flags_that_differ_from_the_policy_are_refused_by_name(
    straight, data: Path, cache: Path, tmp_path: Path
) -> None:
    """M6: they were dropped, and recorded as if done."""
    wide = dataclasses.replace(DEBUG.policy, horizon=16, dit=dataclasses.replace(DEBUG.policy.dit, layers=6))
    for said, changes in (
        (r"--model.horizon 16 \(the policy has 8\), --model.dit.layers 6 \(the policy has 4\): .* leave them out",
         {"model": wide}),
        ("representation relative, but embodiment 'two_link' has absolute", {"representation": "relative"}),
        ("normalisation min_max, but embodiment 'two_link' has q01_q99", {"normalisation": "min_max"}),
        ("--start-from metaworld: embodiment 'two_link' is trained already", {"start_from": "metaworld"}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            ground.run(settings(data, tmp_path / "run", cache, policy=str(straight[0]), **changes), quiet=True)
        assert not (tmp_path / "run").exists()


def test_a_flag_that_has_nothing_to_act_on_is_refused(data: Path, cache: Path, tmp_path: Path) -> None:
    for said, changes in (
        ("--refit without --policy", {"refit": True}),
        ("--co-train-share 0.3 without --co-train", {"co_train_share": 0.3}),
    ):
        with pytest.raises(ValueError, match=said):
            settings(data, tmp_path, cache, **changes)


def test_what_is_not_said_is_as_the_policy_has_it_and_recorded_so(
    straight, data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M6: the recipe's sizes were recorded as those of the policy."""
    monkeypatch.setenv("GIZA_CACHE", str(cache))
    words = f"--data {data} --policy {straight[0]} --embodiment two_link --cameras {CAMERAS[0]} --steps 1"
    ground.main([*words.split(), "--out", str(tmp_path), "--training.batch-size", "4", "--quiet"])
    record, summary = (json.loads((tmp_path / name).read_text()) for name in ("train.json", "run.json"))
    assert record["model.horizon"] == DEBUG.policy.horizon and record["model.image_size"] == DEBUG.policy.image_size
    assert summary["members"][0]["representation"] == {"action": "absolute"}
    assert summary["members"][0]["normalisation"] == {"action": "q01_q99"}


def test_held_episodes_are_not_trained_on(data: Path, cache: Path, tmp_path: Path) -> None:
    summary = ground.run(settings(data, tmp_path, cache, held_episodes="1", steps=1), quiet=True)
    assert (summary["members"][0]["samples"], summary["members"][0]["held_out_samples"]) == (30, 45)


def test_the_last_action_is_in_the_state_and_chunks_are_relative_to_it(data: Path, cache: Path, tmp_path: Path) -> None:
    changes = {"previous_action": True, "representation": "relative", "steps": 1}
    ground.run(settings(data, tmp_path, cache, **changes), quiet=True)
    codec = Policy.from_pretrained(tmp_path).embodiment("two_link").action_space
    episodes = opened(data, previous_action=True)
    assert codec.state_names == episodes.state_names and len(episodes.state_names) > 3
    assert codec.parts[0].state_dims == (3, 4)  # of 3 numbers and the last action's 2
    chunk = (np.arange(1, 9)[:, None] * (1 / FPS, -1 / FPS)).astype(np.float32)[None]  # as fast as in the data
    state = np.zeros((1, codec.state_dim), np.float32)
    state[:, 3:] = (0.25, -0.5)
    moved = codec.decode_action(state, codec.encode_action(0 * state, chunk))
    np.testing.assert_allclose(moved[0], chunk[0] + (0.25, -0.5), atol=1e-6)


def test_a_recipe_on_a_frozen_vision_model_by_folder_trains_on_kept_features(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    name = save("dinov2", tmp_path / "dino")
    small = {"small": {"dim": 32, "channels": (16, 32), "keypoints": 8}, "image_size": 28, "horizon": 8}
    fields = {
        "backbone": name,
        "model": small,
        "embodiment": "two_link",
        "cache": cache,
        "steps": 2,
        "cameras": CAMERAS,
    }
    for recipe in ("small_dino", "bc_dino"):
        made = jobs.ground(data, tmp_path / recipe, recipe=recipe, **fields)
        policy = made.model
        assert policy.config.vision.name == name and set(policy.embodiments) == {"two_link"}
    assert len(list((cache / "features").glob("*/*.safetensors"))) > 0
    with pytest.raises(
        ValueError, match="--backbone '.*': this recipe's policy has no model by name; choose --recipe small"
    ):
        jobs.ground(data, tmp_path / "small", backbone=name)


def test_a_robot_that_the_policy_does_not_know_is_refused_unless_it_is_said_to_be_new(
    straight, data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = str(straight[0])
    trained: list[str] = []
    monkeypatch.setattr(
        "jobs.training.policy_run.train_on",
        lambda config, mixture, *_, **__: trained.append(mixture.datasets[0].embodiment),
    )

    def run(**changes: Any) -> None:
        ground.run(settings(data, tmp_path, cache, policy=base, **changes), quiet=True)

    with pytest.raises(
        ValueError, match=r"--embodiment 'two_lnk': --policy '.*' knows two_link; give one of these, or"
    ):
        run(embodiment="two_lnk")
    with pytest.raises(ValueError, match="knows two_link"):  # a name of every policy, which was never trained here
        run(embodiment="franka")
    with pytest.raises(ValueError, match="--new-embodiment beside --embodiment two_link"):
        run(new_embodiment=True)
    run(embodiment="")  # its only robot
    run(embodiment="franka", new_embodiment=True)
    run(embodiment="franka", start_from="two_link")
    assert trained == ["two_link", "franka", "franka"]

    monkeypatch.setattr("vla.stored.known_robots", lambda _: ())
    run(embodiment="franka")
    assert trained[-1] == "franka" and "knows no robot: the weights of 'franka' begin afresh" in caplog.text
    with pytest.raises(
        ValueError, match=r"'unitre_g1' \(did you mean 'unitree_g1'\?\): .* knows no robot; give one of gr1,"
    ):
        run(embodiment="unitre_g1")
    with pytest.raises(ValueError, match=r"'my_arm': .* knows no robot"):
        run(embodiment="my_arm")
    run(embodiment="my_arm", new_embodiment=True)
    assert trained[-1] == "my_arm"
    monkeypatch.setattr("vla.stored.known_robots", lambda _: ("gr1", "aloha"))
    with pytest.raises(ValueError, match="knows gr1, aloha: name one with --embodiment"):
        run(embodiment="")


def test_from_scratch_a_misspelt_robot_is_refused(data: Path, cache: Path, tmp_path: Path) -> None:
    """Nothing is lost by another name, but the policy would have a typo's."""
    with pytest.raises(ValueError, match=r"--embodiment 'unitre_g1' \(did you mean 'unitree_g1'\?\): else give --new"):
        ground.embodiment_in(settings(data, tmp_path, cache, embodiment="unitre_g1"))
    for named in ("my_arm", "unitree_g1"):
        assert ground.embodiment_in(settings(data, tmp_path, cache, embodiment=named)) == named
    new = settings(data, tmp_path, cache, embodiment="unitre_g1", new_embodiment=True)
    assert ground.embodiment_in(new) == "unitre_g1"
