"""V16: two processes train one policy: their weights are equal, and those of one process at equal noise; without the
synchronisation of gradients both tests would notice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.builders.datasets import CAMERAS, lerobot_v3

STEPS = 6
SCRIPT = """
import os, sys
from pathlib import Path
import torch
from torch.nn.parallel import DistributedDataParallel

import vla.models.dual_system as dual
from jobs.commands import ground
from vla.training import PolicyTraining

folder = Path(sys.argv[1])
# noise and times that do not depend on the place of a sample in its batch
dual.sample_start = lambda shape, flow: (torch.sin(torch.arange(shape[1] * shape[2]).view(1, *shape[1:])).expand(shape),
                                         torch.full((shape[0],), 0.4))

def save(self):
    torch.save(self.policy.state_dict(), folder / f"rank{self.global_rank}.pt")

PolicyTraining.on_train_end = save
if os.environ.get("UNSYNCHRONISED"):
    real = DistributedDataParallel.forward

    def forward(self, *inputs, **named):
        with self.no_sync():
            return real(self, *inputs, **named)

    DistributedDataParallel.forward = forward
if __name__ == "__main__":
    ground.main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_v3(tmp_path_factory.mktemp("data") / "pick")


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return trained(data, tmp_path_factory.mktemp("one"))[0]


def trained(data: Path, folder: Path, *flags: object, **environment: str) -> list[dict[str, torch.Tensor]]:
    """The weights of each rank after a training without crops and averages."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    words = [sys.executable, script, folder, "--data", data, "--out", folder / "run", "--cache", data.parent / "cache"]
    words += ["--recipe", "debug", "--steps", STEPS, "--embodiment", "two_link", "--cameras", CAMERAS[0]]
    words += ["--training.ema", 0, "--model.small.crop", 1, *flags]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(list(map(str, words)), env=env, capture_output=True, timeout=250)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("rank*.pt"))]


def apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Share of the weights' norm by which two policies differ."""
    squares = [(float((first[k] - second[k]).square().sum()), float(first[k].square().sum())) for k in first]
    return (sum(a for a, _ in squares) / sum(b for _, b in squares)) ** 0.5


def test_two_processes_have_equal_weights_and_those_of_one(data: Path, one: dict, tmp_path: Path) -> None:
    first, second = trained(data, tmp_path, "--training.devices", 2, "--training.strategy", "ddp")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert apart(one, first) < 1e-4


def test_without_synchronised_gradients_neither_holds(data: Path, one: dict, tmp_path: Path) -> None:
    """The test above is not blind: what it must notice, it would."""
    first, second = trained(data, tmp_path, "--training.devices", 2, "--training.strategy", "ddp", UNSYNCHRONISED="1")
    assert apart(first, second) > 1e-3
    assert apart(one, first) > 1e-3
