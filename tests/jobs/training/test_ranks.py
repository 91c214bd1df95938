"""L7, V3, V4, V16: several processes train as one. Two gloo processes have the losses of one at every step, its weights at the
end, and each other's to the bit; without the synchronisation of gradients or codes the first test of each would fail."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Timer
from safetensors.torch import load_file

from corpora.store.ranks import Launch, launched, process_rank
from flare.config import ActionAwareConfig, FlareConfig
from jobs.commands import pretrain, train_lam
from jobs.training.trainer import CHECKPOINT
from lapa.model.config import LamConfig
from lapa.training import LamTraining
from tests.builders.corpora import write_corpus
from tests.builders.datasets import ONE_TASK, lerobot_v3
from tests.builders.lam import TINY, lam_settings
from tests.builders.processes import run_apart, run_ranks
from vla.recipes import recipe_named
from vla.sharding import gathered
from vla.training import PolicyTraining

STEPS = 6
ROUNDING = {"rtol": 2e-5, "atol": 1e-6}
"""Of losses: sums of float32 in another order, through six steps of an optimiser."""
DEBUG = recipe_named("debug")

Config = train_lam.TrainLamConfig | pretrain.PretrainConfig
Curve = list[float]
Weights = dict[str, torch.Tensor]


def lam_config(corpus: Path, out: Path, **training: Any) -> train_lam.TrainLamConfig:
    model = training.pop("model", TINY)
    config = lam_settings(corpus, out, model=model, steps=STEPS)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **training))


def policy_config(data: Path, out: Path, **training: Any) -> pretrain.PretrainConfig:
    """Some of a batch have actions and some a future, not as many on each rank; with FLARE, averages and the augmentations."""
    small = ActionAwareConfig(dim=32, layers=1, reads=1, heads=2, head_dim=32, head_layers=1)
    flare = FlareConfig(future_s=0.3, target="action_aware", standardise=True, action_aware=small)
    whole = {"flare": True, "alignment": flare, "val_every_steps": 3, "lr": 3e-3, **training}
    return pretrain.PretrainConfig(
        pyramid=data / "pyramid.toml", out=out, recipe="debug", cache=data / "cache", steps=STEPS, held_share=0.3,
        model=DEBUG.policy, training=dataclasses.replace(DEBUG.training, **whole),
    )  # fmt: skip


def trained(config: Config, kept: Path, unsynchronised: bool = False) -> None:
    """Trains, and keeps what each step's loss was and the weights at the end, of each rank."""
    losses: Curve = []
    for kind in (LamTraining, PolicyTraining):

        def log(self: Any, name: str, value: Any, *rest: Any, log: Any = kind.log, **options: Any) -> None:
            if name == "train/loss":
                losses.append(float(value))
            log(self, name, value, *rest, **options)

        def save(self: Any, outputs: Any, batch: Any, index: int) -> None:
            if self.global_step == STEPS:
                whole = gathered(self.state_dict()).items()
                weights = {name: value.detach().clone() for name, value in whole if value is not None}
                torch.save({"losses": losses, "weights": weights}, kept.with_suffix(f".{self.global_rank}"))

        kind.log, kind.on_train_batch_end = log, save  # type: ignore[method-assign, assignment]
    if unsynchronised:
        from torch.nn.parallel import DistributedDataParallel

        forward = DistributedDataParallel.forward

        def alone(self: Any, *inputs: Any, **named: Any) -> Any:
            with self.no_sync():
                return forward(self, *inputs, **named)

        DistributedDataParallel.forward = alone  # type: ignore[method-assign]
    only_trained(config)


def only_trained(config: Config) -> None:
    torch.set_num_threads(1)
    job = train_lam if isinstance(config, train_lam.TrainLamConfig) else pretrain
    job.run(config, quiet=True)  # type: ignore[arg-type]


