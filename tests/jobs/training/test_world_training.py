"""Training of the world-action head: its two stages killed and resumed, people's video without labels, grounding."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpora.episodes.selection import EpisodeSelection
from jobs.ablation.arms import ARMS, POLICIES
from jobs.ablation.config import POLICY
from jobs.commands import evaluate, ground, pretrain
from jobs.training.policy_run import FIRST
from tests.builders.corpora import write_corpus
from tests.builders.datasets import CAMERAS, ONE_TASK, lerobot_v3
from tests.builders.policies import batch_of
from tests.builders.recipes import tiny_dino
from tests.builders.world import tiny_world_config
from vla.checkpoint import build_policy, load_policy
from vla.models.config import VisionConfig
from vla.models.world_action import WorldActionPolicy
from vla.recipes import recipe_named
from vla.training import FirstStageTraining, PolicyTraining

DEBUG = recipe_named("debug")
STEPS = 12
PYRAMID = """
[[dataset]]
name = "clips"
tier = "human"
label = "none"
corpus = "corpus"

[[dataset]]
name = "demos"
tier = "robot"
label = "action"
dataset = "pick"
embodiment = "franka"
cameras = ["observation.images.head"]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a pyramid file with people's clips and demonstrations."""
    folder = tmp_path_factory.mktemp("data")
    write_corpus(folder / "corpus", range(6))
    lerobot_v3(folder / "pick", tasks=ONE_TASK)
    (folder / "pyramid.toml").write_text(PYRAMID)
    return folder


def settings(data: Path, out: Path, **changes: Any) -> pretrain.PretrainConfig:
    training = dataclasses.replace(DEBUG.training, val_every_steps=4)
    base = pretrain.PretrainConfig(
        pyramid=data / "pyramid.toml", out=out, recipe="debug", cache=data / "cache", steps=STEPS, held_share=0.3,
        model=tiny_world_config(), training=training,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("straight")
    return out, pretrain.run(settings(data, out), quiet=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_policy(folder).state_dict()


def test_it_trains_in_two_stages_and_tells_each_beside_its_baseline(straight: tuple[Path, dict[str, Any]]) -> None:
    out, summary = straight
    first = summary[FIRST]
    assert first["steps"] == 6 and set(first["held_out"]) == {"error", "mean_picture"}
    told = {f"val/{name}/{data}" for name in ("picture_error", "picture_copied") for data in ("clips", "demos")}
    assert set(summary["held_out"]) == told | {"val/action_loss/demos"}
    assert all(np.isfinite(value) for value in summary["held_out"].values())
    policy = load_policy(out)
    assert isinstance(policy, WorldActionPolicy) and policy.first_stage is None
    frozen = sum(p.numel() for p in policy.pictures.parameters())  # type: ignore[union-attr]
    assert summary["parameters"] - summary["trained_parameters"] == frozen


@pytest.mark.parametrize(("stage", "step"), [(FirstStageTraining, 2), (FirstStageTraining, 5), (PolicyTraining, 5)])
def test_killed_in_either_stage_it_ends_where_an_uninterrupted_run_ends(
    straight: tuple[Path, dict[str, Any]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: type[FirstStageTraining | PolicyTraining],
    step: int,
) -> None:
    trained: list[int] = []
    real = stage.training_step

    def killed(self: Any, batch: Any, index: int) -> torch.Tensor:
        trained.append(self.trainer.global_step)
        if self.trainer.global_step == step:
            raise RuntimeError("killed")
        return real(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain.run(settings(data, tmp_path), quiet=True)

    def watched(self: Any, batch: Any, index: int) -> torch.Tensor:
        trained.append(self.trainer.global_step)
        return real(self, batch, index)

    trained.clear()
    with monkeypatch.context() as patch:
        patch.setattr(stage, "training_step", watched)
        resumed = pretrain.run(settings(data, tmp_path), quiet=True)
    assert step < 3 or min(trained) > 0  # it did not begin anew
    assert resumed["held_out"] == straight[1]["held_out"]
    assert resumed[FIRST]["held_out"] == straight[1][FIRST]["held_out"]
    mine, theirs = weights(tmp_path), weights(straight[0])
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_clips_without_any_label_train_the_picture_alone(data: Path, tmp_path: Path) -> None:
    alone = tmp_path / "pyramid.toml"
    alone.write_text(PYRAMID.split('[[dataset]]\nname = "demos"')[0].replace('"corpus"\n', f'"{data / "corpus"}"\n'))
    summary = pretrain.run(settings(data, tmp_path / "run", pyramid=alone), quiet=True)
    assert set(summary["held_out"]) == {"val/picture_error/clips", "val/picture_copied/clips"}


def test_grounding_keeps_the_pictures_and_the_policy_is_evaluated(
    straight: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    base = straight[0]
    summary = ground.run(
        ground.GroundConfig(
            data=data / "pick", out=tmp_path / "run", recipe="debug", cache=data / "cache", steps=4, policy=str(base),
            model=tiny_world_config(), training=DEBUG.training, embodiment="franka",
            selection=EpisodeSelection(cameras=CAMERAS[:1]),
        ),
        quiet=True,
    )  # fmt: skip
    assert FIRST not in summary
    before, after = weights(base), weights(tmp_path / "run")
    same = {name for name in before if torch.equal(before[name], after[name])}
    pictures = {name for name in before if name.startswith("pictures.")}
    assert pictures <= same and "frame.weight" not in same
    asked = evaluate.EvaluateConfig(
        policy=str(tmp_path / "run"), out=tmp_path / "four", data=data / "pick", cache=data / "cache",
        plots=0, selection=EpisodeSelection(episodes="1"),
    )  # fmt: skip
    four = evaluate.run(asked, quiet=True)
    other = evaluate.run(dataclasses.replace(asked, out=tmp_path / "one", passes=1), quiet=True)
    assert other["passes"] == 1 and "passes" not in four
    assert {**other["open_loop"], "settings": 0} != {**four["open_loop"], "settings": 0}
    with pytest.raises(ValueError, match="passes"):
        evaluate.run(dataclasses.replace(asked, passes=1), quiet=True)


@pytest.mark.parametrize("kept", [True, False])
def test_on_a_frozen_model_it_trains_without_a_first_stage(data: Path, tmp_path: Path, kept: bool) -> None:
    training = dataclasses.replace(DEBUG.training, cache_features=kept)
    model = tiny_world_config(vision=VisionConfig(name=tiny_dino()))
    out = tmp_path / "run"
    summary = pretrain.run(settings(data, out, model=model, training=training, steps=3, cache=tmp_path), quiet=True)
    assert FIRST not in summary and summary["held_out"]["val/picture_error/clips"] > 0
    assert (tmp_path / "features").is_dir() == kept


def test_the_world_arms_of_an_ablation_have_a_policy_of_its_own_sizes() -> None:
    kind = POLICIES[ARMS["human-world"].recipe]
    policy = build_policy(dataclasses.replace(POLICY, head=kind.head, feeding=kind.feeding))
    assert policy.first_stage is not None and policy.future_s and not policy.future_tokens
    side = policy.config.image_size
    batch = batch_of(policy.config, [3, 3])
    batch["images"] = torch.randint(0, 255, (2, 1, 1, 3, side, side), dtype=torch.uint8)
    batch["future"] = batch["images"][:, :, 0].flip(-1)
    output = policy.train().loss(batch)
    assert output.picture is not None and output.picture.loss.min() > 0 and output.action_loss.min() > 0
