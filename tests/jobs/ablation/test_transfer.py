"""Design transfer: what each arm trains on, what is made for it, and that a seed is a replicate in which all of it varies."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from corpora.mixture.label_kinds import TrackActions
from jobs.ablation import command as ablate
from jobs.ablation.arms import TRANSFER, arms_named
from jobs.ablation.cells import CellJob, Plan, plans
from jobs.ablation.settings import Budget, TierData
from jobs.ablation.tiers import TrueActions
from jobs.ablation.transfer import TransferTiers
from tests.builders.rollouts import rollouts_in_threads
from vla.recipes import DEBUG


def tiers_at(out: Path, replicate: int = 0) -> TransferTiers:
    return TransferTiers(out, ("door-lock",), ("coffee-button",), TierData(), replicate, 1)


def test_every_arm_trains_on_the_robots_data_in_one_ratio_and_on_what_it_says(tmp_path: Path) -> None:
    told = {}
    for name, arm in TRANSFER.items():
        tiers = tiers_at(tmp_path)
        (plan,) = plans(arm, tiers, (1,))
        robot = {spec.name: spec.weight for spec in plan.robot.datasets}
        assert robot["known"] / robot["demonstrations"] == pytest.approx(2.2)
        (zero,) = plans(arm, tiers, (0,))
        assert [spec.name for spec in zero.robot.datasets] == ["known"]
        told[name] = [
            (Path(spec.data.corpus).parent.name, spec.label.words[0], spec.label.description.partition("shuffled")[1:])
            for spec in plan.base.datasets
        ]
    kept, over, within = ("", ""), ("shuffled", ""), ("shuffled", " within each text")
    assert {name: found for name, found in told.items() if found} == {
        "human-track": [("painted", "track", kept)],
        "shuffled": [("painted", "track", over)],
        "shuffled-within": [("painted", "track", within)],
        "human-as-is": [("human", "track", kept)],
        "as-is-shuffled": [("human", "track", over)],
        "same-body": [("body", "track", kept)],
        "true": [("painted", "inverse-dynamics", kept)],
        "human-latent": [("painted", "latent", kept)],
        "latent-shuffled": [("painted", "latent", over)],
        "human-flare": [("painted", "none", kept)],
        "human-both": [("painted", "latent", kept)],
        "both-shuffled": [("painted", "latent", over)],
    }
    (spec,) = plans(TRANSFER["true"], tiers_at(tmp_path), (1,))[0].base.datasets
    assert isinstance(spec.label, TrueActions)
    (spec,) = plans(TRANSFER["human-as-is"], tiers_at(tmp_path), (1,))[0].base.datasets
    assert isinstance(spec.label, TrackActions) and spec.embodiment == "metaworld"


def test_each_arm_is_compared_with_baselines_and_controls_that_there_are() -> None:
    people = [arm for arm in TRANSFER.values() if arm.role == "arm"]
    assert people and all(arm.controls for arm in people)  # nothing passes for a lift by its pictures or heads alone
    for arm in TRANSFER.values():
        assert not {name for name in arm.controls if name not in TRANSFER}
        assert all(TRANSFER[name].recipe == arm.recipe for name in arm.controls)  # the same outputs, used or not
    assert {name for name, arm in TRANSFER.items() if arm.role == "positive"} == {"same-body", "true"}
    with pytest.raises(ValueError, match="of design transfer there are robot-only"):
        arms_named("transfer", ("robot-only", "human-idm"))


def test_a_seed_is_a_replicate_with_data_and_starts_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []
    jobs: list[CellJob] = []
    monkeypatch.setattr(TransferTiers, "make", lambda self: made.append((self.out.name, self.data.seed)))
    monkeypatch.setattr(TransferTiers, "copies", lambda self, budget: {"coffee-button": {"success": 1, "of": 4}})
    monkeypatch.setattr(ablate, "each", lambda planned, parallel, engine, done: jobs.extend(planned))
    config = ablate.AblateConfig(
        out=tmp_path,
        design="transfer",
        tasks=("coffee-button",),
        known_tasks=("door-lock",),
        arms=("robot-only", "robot-half", "human-track"),
        demos=(0, 1),
        seeds=(0, 3),
        policy=DEBUG,
        parallel=1,
    )
    result = ablate.run(config)
    assert made == [("seed0", 1100), ("seed3", 4100)]
    assert {job.seed: job.start_seed for job in jobs} == {0: 1100, 3: 4100}
    assert {job.arm: job.batch_share for job in jobs} == {"robot-only": 1.0, "robot-half": 0.5, "human-track": 1.0}
    corpora = {
        (job.seed, plan.demos): spec.data.corpus for job in jobs for plan in job.plans for spec in plan.base.datasets
    }
    assert len(set(corpora.values())) == 4  # clips are painted anew for each seed and number of demonstrations
    assert result["copy"] == {"coffee-button": {"success": 2, "of": 8}}
    assert result["settings"]["design"] == "transfer" and result["settings"]["lift"] == 0.15
    assert [(arm["name"], arm["role"], arm["controls"]) for arm in result["arms"]][-1] == (
        "human-track",
        "arm",
        ["shuffled", "shuffled-within"],
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"known_tasks": ("coffee-button",)}, "--known-tasks coffee-button: among --tasks, too"),
        ({"extra": Path("x.toml")}, "--extra x.toml: joins the arms of design joint only"),
        ({"lift": 1.5}, "--lift 1.5"),
        ({"design": "joint", "demos": (0,)}, "--demos .0,.: each at least 1, or 0 in design transfer"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"design": "transfer", "tasks": ("coffee-button",), "known_tasks": ("door-lock",), **wrong}
    with pytest.raises(ValueError, match=said):
        ablate.AblateConfig(out=tmp_path, **given)


def test_what_is_made_for_an_arm_is_made_of_its_own_demonstrations_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which jobs `make` runs, and with what; the episodes are named, not simulated."""
    ran: list[tuple[str, Any]] = []
    for name in ("simulate", "ingest", "track", "crosspaint", "label", "train_lam", "extract"):
        job = importlib.import_module(f"jobs.commands.{name}")
        monkeypatch.setattr(job, "run", lambda config, name=name, **_: ran.append((name, config)))
    monkeypatch.setattr(TransferTiers, "_demonstrations", lambda self, demos: [4][:demos])
    tiers = tiers_at(tmp_path)
    for folder, count in (("known", 2), ("novel", 6)):
        for number in range(count):
            path = tiers.out / "robot-tracks" / folder / f"episode_{number:06d}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    tiers.robot(1), tiers.tracked(0), tiers.tracked(1), tiers.latent(1)
    tiers.make()
    assert [name for name, _ in ran] == [
        *("simulate", "simulate", "simulate", "ingest", "track", "ingest"),  # known, novel, people; the robot's clips
        *("track", "crosspaint", "label"),  # without demonstrations of the novel task
        *("track", "crosspaint", "train_lam", "extract", "label"),
    ]
    simulated = [config for name, config in ran if name == "simulate"]
    assert [(config.tasks, config.appearance, config.episode.seed) for config in simulated] == [
        (("door-lock",), "robot", 1100),
        (("coffee-button",), "robot", 1100),
        (("coffee-button",), "hand", 1102),
    ]
    cut = [sorted(path.name for path in (tiers.out / f"demos{n}" / "robot-files" / "novel").glob("*")) for n in (0, 1)]
    assert cut == [[], ["episode_000004.npz"]]
    labels = [config for name, config in ran if name == "label"]
    assert [config.corpus for config in labels] == [tiers.out / f"demos{n}" / "painted" / "corpus" for n in (0, 1)]
    assert all(config.robot == tiers.out / "known" for config in labels)
    assert [config.tracks for config in labels] == [config.corpus / "tracks" for config in labels]