def of(kept: Path, rank: int = 0) -> tuple[Curve, Weights]:
    found = torch.load(kept.with_suffix(f".{rank}"), weights_only=True)
    return found["losses"], found["weights"]


def alone(config: Config, folder: Path) -> tuple[Curve, Weights]:
    """What one process comes to."""
    assert run_apart(trained, config, folder / "one", log=folder / "one.log") == 0, (folder / "one.log").read_text()
    return of(folder / "one")


def together(config: Config, folder: Path, *more: Any, by: str = "torchrun") -> list[tuple[Curve, Weights]]:
    """What each of two processes comes to."""
    ended = run_ranks(trained, config, folder / "two", *more, ranks=2, folder=folder / "logs", by=by)
    assert ended == [0, 0], "".join(log.read_text() for log in (folder / "logs").iterdir())
    return [of(folder / "two", rank) for rank in range(2)]


def apart(first: Weights, second: Weights) -> float:
    """Share of the weights' norm by which two models differ."""
    whole = {name: (first[name].double(), second[name].double()) for name in first}
    squares = [(float((a - b).square().sum()), float(a.square().sum())) for a, b in whole.values()]
    return (sum(a for a, _ in squares) / sum(b for _, b in squares)) ** 0.5


def assert_one_training(one: tuple[Curve, Weights], two: list[tuple[Curve, Weights]], within: float) -> None:
    assert len(one[0]) == STEPS
    torch.testing.assert_close(torch.tensor(two[0][0]), torch.tensor(one[0]), **ROUNDING)
    first, second = two[0][1], two[1][1]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert apart(one[1], first) < within


