"""V16: two processes that the training itself starts train one policy: their weights are equal, and those of one process;
without the synchronisation of gradients both tests would notice. Other launchers and trainings: test_ranks.py."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jobs.commands import ground
from tests.builders.datasets import CAMERAS, lerobot_v3
from vla.training import PolicyTraining

pytestmark = pytest.mark.slow  # test_ranks.py has the same of other launchers, in the default run

STEPS = 6


SCRIPT = """
import sys
from pathlib import Path
import torch
from torch.nn.parallel import DistributedDataParallel

from jobs.commands import ground
from vla.training import PolicyTraining

folder = Path(sys.argv[1])

def save(self):
    torch.save(self.policy.state_dict(), folder / f"{kind}{self.global_rank}.pt")

PolicyTraining.on_train_end = save
real = DistributedDataParallel.forward

def unsynchronised(self, *inputs, **named):
    with self.no_sync():
        return real(self, *inputs, **named)

if __name__ == "__main__":
    for kind, DistributedDataParallel.forward in (("synchronised", real), ("unsynchronised", unsynchronised)):
        ground.main([*sys.argv[2:], "--out", str(folder / kind)])
"""


def words(data: Path, *flags: object) -> list[str]:
    said = ["--data", data, "--cache", data.parent / "cache", "--recipe", "debug", "--steps", STEPS]
    said += ["--embodiment", "two_link", "--cameras", CAMERAS[0], "--training.ema", 0]
    return list(map(str, [*said, *flags]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_v3(tmp_path_factory.mktemp("data") / "pick")


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights that this process trains."""
    found: dict[str, torch.Tensor] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PolicyTraining, "on_train_end", lambda self: found.update(copy.deepcopy(self.policy.state_dict()))
        )
        ground.main(words(data, "--out", data.parent / "one"))
    return found


@pytest.fixture(scope="module")
def two(data: Path, one: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of each rank of two processes, which train with synchronised gradients and then anew without."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, folder, *words(data, "--training.devices", 2, "--training.strategy", "ddp")]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, timeout=250)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    (folder / "printed").write_bytes(done.stdout)
    return folder


def ranks(folder: Path, kind: str) -> list[dict[str, torch.Tensor]]:
    return [torch.load(folder / f"{kind}{rank}.pt", weights_only=True) for rank in range(2)]


def apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Share of the weights' norm by which two policies differ."""
    squares = [(float((first[k] - second[k]).square().sum()), float(first[k].square().sum())) for k in first]
    return (sum(a for a, _ in squares) / sum(b for _, b in squares)) ** 0.5


def test_two_processes_have_equal_weights_and_those_of_one(one: dict[str, torch.Tensor], two: Path) -> None:
    first, second = ranks(two, "synchronised")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert apart(one, first) < 1e-4


def test_of_two_processes_one_counts_prints_and_saves(data: Path, two: Path) -> None:
    """Each takes its half of every batch."""
    alone, both = (json.loads((run / "run.json").read_text()) for run in (data.parent / "one", two / "synchronised"))
    assert both["steps"] == STEPS and both["samples_seen"] == alone["samples_seen"]
    assert (two / "printed").read_text().count("trained_parameters") == 2  # once a training
    saved = load_file(two / "synchronised" / "model.safetensors")
    first, _ = ranks(two, "synchronised")
    assert all(torch.equal(value, first[name]) for name, value in saved.items())


def test_without_synchronised_gradients_neither_holds(one: dict[str, torch.Tensor], two: Path) -> None:
    """The test above is not blind: what it must notice, it would."""
    first, second = ranks(two, "unsynchronised")
    assert apart(first, second) > 1e-3
    assert apart(one, first) > 1e-3
