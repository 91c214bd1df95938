"""Training in bfloat16 (V5): what must be float32 is, the flow's time is embedded as in acting, and what is saved acts alike."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from corpora.episodes.selection import EpisodeSelection
from corpora.store.run import TRAINING, Run
from jobs.commands import ground, train_lam
from jobs.training.policy_run import train_policy
from tests.builders.datasets import CAMERAS, lerobot_v3
from tests.builders.lam import lam_settings
from tests.builders.policies import some_images, teach, tiny_bc, tiny_policy
from tests.builders.vlms import tiny_backbone
from tests.jobs.training.test_policy_data import CONFIG, members
from vla.checkpoint import load_policy
from vla.data.loader import TrainingDataset
from vla.models import dit
from vla.models.config import VlmConfig
from vla.models.dual_system import DualSystemPolicy
from vla.recipes import recipe_named
from vla.stored import WEIGHTS
from vla.trained_on import TrainedOn
from vla.training import PolicyTraining
from vla.training_config import PolicyTrainingConfig

DEBUG = recipe_named("debug")
STEPS = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_v3(tmp_path_factory.mktemp("data") / "pick")


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_training_in_bfloat16_keeps_in_float32_what_matters(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    times: list[tuple[Tensor, Tensor]] = []
    kinds: set[tuple[torch.dtype, ...]] = set()
    embed, step = dit.flow_time_features, PolicyTraining.training_step

    def spied(bucket: Tensor) -> Tensor:
        times.append((bucket.detach().clone(), embed(bucket).detach().clone()))
        return embed(bucket)

    def spied_step(module: PolicyTraining, *given: Any) -> Any:
        assert module.average is not None
        kinds.update(
            (one.dtype, two.dtype)
            for one, two in zip(module.policy.parameters(), module.average.module.parameters(), strict=True)
        )
        return step(module, *given)

    monkeypatch.setattr(dit, "flow_time_features", spied)
    monkeypatch.setattr(PolicyTraining, "training_step", spied_step)
    config = ground.GroundConfig(
        data=data, out=tmp_path / "out", recipe="debug", cache=tmp_path / "cache", embodiment="two_link",
        selection=EpisodeSelection(cameras=CAMERAS[:1]), model=DEBUG.policy, steps=STEPS, held_episodes="1",
        training=dataclasses.replace(DEBUG.training, precision=precision, val_every_steps=3),
    )  # fmt: skip
    summary = ground.run(config, quiet=True)
    assert summary["steps"] == STEPS and all(np.isfinite(value) for value in summary["held_out"].values())
    assert kinds == {(torch.float32, torch.float32)}
    assert len(times) > STEPS
    for bucket, embedded in times:
        acting = embed(bucket)
        assert torch.cosine_similarity(embedded.double(), acting.double(), dim=-1).min() > 0.99999
    saved = load_file(tmp_path / "out" / WEIGHTS)
    assert {value.dtype for value in saved.values()} == {torch.float32}
    assert any(not torch.equal(value, value.bfloat16().float()) for value in saved.values())


def frozen_policy() -> DualSystemPolicy:
    torch.manual_seed(0)
    backbone = tiny_backbone(layer=2)
    return DualSystemPolicy(dataclasses.replace(CONFIG, vlm=VlmConfig(name="nobody/has-this", layer=2)), backbone)


@pytest.mark.parametrize("cached", [False, True])
def test_bf16_true_halves_what_is_not_trained_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    policy, step = frozen_policy(), PolicyTraining.training_step
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    kinds: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def spied_step(module: PolicyTraining, *given: Any) -> Any:
        for parameter in module.policy.parameters():
            kinds[parameter.requires_grad].add(parameter.dtype)
        return step(module, *given)

    monkeypatch.setattr(PolicyTraining, "training_step", spied_step)
    monkeypatch.setattr(TrainingDataset, "record", lambda made: TrainedOn(made.name, "", "", "", "clips"))
    training = PolicyTrainingConfig(
        steps=STEPS, batch_size=8, precision="bf16-true", cache_features=cached, workers=0, ema=0.0, val_every_steps=3
    )
    summary = train_policy(policy, members(), training, Run(tmp_path / "out", {}), seed=0, cache=tmp_path, quiet=True)
    assert summary["steps"] == STEPS
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    for name, value in load_file(tmp_path / "out" / WEIGHTS).items():
        assert value.dtype == torch.float32, name
        if name.startswith("backbone."):
            assert torch.equal(value, before[name].bfloat16().float()), name
    assert load_policy(tmp_path / "out").config == policy.config


def act(policy: Any) -> np.ndarray[Any, Any]:
    images, state = some_images(2), np.random.default_rng(0).normal(2, 3, (2, 4)).astype(np.float32)
    return policy.act_batch(images, torch.ones(2, 1, 1, dtype=torch.bool), ["open", "close"], state, "gr1")


@pytest.mark.parametrize("kind", ["flow", "regression"])
def test_a_policy_in_bfloat16_acts_as_in_float32(kind: str) -> None:
    flow = dataclasses.replace(DEBUG.policy.flow, temperature=0.0)
    policy: nn.Module = tiny_policy(flow=flow) if kind == "flow" else tiny_bc()
    teach(policy, "gr1", 4, 3)  # type: ignore[arg-type]
    whole = act(policy)
    halved = act(policy.bfloat16())
    assert halved.dtype == np.float32
    assert 0 < np.abs(halved - whole).max() < 0.05 * whole.std()


@pytest.mark.parametrize("job", ["train-lam", "ground"])
@pytest.mark.parametrize(("fast", "chosen"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_bfloat16_where_that_is_fast_and_a_run_goes_on_in_what_it_began_with(
    job: str, fast: bool, chosen: str, data: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    class Spied(lightning.Trainer):
        def __init__(self, **options: Any) -> None:
            used.append(options["precision"])
            super().__init__(**options)

    monkeypatch.setattr(lightning, "Trainer", Spied)

    def train(steps: int, precision: str = "auto") -> dict[str, Any]:
        if job == "train-lam":
            settings = lam_settings(tiny_corpus, tmp_path / "out", steps=steps)
            changed = dataclasses.replace(settings.training, precision=precision)
            return train_lam.run(dataclasses.replace(settings, training=changed), quiet=True)
        config = ground.GroundConfig(
            data=data, out=tmp_path / "out", recipe="debug", cache=tmp_path / "cache", embodiment="two_link",
            selection=EpisodeSelection(cameras=CAMERAS[:1]), model=DEBUG.policy, steps=steps, held_episodes="1",
            training=dataclasses.replace(DEBUG.training, precision=precision),
        )  # fmt: skip
        return ground.run(config, quiet=True)

    for steps in (1, 2):
        monkeypatch.setattr("jobs.training.precision.fast_bfloat16", lambda steps=steps: fast == (steps == 1))
        assert train(steps)["precision"] == chosen  # also where the second machine is another one
    assert used == [chosen, chosen]
    assert json.loads((tmp_path / "out" / TRAINING).read_text())["training.precision"] == chosen
    assert train(2, chosen)["already_finished"]
    with pytest.raises(ValueError, match=f"training.precision {chosen} there"):
        train(2, "bf16-mixed" if chosen == "32-true" else "32-true")


@pytest.mark.parametrize("job", ["train-lam", "ground"])
def test_a_compiled_training_learns_the_same_and_saves_the_same_names(
    job: str, data: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a compiler that only traces; with g++ it takes minutes."""
    compiled: list[str] = []

    def traced(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        compiled.append(str(graph))
        return graph.forward

    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda part: compile_(part, backend=traced))

    def train(out: Path, *, steps: int, compile: bool) -> dict[str, Tensor]:
        if job == "train-lam":
            settings = lam_settings(tiny_corpus, out, steps=steps)
            changed = dataclasses.replace(settings.training, compile=compile)
            train_lam.run(dataclasses.replace(settings, training=changed), quiet=True)
        else:
            ground.run(
                ground.GroundConfig(
                    data=data, out=out, recipe="debug", cache=tmp_path / "cache", embodiment="two_link",
                    selection=EpisodeSelection(cameras=CAMERAS[:1]), model=DEBUG.policy, steps=steps,
                    held_episodes="1", training=dataclasses.replace(DEBUG.training, compile=compile),
                ),
                quiet=True,
            )  # fmt: skip
        return load_file(out / WEIGHTS)

    plain = train(tmp_path / "plain", steps=3, compile=False)
    assert not compiled
    found = train(tmp_path / "compiled", steps=3, compile=True)
    assert compiled and found.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(found[name], plain[name], rtol=1e-3, atol=1e-4, msg=name)
    train(tmp_path / "plain", steps=4, compile=True)  # a run may go on compiled

    def fails(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        raise RuntimeError("no compiler\nat all")

    torch._dynamo.reset()
    monkeypatch.setattr(nn.Module, "compile", lambda part: compile_(part, backend=fails))
    with pytest.raises(
        ValueError, match=r"^--training.compile: torch.compile failed \(.*no compiler at all\); leave the flag out"
    ):
        train(tmp_path / "failed", steps=3, compile=True)
    torch._dynamo.reset()


def test_shards_are_not_compiled() -> None:
    with pytest.raises(ValueError, match="compile with strategy fsdp"):
        PolicyTrainingConfig(steps=1, compile=True, strategy="fsdp")
