"""L7, V3, V4, V16: several processes train as one. Two gloo processes have the losses of one at every step, its weights at the
end, and each other's to the bit; without the synchronisation of gradients or codes the first test of each would fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from flare.config import FlareConfig
from jobs.commands import pretrain, train_lam
from lapa.model.config import LamConfig
from lapa.training import LamTraining
from tests.builders.corpora import write_corpus
from tests.builders.datasets import lerobot_v3
from tests.builders.lam import TINY, lam_settings
from tests.builders.processes import run_apart, run_ranks
from vla.recipes import recipe_named
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
    flare = FlareConfig(future_s=0.3, target="action_aware", standardise=True)
    whole = {"flare": True, "alignment": flare, "val_every_steps": 3, "lr": 3e-3, **training}
    return pretrain.PretrainConfig(
        pyramid=data / "pyramid.toml", out=out, recipe="debug", cache=data / "cache", steps=STEPS, held_share=0.3,
        model=DEBUG.policy, training=dataclasses.replace(DEBUG.training, **whole),
    )  # fmt: skip


def trained(config: Config, kept: Path, unsynchronised: bool = False) -> None:
    """Trains, and keeps what each step's loss was and the weights at the end, of each rank."""
    torch.set_num_threads(1)
    losses: Curve = []
    for kind in (LamTraining, PolicyTraining):

        def log(self: Any, name: str, value: Any, *rest: Any, log: Any = kind.log, **options: Any) -> None:
            if name == "train/loss":
                losses.append(float(value))
            log(self, name, value, *rest, **options)

        def save(self: Any, outputs: Any, batch: Any, index: int) -> None:
            if self.global_step == STEPS:
                weights = {name: value.detach().clone() for name, value in self.state_dict().items()}
                torch.save({"losses": losses, "weights": weights}, kept.with_suffix(f".{self.global_rank}"))

        kind.log, kind.on_train_batch_end = log, save  # type: ignore[method-assign, assignment]
    if unsynchronised:
        from torch.nn.parallel import DistributedDataParallel

        forward = DistributedDataParallel.forward

        def alone(self: Any, *inputs: Any, **named: Any) -> Any:
            with self.no_sync():
                return forward(self, *inputs, **named)

        DistributedDataParallel.forward = alone  # type: ignore[method-assign]
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
    kind: dataclasses.replace(TINY, quantiser=dataclasses.replace(TINY.quantiser, kind=kind))
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
    lerobot_v3(folder / "pick")
    (folder / "pyramid.toml").write_text(
        '[[dataset]]\nname = "demos"\ntier = "robot"\nlabel = "action"\ndataset = "pick"\nembodiment = "two_link"\n'
        '[[dataset]]\nname = "clips"\ntier = "human"\nlabel = "none"\ncorpus = "corpus"\nweight = 0.7\n'
    )
    return folder


def test_two_ranks_train_the_policy_of_one(pyramid: Path, tmp_path: Path) -> None:
    one = alone(policy_config(pyramid, tmp_path / "run1"), tmp_path)
    two = together(policy_config(pyramid, tmp_path / "run2", devices=2), tmp_path)
    assert_one_training(one, two, 1e-4)
