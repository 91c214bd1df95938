"""Training of a policy: batches without actions, FLARE on clips, the schedule."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.mixture import read_mixture
from corpora.store.run import Run
from flare.action_aware import ActionAwareEncoder, ActionAwareTraining, FlowHead
from flare.config import FlareConfig
from flare.targets import ActionAwareTarget, StandardisedTarget, probe_tokens
from flare.vision import FrozenText
from jobs.commands import ground, pretrain
from jobs.training import policy_run
from jobs.training.policy_run import flare_target
from tests.builders.corpora import write_corpus
from tests.builders.datasets import change_column, lerobot_v3
from tests.builders.policies import batch_of, tiny_policy
from tests.flare.test_vision import save_t5
from vla.checkpoint import build_policy
from vla.data.loader import collate
from vla.data.open import open_mixture
from vla.models.dual_system import DualSystemPolicy
from vla.recipes import recipe_named
from vla.training import PolicyTraining, schedule
from vla.training_config import PolicyTrainingConfig

DEBUG = recipe_named("debug")
FLARE = FlareConfig(future_s=0.3)


def logged(out: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value, of all sessions of a run."""
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def trained() -> tuple[PolicyTraining, DualSystemPolicy]:
    policy = tiny_policy().train()
    training = PolicyTrainingConfig(steps=10, flare=True, alignment=FLARE)
    return PolicyTraining(policy, training, target=flare_target(policy, training, 1)), policy


@pytest.mark.parametrize("future", [True, False])
def test_a_batch_in_which_nobody_has_actions_has_no_action_loss_and_finite_gradients(future: bool) -> None:
    module, policy = trained()
    batch = batch_of(policy.config, [0, 3, 9])
    batch["action_mask"][:] = False
    batch["has_future"][:] = future
    parts, _ = module.losses(policy, batch)
    assert parts["action"].item() == 0
    assert (parts["alignment"].item() > 0) == future
    torch.stack(list(parts.values())).sum().backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients) == future


def test_the_action_loss_is_the_mean_over_samples_that_have_actions() -> None:
    module, policy = trained()
    batch = batch_of(policy.config, [0, 3, 9])
    batch["action_mask"][1] = False
    torch.manual_seed(0)
    parts, output = module.losses(policy, batch)
    assert parts["action"].item() == pytest.approx((output.action_loss[0] + output.action_loss[2]).item() / 2, rel=1e-5)


