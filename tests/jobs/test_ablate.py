"""Ablations: arms, cells, what fails and what is resumed; one small real run from end to end."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from corpora.mixture.spec import read_pyramid
from jobs.ablation import cells as ablation_cells
from jobs.ablation.arms import ARMS, Cell, arms_named, cells
from jobs.ablation.cells import FAILURE, RESULT, Budget, CellJob, run_arm
from jobs.ablation.data import Prepared, TierData, base_pyramid, robot_member
from jobs.commands import ablate
from vla.recipes import DEBUG

PLACES = Prepared(*(Path("/data") / name for name in ("robot", "synthetic", "human", "latents", "pseudo")))


def job(out: Path, **changes: Any) -> CellJob:
    base = CellJob(str(out), "bc", 0, (1, 3), ("drawer-open",), Budget(), TierData(), DEBUG, "", 1)
    return dataclasses.replace(base, **changes)


def test_cells_come_seed_by_seed_so_that_a_part_has_whole_seeds() -> None:
    arms = arms_named(("robot-only", "bc"))
    found = cells(arms, (1, 3), (0, 7))
    assert [cell.seed for cell in found] == [0] * 4 + [7] * 4
    assert len({cell.folder for cell in found}) == 8


@pytest.mark.parametrize(
    ("names", "said"), [(("robot-only", "humans"), "'humans': must be among"), (("bc",), "must hold robot-only")]
)
def test_arms_that_make_no_sense_are_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        arms_named(names)


def test_every_arm_trains_on_what_it_says() -> None:
    labels = {
        name: [(member.tier, member.label) for member in base_pyramid(arm, PLACES, None).members]
        for name, arm in ARMS.items()
    }
    latent, synthetic = ("human", "latent"), ("synthetic", "action")
    assert labels == {
        "robot-only": [],
        "bc": [],
        "synthetic": [synthetic],
        "human-latent": [latent],
        "human-flare": [("human", "none")],
        "human-both": [latent],
        "human-idm": [("human", "inverse-dynamics")],
        "human-true": [("human", "inverse-dynamics")],
        "everything": [latent, synthetic],
        "shuffled": [latent],
    }
    seeds = {
        name: base_pyramid(ARMS[name], PLACES, None).members[0].shuffle_latents_seed
        for name in ("human-latent", "shuffled")
    }
    assert seeds == {"human-latent": None, "shuffled": 0}
    assert {name for name, arm in ARMS.items() if arm.flare} == {"human-flare", "human-both", "everything"}
    assert robot_member(PLACES, 3, 1.0).demos == 3


EXTRA = """
[[member]]
name = "kitchen"
tier = "human"
label = "latent"
embodiment = "latent"
corpus = "kitchen"
latents = "latents"
licence = "CC BY 4.0"