KINDS: dict[str, LamConfig] = {
    # codes that a batch does not use are replaced at once
    kind: dataclasses.replace(
        TINY, quantiser=dataclasses.replace(TINY.quantiser, kind=kind, decay=0.3, expire_below=0.5)
    )
    for kind in ("nsvq", "vq", "rvq", "vqvae", "fsq", "kl")
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_the_latent_model_of_one(kind: str, tiny_corpus: Path, tmp_path: Path) -> None:
    one = alone(lam_config(tiny_corpus, tmp_path / "run1", model=KINDS[kind]), tmp_path)
    two = together(lam_config(tiny_corpus, tmp_path / "run2", model=KINDS[kind], devices=2), tmp_path)
    assert_one_training(one, two, 1e-4)


def test_unsynchronised_gradients_would_be_noticed(tiny_corpus: Path, tmp_path: Path) -> None:
    """What the test above must see, it does."""
    config = lam_config(tiny_corpus, tmp_path / "run", model=KINDS["kl"], devices=2)
    (_, one), (_, other) = together(config, tmp_path, True)
    assert apart(one, other) > 1e-3


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pyramid")
    write_corpus(folder / "corpus", range(6))
    lerobot_v3(folder / "pick", tasks=ONE_TASK)
    (folder / "pyramid.toml").write_text(
        '[[dataset]]\nname = "demos"\ntier = "robot"\nlabel = "action"\ndataset = "pick"\nembodiment = "two_link"\n'
        '[[dataset]]\nname = "clips"\ntier = "human"\nlabel = "none"\ncorpus = "corpus"\nweight = 0.7\n'
    )
    return folder


def test_two_ranks_train_the_policy_of_one(pyramid: Path, tmp_path: Path) -> None:
    one = alone(policy_config(pyramid, tmp_path / "run1"), tmp_path)
    two = together(policy_config(pyramid, tmp_path / "run2", devices=2), tmp_path)
    assert_one_training(one, two, 1e-4)


def test_in_shards_it_is_trained_and_saved_as_with_ddp(pyramid: Path, tmp_path: Path) -> None:
    """V3: clipping, averages, validation, saving, and the decay of weights, which is large here."""
    summaries, saved = [], []
    for strategy in ("ddp", "fsdp"):
        run = tmp_path / strategy
        config = policy_config(pyramid, run, devices=2, weight_decay=1.0, clip=0.1, strategy=strategy)
        config = dataclasses.replace(config, steps=3)
        assert run_ranks(only_trained, config, ranks=2, folder=tmp_path / "logs") == [0, 0]
        summaries.append(json.loads((run / "run.json").read_text()))
        saved.append(load_file(run / "model.safetensors"))
    ddp, fsdp = saved
    assert {k: v.shape for k, v in ddp.items()} == {k: v.shape for k, v in fsdp.items()}
    assert apart(ddp, fsdp) < 1e-5
    assert set(summaries[0]["held_out"]) >= {"val/action_loss/demos", "val/flare/alignment_higher_is_better"}
    assert summaries[0]["held_out"] == pytest.approx(summaries[1]["held_out"], abs=1e-4)
    assert summaries[0]["parameters"] == summaries[1]["parameters"]
    checkpoints = [torch.load(tmp_path / s / CHECKPOINT, weights_only=True) for s in ("ddp", "fsdp")]
    one, other = (checkpoint["state_dict"] for checkpoint in checkpoints)
    assert apart(one, other) < 1e-5
    one, other = (checkpoint["optimizer_states"][0]["state"] for checkpoint in checkpoints)
    assert {k: v["exp_avg"].shape for k, v in one.items()} == {k: v["exp_avg"].shape for k, v in other.items()}


@pytest.mark.slow
def test_trained_in_shards_it_goes_on_alone(pyramid: Path, tmp_path: Path) -> None:
    """And the other way round: checkpoints are of no layout. Each time it ends the step after."""
    one = alone(policy_config(pyramid, tmp_path / "straight"), tmp_path)
    sharded = policy_config(pyramid, tmp_path / "run", devices=2, strategy="fsdp")
    assert run_ranks(stopped_after, 2, sharded, ranks=2, folder=tmp_path / "logs") == [STOPPED, STOPPED]
    assert run_apart(stopped_after, 4, policy_config(pyramid, tmp_path / "run"), log=tmp_path / "log") == STOPPED
    two = together(sharded, tmp_path)
    torch.testing.assert_close(torch.tensor(two[0][0]), torch.tensor(one[0][5:]), **ROUNDING)
    saved = [load_file(tmp_path / run / "model.safetensors") for run in ("straight", "run")]
    assert apart(*saved) < 1e-4


STOPPED = 7


def stopped_after(step: int, config: Config) -> int:
    """Ends as by Ctrl-C, after that many steps."""

    def stop(self: Any, outputs: Any, batch: Any, index: int) -> None:
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)

    for kind in (LamTraining, PolicyTraining):
        kind.on_train_batch_end = stop  # type: ignore[method-assign, assignment]
    try:
        only_trained(config)
    except KeyboardInterrupt:
        return STOPPED
    return 0