def test_aligned_with_the_change_what_stands_still_teaches_nothing() -> None:
    policy = tiny_policy().train()
    alignment = dataclasses.replace(FLARE, change=True, ema=1.0)
    training = PolicyTrainingConfig(steps=10, flare=True, alignment=alignment)
    module = PolicyTraining(policy, training, target=flare_target(policy, training, 1))
    batch = batch_of(policy.config, [0, 3, 9])
    batch["future"][0] = batch["images"][0, :, -1]
    parts, output = module.losses(policy, batch)
    _, targets, *_ = module._aligned(output, batch)
    assert not targets[0].any() and targets[1].any()
    before = module.target.of_batch(batch["future"], batch["instruction"], batch["has_future"])[0]
    now = module.target.of_batch(batch["images"][:, :, -1], batch["instruction"], batch["has_future"])[0]
    torch.testing.assert_close(targets[1:3], (before - now)[1:])
    batch["before"] = batch["images"][:, :, -1].flip(0)  # futures of other clips, with what they follow
    torch.testing.assert_close(module._aligned(output, batch)[1][1], (before - now.flip(0))[1])
    parts["alignment"].backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_clips_without_actions_train_by_alignment_alone(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", range(6))
    (tmp_path / "pyramid.toml").write_text(
        f'[[member]]\nname = "clips"\ntier = "human"\nlabel = "none"\ncorpus = "{corpus}"\n'
    )
    alignment = dataclasses.replace(FLARE, target="ema", ema=1.0, standardise=True)  # frozen
    training = dataclasses.replace(DEBUG.training, flare=True, alignment=alignment, val_every_steps=5, lr=3e-3)
    config = pretrain.PretrainConfig(
        pyramid=tmp_path / "pyramid.toml", out=tmp_path / "run", recipe="debug", cache=tmp_path / "cache", steps=120,
        held_share=0.3, model=DEBUG.policy, training=training,
    )  # fmt: skip
    summary = pretrain.run(config, quiet=True)
    assert not [name for name in summary["held_out"] if name.startswith("val/action_loss")]
    curves = logged(tmp_path / "run")
    assert set(curves["train/action_loss"].values()) == {0.0}
    aligned = [value for _, value in sorted(curves["val/flare/alignment_higher_is_better"].items())]
    # on held-out clips; of six made clips little more than the common direction can be learned
    assert aligned[-1] > aligned[0] + 0.1


def test_the_rate_warms_up_and_falls_to_two_percent() -> None:
    assert schedule(0.0, 0.05) < 0.05
    assert schedule(0.05, 0.05) == pytest.approx(1, abs=0.01)
    assert schedule(1.0, 0.05) == pytest.approx(0.02)
    assert schedule(0.525, 0.05) == pytest.approx(0.51 - 0.98 / 2 * np.sin(np.pi * 0.025), abs=1e-6)
    falling = [schedule(step / 100, 0.05) for step in range(5, 101)]
    assert all(a >= b for a, b in itertools.pairwise(falling))


def test_flare_is_refused_where_the_policy_has_no_future_tokens() -> None:
    policy = tiny_policy(future_tokens=0)
    training = PolicyTrainingConfig(steps=1, flare=True, alignment=FLARE)
    with pytest.raises(ValueError, match="the policy has no future tokens; .*--model.future-tokens"):
        flare_target(policy, training, 1)


def test_a_dataset_whose_align_is_zero_gives_no_gradient_of_the_alignment(tmp_path: Path) -> None:
    """As the pyramid file says it: the same clips with weight 1, 0 and 0.5."""
    corpus = write_corpus(tmp_path / "corpus", [1, 2, 3])
    gradients = {}
    for align in (1.0, 0.0, 0.5):
        (tmp_path / "pyramid.toml").write_text(
            f'[[dataset]]\nname = "clips"\ntier = "human"\nlabel = "unlabelled"\ncorpus = "{corpus}"\nalign = {align}\n'
        )
        torch.manual_seed(0)
        policy = build_policy(DEBUG.policy).train()
        training = PolicyTrainingConfig(steps=10, flare=True, alignment=FLARE)
        (clips,) = open_mixture(
            read_mixture(tmp_path / "pyramid.toml"), policy, future_s=FLARE.future_s, cache=tmp_path / "cache"
        )
        module = PolicyTraining(policy, training, target=flare_target(policy, training, 1))
        batch = collate([clips], [(0, int(index)) for index in clips.train[:4]], policy.config, cameras=1)
        assert batch["has_future"].all() and batch["align"].tolist() == [align] * 4
        torch.manual_seed(1)
        parts, _ = module.losses(policy, batch)
        parts["alignment"].backward()
        gradients[align] = sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)
    assert gradients[0.0] == 0 < gradients[1.0]
    assert gradients[0.5] == pytest.approx(0.5 * gradients[1.0], rel=1e-3)


def test_parts_of_an_action_reach_the_policy_from_the_pyramid_file(tmp_path: Path) -> None:
    data = lerobot_v3(tmp_path / "pick")
    (tmp_path / "pyramid.toml").write_text(
        f'[[dataset]]\nname = "demos"\ntier = "robot"\nlabel = "actions"\nfolder = "{data}"\nembodiment = "franka"\n'
        '[[dataset.action_parts]]\nname = "arm"\ndims = [0]\nstate_dims = [0]\nrepresentation = "relative"\n'
        'per_step = true\n[[dataset.action_parts]]\nname = "gripper"\ndims = [1]\nnormalisation = "min_max"\n'
    )
    mixture = read_mixture(tmp_path / "pyramid.toml")
    policy = build_policy(DEBUG.policy)
    open_mixture(mixture, policy, cache=tmp_path / "cache")
    assert policy.embodiments["franka"].action_space.parts == mixture.datasets[0].label.parts
    assert [part.representation for part in mixture.datasets[0].label.parts] == ["relative", "absolute"]