@pytest.mark.slow  # a minute: it simulates three tiers
@pytest.mark.gl
def test_a_small_transfer_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, painted, labelled, trained and tried; a second call makes nothing anew."""
    rollouts_in_threads(monkeypatch)
    config = ablate.AblateConfig(
        out=tmp_path / "out",
        design="transfer",
        tasks=("coffee-button",),
        known_tasks=("door-lock",),
        arms=("robot-only", "human-track"),
        demos=(1,),
        seeds=(0,),
        budget=Budget(pretrain_steps=0, ground_steps=2, batch_size=4, starts=1, max_steps=8),
        data=TierData(known_episodes=3, human_clips=3, size=64),
        policy=DEBUG,
        parallel=1,
    )
    result = ablate.run(config)
    assert [(run["status"], run["error"]) for run in result["runs"]] == [("done", None)] * 2
    folder = config.out / "replicates" / "seed0" / "demos1" / "painted"
    label = json.loads((folder / "track" / "label.json").read_text())
    assert label["rows"] > 0 and label["unknown"] == ["expert.gripper"]
    cut = {path.parent.name: 0 for path in (folder.parent / "robot-files").rglob("*.npz")}
    assert set(cut) == {"known", "novel"} and len(list((folder.parent / "robot-files" / "novel").iterdir())) == 1
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*.parquet")}
    ablate.run(dataclasses.replace(config, arms=("robot-only", "human-track", "shuffled")))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_plans_travel_to_other_processes(tmp_path: Path) -> None:
    import pickle

    made = plans(TRANSFER["human-track"], tiers_at(tmp_path), (0, 1))
    assert pickle.loads(pickle.dumps(made)) == made and all(isinstance(plan, Plan) for plan in made)


def test_a_copy_replays_its_tasks_demonstration_step_by_step_and_holds_its_end() -> None:
    import numpy as np

    from jobs.ablation.copying import copy_act
    from jobs.evaluation.closed_loop import Observations

    shown = np.arange(10, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    act = copy_act({"a": shown, "b": -shown}, 4)
    nothing = np.zeros((2, 1, 1, 3, 8, 8), np.uint8)
    seen = Observations(
        nothing, np.ones((2, 1, 1), bool), ["", ""], np.zeros((2, 11), np.float32), ["b", "a"], [0, 0], [1, 2]
    )
    assert np.array_equal(act(seen)[..., 0], [[-4, -5, -6, -7], [8, 9, 9, 9]])