@pytest.mark.parametrize(
    ("stored", "first", "then"),
    [
        (True, 1, 2),
        (False, 2, 1),
        pytest.param(True, 2, 1, marks=pytest.mark.slow),
        pytest.param(False, 1, 2, marks=pytest.mark.slow),
    ],
)
def test_resumed_by_another_number_of_processes_it_goes_on_in_the_same_order(
    stored: bool, first: int, then: int, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Nothing is lost or doubled: the losses are those of the unbroken run. Stopped after step 3, it ends step 4."""
    cache = {} if stored else {"cache_gb": 0.0}
    corpus = tiny_corpus if stored else write_corpus(tmp_path / "corpus", range(3))
    one = alone(lam_config(corpus, tmp_path / "straight", **cache), tmp_path)
    runs = [lam_config(corpus, tmp_path / "run", devices=devices, **cache) for devices in (first, then)]
    if first == 1:
        assert run_apart(stopped_after, 3, runs[0], log=tmp_path / "log") == STOPPED
        ((losses, weights), _) = together(runs[1], tmp_path)
    else:
        assert run_ranks(stopped_after, 3, runs[0], ranks=2, folder=tmp_path / "logs") == [STOPPED, STOPPED]
        losses, weights = alone(runs[1], tmp_path)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(one[0][4:]), **ROUNDING)
    assert apart(one[1], weights) < 1e-4


def out_of_time(config: Config, kept: Path) -> None:
    """By the first process' clock the minutes are over after step 4, by the other's from the beginning."""
    check, seen = Timer.on_train_batch_end, {"step": 0}

    def watched(self: Timer, trainer: Any, *rest: Any) -> None:
        seen["step"] = trainer.global_step
        check(self, trainer, *rest)

    def elapsed_s(self: Timer, stage: str = "train") -> float:
        return 3600.0 * (process_rank() == 1 or seen["step"] >= 4)

    def save(self: Any) -> None:
        (rate,) = {group["lr"] for group in self.optimizers().param_groups}
        weights = {name: value.detach().clone() for name, value in self.state_dict().items()}
        torch.save(
            {"losses": [float(self.global_step), rate], "weights": weights}, kept.with_suffix(f".{self.global_rank}")
        )

    Timer.on_train_batch_end, Timer.time_elapsed = watched, elapsed_s  # type: ignore[method-assign, assignment]
    LamTraining.on_train_end = save  # type: ignore[method-assign]
    only_trained(config)


def test_minutes_end_all_processes_at_the_same_step_and_rate(tiny_corpus: Path, tmp_path: Path) -> None:
    """V4: each process' own clock would end, or slow, it alone."""
    config = lam_config(tiny_corpus, tmp_path / "run", devices=2, minutes=5.0)
    assert run_ranks(out_of_time, config, tmp_path / "end", ranks=2, folder=tmp_path / "logs") == [0, 0]
    (first, weights), (second, others) = (of(tmp_path / "end", rank) for rank in range(2))
    assert first == second and first[0] == 4
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 4


def killed_after(step: int, rank: int, config: Config) -> None:
    def kill(self: Any, outputs: Any, batch: Any, index: int) -> None:
        if self.global_step == step and self.global_rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)

    LamTraining.on_train_batch_end = kill  # type: ignore[method-assign, assignment]
    only_trained(config)


@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_process_is_killed_the_others_end_and_all_resume(
    rank: int, tiny_corpus: Path, tmp_path: Path
) -> None:
    one = alone(lam_config(tiny_corpus, tmp_path / "straight"), tmp_path)
    config = lam_config(tiny_corpus, tmp_path / "run", devices=2)
    ended = run_ranks(killed_after, 5, rank, config, ranks=2, folder=tmp_path / "killed", timeout_s=60)
    assert ended[rank] == -signal.SIGKILL and ended[1 - rank] > 0
    assert not (tmp_path / "run" / "run.json").exists()
    ((losses, weights), _) = together(config, tmp_path)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(one[0][4:]), **ROUNDING)
    assert apart(one[1], weights) < 1e-4


def test_processes_that_srun_starts_are_one_training(tiny_corpus: Path, tmp_path: Path) -> None:
    """As Slurm's variables say it, on one machine."""
    first, second = together(lam_config(tiny_corpus, tmp_path / "run", devices=2), tmp_path, by="srun")
    assert first[0] == second[0] and all(torch.equal(first[1][name], second[1][name]) for name in first[1])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["pairs_seen"] == STEPS * 8


def test_another_number_of_processes_than_of_devices_is_refused(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"--training.devices 2, and torchrun started 4 .*give --training.devices 4"):
        train_lam.run(lam_config(tiny_corpus, tmp_path / "run", devices=2), quiet=True)
    assert not (tmp_path / "run").exists()
    assert launched() == Launch("torchrun", 4, 2)


def test_a_batch_that_the_devices_do_not_divide_is_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size 8 with devices 3: .* choose a multiple of 3, such as 9"):
        lam_config(tiny_corpus, tmp_path, devices=3)