def test_what_is_said_of_the_data_reaches_their_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: the flag that makes new statistics; M7, M9: what is held out and left out."""
    tiny_policy().save_pretrained(tmp_path / "policy")
    selection = EpisodeSelection("0:2", keep_idle=True)
    config = ground.GroundConfig(
        data=lerobot_v3(tmp_path / "pick"), out=tmp_path / "run", policy=str(tmp_path / "policy"), embodiment="new",
        selection=selection, refit=True, start_from="gr1", held_episodes="1", seed=3, steps=1, model=DEBUG.policy,
        training=DEBUG.training,
    )  # fmt: skip
    opened: list[tuple[Any, dict[str, Any]]] = []

    def begun(mixture: Any, policy: Any, **said: Any) -> None:
        opened.append((mixture, said))
        raise InterruptedError

    monkeypatch.setattr(policy_run, "open_mixture", begun)
    with pytest.raises(InterruptedError):
        ground.run(config, quiet=True)
    ((mixture, said),) = opened
    assert mixture.datasets[0].data.selection == selection
    assert (said["refit"], said["start_from"], said["seed"]) == (True, {"new": "gr1"}, 3)
    assert said["held_out_episodes"] == {"demonstrations": "1"}


def test_what_flares_target_does_not_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """M12: it reads fewer words than the policy."""
    dataset = SimpleNamespace(name="pick", data=SimpleNamespace(texts=["open the drawer", "open the door"]))
    reader = FrozenText(save_t5(tmp_path), length=2)
    policy = tiny_policy()
    vision, sizes = policy.frame_encoder, {"dim": 8, "heads": 2}
    assert vision is not None
    width = probe_tokens(vision, policy.config.image_size)[1]
    encoder = ActionAwareEncoder(vision, width, text=reader, text_dim=reader.dim, tokens=2, layers=1, **sizes)
    learner = ActionAwareTraining(encoder, FlowHead(2, 3, 8, depth=1, **sizes))
    target = StandardisedTarget(ActionAwareTarget(learner))

    def begun(*given: Any, **named: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(policy_run, "PolicyBatches", begun)
    monkeypatch.setattr(policy_run, "cameras_of", lambda datasets: 1)
    monkeypatch.setattr(policy_run, "flare_target", lambda *given, **named: target)
    training = dataclasses.replace(DEBUG.training, flare=True)
    with pytest.raises(InterruptedError):
        policy_run.train_policy(policy, [dataset], training, Run(tmp_path, {}), seed=0)  # type: ignore[list-item]
    assert caplog.text.count("FLARE's target cuts 2 of 2 instructions, by up to 1 tokens") == 1
    assert caplog.text.count("FLARE's target reads 2 of 2 instructions as the same") == 1


def test_a_run_goes_on_with_the_data_that_it_was_begun_with(tmp_path: Path) -> None:
    """V9: of a pyramid's datasets, and of those that demonstrations are trained on beside."""
    data = lerobot_v3(tmp_path / "pick")
    (tmp_path / "pyramid.toml").write_text(
        '[[dataset]]\nname = "clips"\ntier = "human"\nlabel = "none"\ncorpus = "corpus"\n'
        '[[dataset]]\nname = "demos"\ntier = "robot"\nlabel = "actions"\ndataset = "pick"\nembodiment = "franka"\n'
    )
    write_corpus(tmp_path / "corpus", range(3))
    flare = dataclasses.replace(DEBUG.training, flare=True, alignment=FLARE)
    common: dict[str, Any] = {
        "recipe": "debug", "cache": tmp_path / "cache", "steps": 2, "model": DEBUG.policy, "training": flare
    }  # fmt: skip
    pyramid = tmp_path / "pyramid.toml"
    wide = pretrain.PretrainConfig(pyramid=pyramid, out=tmp_path / "wide", held_share=0.0, **common)
    deep = ground.GroundConfig(data=data, out=tmp_path / "deep", co_train=pyramid, embodiment="franka", **common)
    jobs: list[Callable[[], dict[str, Any]]] = [
        lambda: pretrain.run(wide, quiet=True),
        lambda: ground.run(deep, quiet=True),
    ]
    for job in jobs:
        assert "already_finished" not in job() and job()["already_finished"]
    shutil.rmtree(tmp_path / "corpus")
    write_corpus(tmp_path / "corpus", range(1, 4))
    for job in jobs:
        with pytest.raises(ValueError, match=r"data_fingerprint\.clips .* there and .* here"):
            job()
    (table,) = data.glob("data/**/*.parquet")
    change_column(table, "action", (np.array(pq.read_table(table)["action"].to_pylist()) / 2).tolist())
    for job in jobs:  # its metadata are as they were
        with pytest.raises(ValueError, match=r"data_contents\.demo\w+ .* there and .* here, data_fingerprint\.clips"):
            job()
    pyramid.write_text(pyramid.read_text().replace('tier = "human"', 'tier = "human"\nweight = 0.5'))
    with pytest.raises(ValueError, match=r"beside\.0\.weight"):
        jobs[1]()
