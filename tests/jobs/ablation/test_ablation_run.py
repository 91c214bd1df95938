"""One small real ablation from end to end, and killed in the middle."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.cluster_utils import Cluster

from jobs.ablation import config as ablate
from jobs.ablation import running
from jobs.ablation.cells import RESULT
from jobs.ablation.settings import Budget, TierData
from jobs.evaluation.rollout_log import RolloutLog
from tests.builders.ablations import extra_file
from tests.builders.clusters import ray_cluster, wait_until, workers_of
from tests.builders.processes import run_apart
from tests.builders.rollouts import rollouts_in_threads
from vla.recipes import DEBUG
from vla.training import PolicyTraining


def tiny(out: Path) -> ablate.AblateConfig:
    return ablate.AblateConfig(
        out=out,
        tasks=("drawer-open",),
        arms=("robot-only", "human-flare"),
        demos=(1,),
        seeds=(0,),
        budget=Budget(pretrain_steps=2, ground_steps=4, batch_size=4, starts=2, max_steps=16),
        data=TierData(human_clips=3, robot_episodes=6, size=64),
        policy=DEBUG,
        parallel=1,
    )


def run_tiny(out: Path, **how: Any) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.cpu_count", lambda: 1)  # one thread: other tests use the other cores
        rollouts_in_threads(patch)
        return running.run(dataclasses.replace(tiny(out), **how))


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> tuple[ablate.AblateConfig, dict[str, Any]]:
    config = tiny(tmp_path_factory.mktemp("ablated") / "ablation")
    return config, run_tiny(config.out)


@pytest.mark.gl
def test_a_small_ablation_from_end_to_end(
    ablated: tuple[ablate.AblateConfig, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    config, result = ablated
    assert [run["status"] for run in result["runs"]] == ["done", "done"]
    assert [run["steps"] for run in result["runs"]] == [6, 6]  # matched
    assert [run["samples_seen"] for run in result["runs"]] == [24, 24]
    page = (config.out / "ablation.html").read_text()
    assert "human-flare" in page and "<svg" in page
    filmed = [film for run in result["runs"] for film in run["films"]]
    outcomes = [{rollout["success"] for rollout in run["rollouts"]} for run in result["runs"]]
    assert [{film["success"] for film in run["films"]} for run in result["runs"]] == outcomes
    assert all((config.out / film["file"]).is_file() for film in filmed) and page.count("<video") == len(filmed)
    before = {path: path.stat().st_mtime_ns for path in (config.out / "runs").rglob("*.safetensors")}
    running.run(config)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is trained twice
    claimed = config.out / "train.json"
    record = claimed.read_text()
    claimed.write_text(
        json.dumps({name: value for name, value in json.loads(record).items() if name != "rollout_format"})
    )
    with pytest.raises(ValueError, match="another version of giza .rollout_format absent there"):
        running.run(config)
    claimed.write_text(record)
    with pytest.raises(ValueError, match=r"other settings \(budget\.starts 2 there and 3 here\)"):
        running.run(dataclasses.replace(config, budget=dataclasses.replace(config.budget, starts=3)))
    extra = extra_file(config.out.parent / "extra")
    with pytest.raises(ValueError, match=r"other settings \(extra None there and \[\[member\]\]"):
        running.run(dataclasses.replace(config, extra=extra))
    assert "robot-only" in capsys.readouterr().out


def die_in_training(out: Path) -> None:
    real = PolicyTraining.on_train_batch_end

    def killed(self: PolicyTraining, outputs: Any, batch: Any, index: int) -> None:
        real(self, outputs, batch, index)
        if self.training_config.flare and "demonstrations" in self.dataset_names:
            os.kill(os.getpid(), signal.SIGKILL)

    PolicyTraining.on_train_batch_end = killed  # type: ignore[method-assign]
    run_tiny(out)


def die_in_rollouts(out: Path) -> None:
    ended, real = PolicyTraining.on_train_batch_end, RolloutLog.add

    def told(self: PolicyTraining, outputs: Any, batch: Any, index: int) -> None:
        ended(self, outputs, batch, index)
        print("trained step", self.global_step, flush=True)

    def killed(self: RolloutLog, rollout: Any) -> None:
        real(self, rollout)
        if "human-flare" in str(self.path):
            os.kill(os.getpid(), signal.SIGKILL)

    PolicyTraining.on_train_batch_end, RolloutLog.add = told, killed  # type: ignore[method-assign]
    run_tiny(out)


@pytest.mark.gl
def test_killed_in_the_middle_of_an_arm_it_ends_as_if_it_had_not_been(
    ablated: tuple[ablate.AblateConfig, dict[str, Any]],
) -> None:
    """Twice: in the grounding of the second arm, then in its rollouts."""
    config, straight = ablated
    out = config.out
    shutil.rmtree(out / "runs" / "human-flare")
    (out / "ablation.json").unlink()
    first = out / "runs" / "robot-only" / "demos1-seed0" / RESULT
    stamps = [first.stat().st_mtime_ns]
    cell = out / "runs" / "human-flare" / "demos1-seed0"
    log = out.parent / "log"
    for die in (die_in_training, die_in_rollouts):
        assert run_apart(die, out, log=log) == -signal.SIGKILL, log.read_text()
        stamps.append(first.stat().st_mtime_ns)
        if die is die_in_training:
            kept = torch.load(cell / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")
            assert kept["global_step"] == 1 and not (cell / "run.json").exists()
        else:  # neither pretraining nor the first step of grounding is done again
            steps = [line.split()[-1] for line in log.read_text().splitlines() if line.startswith("trained step")]
            assert steps == ["2", "3", "4"]
    log = cell / "rollouts.jsonl"
    assert sum('"start"' in line for line in log.read_text().splitlines()) == 1
    resumed = run_tiny(out)
    assert {*stamps, first.stat().st_mtime_ns} == {stamps[0]}
    for mine, theirs in zip(resumed["runs"], straight["runs"], strict=True):
        assert {**mine, "minutes": 0} == {**theirs, "minutes": 0}


@pytest.mark.slow  # three minutes, and ten on a busy machine: every process of a cluster imports anew
@pytest.mark.timeout(1200)
@pytest.mark.gl
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:ray")
def test_on_a_cluster_whose_workers_are_killed_it_is_the_same(
    ablated: tuple[ablate.AblateConfig, dict[str, Any]], tmp_path: Path
) -> None:
    """Once while the data are made, and once in the training of an arm."""
    out = tmp_path / "ablation"
    killed: list[int] = []

    def kill(cluster: Cluster, made: str) -> None:
        wait_until(lambda: list(out.glob(made)), 900)
        for worker in workers_of(cluster):
            worker.kill()
            killed.append(worker.pid)

    with ray_cluster(2) as cluster:
        for made in ("robot/data/*/*.parquet", "runs/human-flare/*/checkpoints/*.ckpt"):
            threading.Thread(target=kill, args=(cluster, made), daemon=True).start()
        result = run_tiny(out, engine="ray")
    assert len(killed) >= 2
    for mine, theirs in zip(result["runs"], ablated[1]["runs"], strict=True):
        assert {**mine, "minutes": 0} == {**theirs, "minutes": 0}