[[member]]
name = "street"
tier = "human"
label = "none"
embodiment = "latent"
corpus = "street"
licence = "CC BY 4.0"
"""


def extra_file(folder: Path) -> Path:
    """A pyramid file whose folders look finished."""
    for name in ("kitchen/manifest.parquet", "street/manifest.parquet", "latents/extract.json"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "extra.toml").write_text(EXTRA)
    return folder / "extra.toml"


def test_extra_clips_join_the_arms_that_use_video_with_their_label(tmp_path: Path) -> None:
    extra = read_pyramid(extra_file(tmp_path))
    joined = {name: base_pyramid(arm, PLACES, extra).members for name, arm in ARMS.items()}
    named = {name: {member.name for member in members} & {"kitchen", "street"} for name, members in joined.items()}
    assert {name: names for name, names in named.items() if names} == {
        "human-latent": {"kitchen"},
        "human-both": {"kitchen"},
        "everything": {"kitchen"},
        "shuffled": {"kitchen"},
        "human-flare": {"street"},
    }
    kitchen = next(member for member in joined["human-latent"] if member.name == "kitchen")
    assert kitchen.shuffle_latents_seed is None
    assert all(member.shuffle_latents_seed == 0 for member in joined["shuffled"])
    assert (kitchen.corpus, kitchen.latents) == (str(tmp_path / "kitchen"), str(tmp_path / "latents"))


def test_an_arm_that_fails_is_reported_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(job: CellJob, cell: Cell, folder: Path) -> dict[str, Any]:
        if cell.demos == 1:
            raise RuntimeError("out of memory")
        return ablation_cells._record(cell, "done", rollouts=[{"task": "t", "start": 0, "success": True, "steps": 3}])

    monkeypatch.setattr(ablation_cells, "_run_cell", play)
    first, second = run_arm(job(tmp_path))
    assert (first["status"], second["status"]) == ("failed", "done")
    assert first["error"] == "RuntimeError: out of memory"
    failure = json.loads((tmp_path / "runs" / "bc" / "demos1-seed0" / FAILURE).read_text())
    assert "Traceback" in failure["traceback"]
    # what is done stays, what failed is tried again
    monkeypatch.setattr(
        ablation_cells, "_run_cell", lambda job, cell, folder: ablation_cells._record(cell, "done", steps=cell.demos)
    )
    again = run_arm(job(tmp_path))
    assert again[0]["steps"] == 1 and "steps" not in again[1]
    assert again[1]["rollouts"] == second["rollouts"]
    assert not (tmp_path / "runs" / "bc" / "demos1-seed0" / FAILURE).exists()


@pytest.mark.parametrize(
    ("budget", "arm", "expected"),
    [
        (Budget(pretrain_steps=5, ground_steps=7), "robot-only", [(["demonstrations"], 12, False)]),
        (
            Budget(pretrain_steps=5, ground_steps=7, co_train_share=0.25),
            "human-latent",
            [(["human-latent"], 5, False), (["demonstrations", "human-latent"], 7, True)],
        ),
        (
            Budget(pretrain_steps=0, ground_steps=12),
            "human-latent",
            [(["demonstrations", "human-latent"], 12, False)],
        ),
        (
            Budget(pretrain_steps=5, ground_steps=7, co_train_share=0.0),
            "human-latent",
            [(["human-latent"], 5, False), (["demonstrations"], 7, True)],
        ),
    ],
)
def test_steps_and_shares_are_those_of_the_budget_in_every_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: Budget, arm: str, expected: list[tuple[Any, ...]]
) -> None:
    trained = []

    def train(job: CellJob, arm: Any, mixture: Any, folder: Path, seed: int, steps: int, start: Any) -> dict[str, Any]:
        trained.append(([member.name for member in mixture.members], steps, start is not None))
        weights = {member.name: member.weight for member in mixture.members}
        if len(weights) == 2:
            assert weights["human-latent"] / sum(weights.values()) == pytest.approx(job.budget.co_train_share)
        return {"steps": steps, "minutes": 1.0, "samples_seen": 32 * steps, "members": [], "held_out": {}}

    monkeypatch.setattr(ablation_cells, "_train", train)
    monkeypatch.setattr(ablation_cells, "_rollouts", lambda job, policy, folder: [])
    monkeypatch.setattr(ablation_cells, "_curve", lambda folder: [])
    monkeypatch.setattr("vla.checkpoint.load_policy", lambda folder: None)
    (result,) = run_arm(job(tmp_path, arm=arm, demos=(1,), budget=budget))
    assert (result["status"], result["steps"], result["samples_seen"]) == ("done", 12, 384)
    assert trained == expected


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pretrain_steps": -1}, "pretrain_steps -1"),
        ({"ground_steps": 0}, "ground_steps 0"),
        ({"co_train_share": 1.0}, "co_train_share 1.0: within 0 and 1"),
        ({"pretrain_steps": 0, "co_train_share": 0.0}, "nothing would be trained on the base"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Budget(**wrong)


def test_more_demonstrations_than_the_robot_tier_has_are_refused(tmp_path: Path) -> None:
    ablate.AblateConfig(out=tmp_path, demos=(3, 1))
    with pytest.raises(ValueError, match=r"--demos 4: needs 12 episodes .* there are 10; give --data.robot-episodes"):
        ablate.AblateConfig(out=tmp_path, demos=(1, 4))


def test_what_has_no_result_is_missing(tmp_path: Path) -> None:
    config = ablate.AblateConfig(out=tmp_path, arms=("robot-only",), demos=(1,), seeds=(0, 1))
    folder = tmp_path / "runs" / "robot-only" / "demos1-seed1"
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(json.dumps(ablation_cells._record(Cell("robot-only", 1, 1), "done")))
    assert [run["status"] for run in ablate.gather(config)["runs"]] == ["missing", "done"]


def tiny(out: Path) -> ablate.AblateConfig:
    return ablate.AblateConfig(
        out=out,
        tasks=("drawer-open",),
        arms=("robot-only", "human-flare"),
        demos=(1,),
        seeds=(0,),
        budget=Budget(pretrain_steps=2, ground_steps=4, batch_size=4, starts=2, max_steps=16),
        data=TierData(human_clips=3, size=64),
        policy=DEBUG,
        parallel=1,
    )


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> tuple[ablate.AblateConfig, dict[str, Any]]:
    config = tiny(tmp_path_factory.mktemp("ablated") / "ablation")
    return config, ablate.run(config)


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
    before = {path: path.stat().st_mtime_ns for path in (config.out / "runs").rglob("*.safetensors")}
    ablate.run(config)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is trained twice
    claimed = config.out / "train.json"
    record = claimed.read_text()
    claimed.write_text(
        json.dumps({name: value for name, value in json.loads(record).items() if name != "rollout_format"})
    )
    with pytest.raises(ValueError, match="another version of giza .rollout_format absent there"):
        ablate.run(config)
    claimed.write_text(record)
    with pytest.raises(ValueError, match=r"other settings \(budget\.starts\)"):
        ablate.run(dataclasses.replace(config, budget=dataclasses.replace(config.budget, starts=3)))
    extra = extra_file(config.out.parent / "extra")
    with pytest.raises(ValueError, match=r"other settings \(extra\)"):
        ablate.run(dataclasses.replace(config, extra=extra))
    assert "robot-only" in capsys.readouterr().out


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1])))
from tests.jobs.test_ablate import tiny
from jobs.commands import ablate
{hook}
ablate.run(tiny(Path(sys.argv[2])))
"""
IN_TRAINING = """
from vla.training import PolicyTraining
real = PolicyTraining.on_train_batch_end
def killed(self, outputs, batch, index):
    real(self, outputs, batch, index)
    if self.training_config.flare and "demonstrations" in self.member_names:
        os.kill(os.getpid(), signal.SIGKILL)
PolicyTraining.on_train_batch_end = killed
"""
IN_ROLLOUTS = """
from jobs.evaluation.rollout_log import RolloutLog
from vla.training import PolicyTraining
ended = PolicyTraining.on_train_batch_end
def told(self, outputs, batch, index):
    ended(self, outputs, batch, index)
    print("trained step", self.global_step, flush=True)
PolicyTraining.on_train_batch_end = told
real = RolloutLog.add
def killed(self, rollout):
    real(self, rollout)
    if "human-flare" in str(self.path):
        os.kill(os.getpid(), signal.SIGKILL)
RolloutLog.add = killed
"""


