"""Ablations: arms, cells, what fails and what is resumed; one small real run from end to end."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import jobs
from corpora.mixture.label_kinds import Latents
from corpora.mixture.mixture import read_mixture
from jobs.ablation import cells as ablation_cells
from jobs.ablation import command as ablate
from jobs.ablation.arms import ARMS, Arm, Cell, arms_named, cells
from jobs.ablation.cells import FAILURE, RESULT, CellJob, Plan, plans, run_arm
from jobs.ablation.settings import Budget, TierData
from jobs.ablation.tiers import Tiers, TrueActions
from jobs.evaluation.rollout_log import RolloutLog
from tests.builders.processes import run_apart
from tests.builders.rollouts import rollouts_in_threads
from vla.recipes import DEBUG
from vla.training import PolicyTraining


def tiers_at(out: Path, extra: Path | None = None) -> Tiers:
    return Tiers(out, ("drawer-open",), TierData(), read_mixture(extra) if extra else None)


def job(out: Path, name: str = "bc", demos: tuple[int, ...] = (1, 3), **changes: Any) -> CellJob:
    arm = ARMS[name]
    made = plans(arm, tiers_at(out), demos)
    base = CellJob(str(out), name, arm.recipe, arm.flare, 0, made, ("drawer-open",), Budget(), TierData(), DEBUG, 1)
    return dataclasses.replace(base, **changes)


def test_cells_come_seed_by_seed_so_that_a_part_has_whole_seeds() -> None:
    arms = arms_named("joint", ("robot-only", "bc"))
    found = cells(arms, (1, 3), (0, 7))
    assert [cell.seed for cell in found] == [0] * 4 + [7] * 4
    assert len({cell.folder for cell in found}) == 8


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("robot-only", "humans"), "'humans': of design joint there are robot-only, bc, synthetic"),
        (("human-latent",), "must hold robot-only or bc"),
    ],
)
def test_arms_that_make_no_sense_are_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        arms_named("joint", names)


def base(arm: Arm, tiers: Tiers) -> list[Any]:
    return list(plans(arm, tiers, (3,))[0].base.datasets)


def test_every_arm_trains_on_what_it_says(tmp_path: Path) -> None:
    tiers = tiers_at(tmp_path)
    labels = {name: [(spec.tier, spec.label.words[0]) for spec in base(arm, tiers)] for name, arm in ARMS.items()}
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
    seeds = {name: base(ARMS[name], tiers)[0].label.shuffle_seed for name in ("human-latent", "shuffled")}
    assert seeds == {"human-latent": None, "shuffled": 0}
    assert {name for name, arm in ARMS.items() if arm.flare} == {"human-flare", "human-both", "everything"}
    for arm in ARMS.values():
        (plan,) = plans(arm, tiers, (3,))
        (robot,) = plan.robot.datasets
        assert (robot.name, robot.data.selection.demos) == ("demonstrations", 3)
    told = {name: arm.data(plans(arm, tiers, (3,))[0].mixture) for name, arm in ARMS.items()}
    assert told == {
        "robot-only": ["robot"],
        "bc": ["robot"],
        "synthetic": ["robot", "synthetic"],
        "human-latent": ["robot", "human (latents)"],
        "human-flare": ["robot", "human (FLARE)"],
        "human-both": ["robot", "human (latents, FLARE)"],
        "human-idm": ["robot", "human (inverse-dynamics)"],
        "human-true": ["robot", "human (true)"],
        "everything": ["robot", "synthetic", "human (latents, FLARE)"],
        "shuffled": ["robot", "human (latents shuffled)"],
    }


def test_only_what_the_arms_ask_for_is_made(tmp_path: Path) -> None:
    wanted = {}
    for name in ("bc", "synthetic", "human-flare", "human-latent", "human-idm", "human-true"):
        tiers = tiers_at(tmp_path)
        (plan,) = plans(ARMS[name], tiers, (3,))
        wanted[name] = (tiers.wanted - {"robot"}, [(order.folder.name, order.true) for order in plan.orders])
    assert wanted == {
        "bc": (set(), []),
        "synthetic": ({"synthetic"}, []),
        "human-flare": ({"human"}, []),
        "human-latent": ({"human", "latents"}, []),
        "human-idm": ({"human"}, [("pseudo-demos3", False)]),
        "human-true": ({"human"}, [("true-demos3", True)]),
    }
    assert isinstance(base(ARMS["human-true"], tiers_at(tmp_path))[0].label, TrueActions)


def test_a_users_own_arm_is_a_function_of_the_tiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tracks").mkdir()
    (tmp_path / "tracks" / "extract.json").write_text("{}")
    mine = Arm(
        "human-track",
        "+ human video by tracked hands",
        mixture=lambda tiers, demos: tiers.robot(demos) + tiers.human.labelled(tmp_path / "tracks"),
    )
    assert arms_named("joint", ("robot-only", "human-track"), {mine.name: mine}) == [ARMS["robot-only"], mine]
    (spec,) = base(mine, tiers_at(tmp_path))
    assert spec.label == Latents(tmp_path / "tracks") and spec.embodiment == "latent"
    trained = []
    monkeypatch.setattr(ablate, "each", lambda jobs, parallel, engine, done: trained.extend(jobs))
    monkeypatch.setattr(Tiers, "make", lambda self: None)
    tiers = jobs.ablation.prepare(tmp_path / "out", ["drawer-open"], human_clips=7)
    assert tiers.wanted == {"robot", "human"} and tiers.data.human_clips == 7
    study = jobs.ablate(tiers.out, arms=["robot-only", mine], tiers=tiers, demos=(1,), seeds=(0,))
    assert [job.arm for job in pickle.loads(pickle.dumps(trained))] == ["robot-only", "human-track"]
    assert study.result["arms"][1] == {
        "name": "human-track",
        "says": "+ human video by tracked hands",
        "members": ["robot", "human (latents)"],
        "role": "arm",
        "controls": [],
    }
    assert "cannot tell" in str(study.comparison("human-track"))  # no cell was run


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
    tiers = tiers_at(tmp_path / "out", extra_file(tmp_path))
    joined = {name: base(arm, tiers) for name, arm in ARMS.items()}
    named = {name: {spec.name for spec in specs} & {"kitchen", "street"} for name, specs in joined.items()}
    assert {name: names for name, names in named.items() if names} == {
        "human-latent": {"kitchen"},
        "human-both": {"kitchen"},
        "everything": {"kitchen"},
        "shuffled": {"kitchen"},
        "human-flare": {"street"},
    }
    kitchen = next(spec for spec in joined["human-latent"] if spec.name == "kitchen")
    assert kitchen.label == Latents(tmp_path / "latents") and kitchen.data.corpus == tmp_path / "kitchen"
    assert all(spec.label.shuffle_seed == 0 for spec in joined["shuffled"])


def test_an_arm_that_fails_is_reported_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(job: CellJob, plan: Plan, cell: Cell, folder: Path) -> dict[str, Any]:
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
        ablation_cells,
        "_run_cell",
        lambda job, plan, cell, folder: ablation_cells._record(cell, "done", steps=cell.demos),
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

    def train(job: CellJob, mixture: Any, folder: Path, steps: int, start: Any) -> dict[str, Any]:
        trained.append(([spec.name for spec in mixture.datasets], steps, start is not None))
        weights = {spec.name: spec.weight for spec in mixture.datasets}
        if len(weights) == 2:
            assert weights["human-latent"] / sum(weights.values()) == pytest.approx(job.budget.co_train_share)
        return {"steps": steps, "minutes": 1.0, "samples_seen": 32 * steps, "members": [], "held_out": {}}

    monkeypatch.setattr(ablation_cells, "_train", train)
    monkeypatch.setattr(ablation_cells, "_rollouts", lambda job, policy, folder: [])
    monkeypatch.setattr(ablation_cells, "_curve", lambda folder: [])
    monkeypatch.setattr("vla.checkpoint.load_policy", lambda folder: None)
    (result,) = run_arm(job(tmp_path, arm, (1,), budget=budget))
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
    assert [
        run["status"]
        for run in ablate.gather(
            config, [ARMS["robot-only"]], {"robot-only": plans(ARMS["robot-only"], tiers_at(tmp_path), (1,))}
        )["runs"]
    ] == ["missing", "done"]


def test_processes_side_by_side_each_run_an_arm(tmp_path: Path) -> None:
    """They find their cells done: what they would run, the other tests run here."""
    for name in ("robot-only", "bc"):
        folder = tmp_path / "runs" / Cell(name, 1, 0).folder
        folder.mkdir(parents=True)
        (folder / RESULT).write_text(json.dumps({"arm": name, "told by": "the disk"}))
    found: list[Any] = []
    ablation_cells.each([job(tmp_path, name, (1,)) for name in ("robot-only", "bc")], 2, "local", found.extend)
    assert sorted(result["arm"] for result in found) == ["bc", "robot-only"]


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


def run_tiny(out: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.cpu_count", lambda: 1)  # one thread: other tests use the other cores
        rollouts_in_threads(patch)
        return ablate.run(tiny(out))


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
    with pytest.raises(ValueError, match=r"other settings \(budget\.starts 2 there and 3 here\)"):
        ablate.run(dataclasses.replace(config, budget=dataclasses.replace(config.budget, starts=3)))
    extra = extra_file(config.out.parent / "extra")
    with pytest.raises(ValueError, match=r"other settings \(extra None there and \[\[member\]\]"):
        ablate.run(dataclasses.replace(config, extra=extra))
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