@pytest.mark.gl
def test_killed_in_the_middle_of_an_arm_it_ends_as_if_it_had_not_been(
    ablated: tuple[ablate.AblateConfig, dict[str, Any]],
) -> None:
    """Twice: in the grounding of the second arm, then in its rollouts."""
    config, straight = ablated
    out = config.out
    shutil.rmtree(out / "runs" / "human-flare")
    first = out / "runs" / "robot-only" / "demos1-seed0" / RESULT
    stamps = [first.stat().st_mtime_ns]
    cell = out / "runs" / "human-flare" / "demos1-seed0"
    for hook in (IN_TRAINING, IN_ROLLOUTS):
        words = [sys.executable, "-c", KILLED.format(hook=hook), str(Path(__file__).parents[2]), str(out)]
        died = subprocess.run(words, capture_output=True, timeout=200)
        assert died.returncode == -signal.SIGKILL, died.stderr.decode()
        stamps.append(first.stat().st_mtime_ns)
        if hook == IN_TRAINING:
            kept = torch.load(cell / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")
            assert kept["global_step"] == 1 and not (cell / "run.json").exists()
        else:  # neither pretraining nor the first step of grounding is done again
            steps = [line.split()[-1] for line in died.stdout.decode().splitlines() if line.startswith("trained step")]
            assert steps == ["2", "3", "4"]
    log = cell / "rollouts.jsonl"
    assert sum('"start"' in line for line in log.read_text().splitlines()) == 1
    resumed = ablate.run(tiny(out))
    assert {*stamps, first.stat().st_mtime_ns} == {stamps[0]}
    for mine, theirs in zip(resumed["runs"], straight["runs"], strict=True):
        assert {**mine, "minutes": 0} == {**theirs, "minutes": 0}
