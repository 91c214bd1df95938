"""Design transfer: what each arm trains on, what is made for it, and that a seed is a replicate in which all of it varies."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from corpora.mixture.label_kinds import TrackActions
from jobs.ablation import cells as ablation_cells
from jobs.ablation import config as ablate
from jobs.ablation import copying, maker, processes, running
from jobs.ablation.arms import TRANSFER, Arm, arms_named
from jobs.ablation.cells import CellJob, Plan, grounded_on, plans
from jobs.ablation.maker import TrueActions
from jobs.ablation.settings import Budget, TierData
from jobs.ablation.tiers import Tiers
from jobs.ablation.transfer import FORMAT, TransferOrder, TransferTiers
from jobs.commands.label import LabelConfig
from tests.builders.rollouts import rollouts_in_threads
from vla.recipes import DEBUG


def tiers_at(out: Path, replicate: int = 0) -> TransferTiers:
    return TransferTiers(out, ("door-lock",), ("coffee-button",), TierData(), replicate)


def test_every_arm_trains_on_the_robots_data_in_one_ratio_and_on_what_it_says(tmp_path: Path) -> None:
    told = {}
    for name, arm in TRANSFER.items():
        tiers = tiers_at(tmp_path)
        (plan,) = plans(arm, tiers, (1,))
        robot = {spec.name: spec.weight for spec in plan.robot.datasets}
        assert robot["known"] / robot["demonstrations"] == pytest.approx(2.2)
        (zero,) = plans(arm, tiers, (0,))
        assert [spec.name for spec in zero.robot.datasets] == ["known"]
        if name == "multiplied":
            continue
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
        "labelled-latent": [("painted", "latent", kept)],
        "labelled-shuffled": [("painted", "latent", over)],
        "human-flare": [("painted", "none", kept)],
        "flare-shuffled": [("painted", "none", over)],
        "human-both": [("painted", "latent", kept)],
        "both-shuffled": [("painted", "latent", over)],
        "human-world": [("painted", "none", kept)],
        "world-shuffled": [("painted", "none", over)],
    }
    (spec,) = plans(TRANSFER["true"], tiers_at(tmp_path), (1,))[0].base.datasets
    assert isinstance(spec.label, TrueActions)
    (spec,) = plans(TRANSFER["human-as-is"], tiers_at(tmp_path), (1,))[0].base.datasets
    assert isinstance(spec.label, TrackActions) and spec.embodiment == "metaworld"


def test_multiplied_demonstrations_are_those_of_the_cell_and_of_the_synthetic_tier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.commands import multiply

    made: list[multiply.MultiplyConfig] = []
    monkeypatch.setattr(multiply, "run", made.append)
    one, none = plans(TRANSFER["multiplied"], tiers_at(tmp_path), (1, 0))
    (spec,) = one.base.datasets
    (order,) = one.orders
    order.make(LabelConfig(Path(), "metaworld", Path(), Path()))
    (config,) = made
    assert (spec.tier, spec.data.folder, spec.embodiment) == ("synthetic", config.out, "metaworld")  # type: ignore[attr-defined]
    novel = tmp_path.resolve() / "replicates" / "seed0" / "novel"
    assert (config.demos, config.take, config.into, config.seed) == (novel, 1, 50, TierData().seed + 1000)
    assert not none.orders and not none.base.datasets  # nothing to multiply


@pytest.mark.parametrize("share", [0.5, 0.25, 0.0])
def test_of_a_batch_the_base_has_the_budgets_share(tmp_path: Path, share: float) -> None:
    """What is trained on, and what the page draws."""
    tiers = tiers_at(tmp_path)
    robot, people = tiers.robot(1), tiers.tracked(1) + tiers.latent(1)
    mixture = grounded_on(robot, people, Budget(co_train_share=share))
    weight = {tier: sum(spec.weight for spec in mixture.of_tier(tier).datasets) for tier in ("robot", "human")}
    assert weight["human"] / (weight["robot"] + weight["human"]) == pytest.approx(share)
    known, novel = mixture.of_tier("robot").datasets
    assert known.weight / novel.weight == pytest.approx(robot.datasets[0].weight / robot.datasets[1].weight)


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
    monkeypatch.setattr(running, "each", lambda planned, parallel, engine, done: jobs.extend(planned))
    config = ablate.AblateConfig(
        out=tmp_path,
        design="transfer",
        tasks=("coffee-button",),
        known_tasks=("door-lock",),
        arms=("robot-only", "robot-half", "human-track"),
        demos=(0, 1),
        seeds=(0, 3),
        budget=Budget(pretrain_steps=0),
        policy=DEBUG,
        parallel=1,
    )
    result = running.run(config)
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
        ({"demos": (0, 4)}, r"--demos 4: needs 12 episodes of each task, .* give --data.robot-episodes"),
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
    monkeypatch.setattr(TransferOrder, "_demonstrations", lambda self: [4][: self.demos])
    tiers = tiers_at(tmp_path)
    for folder, count in (("known", 2), ("novel", 6)):
        for number in range(count):
            path = tiers.out / "robot-tracks" / folder / f"episode_{number:06d}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    tiers.robot(1), tiers.tracked(0), tiers.tracked(1), tiers.latent(1), tiers.labelled_latent(1)
    tiers.make()
    # known, novel, people; the robot's clips
    assert [name for name, _ in ran] == ["simulate", "simulate", "simulate", "ingest", "track", "ingest"]
    simulated = [config for name, config in ran if name == "simulate"]
    assert [(config.tasks, config.appearance, config.episode.seed, config.episodes) for config in simulated] == [
        (("door-lock",), "robot", 1100, 25),
        (("coffee-button",), "robot", 1100, 10),  # however many demonstrations are taken: more may be later
        (("coffee-button",), "hand", 1102, 60),
    ]
    ran.clear()
    orders = tuple(tiers.orders)
    policy = dataclasses.replace(DEBUG, horizon=32, image_size=48)
    job = CellJob(str(tmp_path), "", "trunk", 0, (), (), Budget(), TierData(), policy, 1)
    for order in orders:
        ablation_cells._label(job, order)
    assert [name for name, _ in ran] == [
        *("track", "crosspaint", "label"),  # without demonstrations of the novel task
        *("track", "crosspaint", "label"),
        *("track", "crosspaint", "train_lam", "extract"),
        *("track", "crosspaint", "train_lam", "extract"),
    ]
    # both bodies, and of the robot's known motion nothing, or that of the known tasks: novel ones are held out of both
    models = [config for name, config in ran if name == "train_lam"]
    both = tiers.out / "demos1" / "painted" / "corpus", tiers.out / "robot"
    assert [(config.corpus, config.holdout) for config in models] == 2 * [(both, ("novel/*",))]
    assert [config.labels.feature for config in models] == ["", "observation.state"]
    assert len({config.out for config in models}) == 2 == len({config.out for name, config in ran if name == "extract"})
    cut = [sorted(path.name for path in (tiers.out / f"demos{n}" / "robot-files" / "novel").glob("*")) for n in (0, 1)]
    assert cut == [[], ["episode_000004.npz"]]
    labels = [config for name, config in ran if name == "label"]
    assert [config.corpus for config in labels] == [tiers.out / f"demos{n}" / "painted" / "corpus" for n in (0, 1)]
    assert all(config.robot == tiers.out / "known" for config in labels)
    assert [config.tracks for config in labels] == [config.corpus / "tracks" for config in labels]
    # as long as the policy's chunks, or the loss would mask their ends; decoded once, at its size
    assert {(config.horizon, config.image_size, config.cache) for config in labels} == {(32, 48, tmp_path / "cache")}


def test_the_robots_own_clips_are_labelled_once_and_nothing_is_painted_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, Any]] = []
    for name in ("simulate", "ingest", "track", "crosspaint", "label"):
        job = importlib.import_module(f"jobs.commands.{name}")
        monkeypatch.setattr(job, "run", lambda config, name=name, **_: ran.append((name, config)))
    tiers = tiers_at(tmp_path)
    first, second = (plan.orders for plan in plans(TRANSFER["same-body"], tiers, (0, 1)))
    assert first == second
    tiers.make()
    first[0].make(LabelConfig(Path(), "metaworld", Path(), Path()))
    assert [name for name, _ in ran] == ["simulate", "simulate", "simulate", "ingest", "track", "label"]
    (label,) = [config for name, config in ran if name == "label"]
    assert (label.corpus, label.tracks) == (tiers.out / "body" / "corpus", tiers.out / "body" / "tracks")


def test_an_arm_of_the_other_design_is_refused_by_what_the_design_has(tmp_path: Path) -> None:
    own = Arm("mine", "", lambda tiers, demos: tiers.robot(demos) + tiers.human)
    said = (
        r"arm 'mine' asks for 'human', which design transfer has not: it has robot\(demos\), tracked\(demos, clips\), "
    )
    with pytest.raises(ValueError, match=said):
        plans(own, tiers_at(tmp_path), (1,))
    for tiers in (tiers_at(tmp_path), Tiers(tmp_path, ("door-lock",), TierData())):
        assert all(hasattr(tiers, name.partition("(")[0]) for name in tiers.mixtures)
        with pytest.raises(AttributeError, match="'str' object has no attribute 'human'"):
            plans(dataclasses.replace(own, mixture=lambda tiers, demos: "x".human), tiers, (1,))  # type: ignore[attr-defined]


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_the_thinned_baseline_sees_as_many_robot_samples_as_arms_with_peoples_video(share: float) -> None:
    for pretrain in (0, 300):
        budget = Budget(pretrain_steps=pretrain, ground_steps=100, co_train_share=share)
        assert (pretrain + 100) * budget.robot_share == pytest.approx((1 - share) * 100)


def run_with(
    out: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[TransferTiers], None], **changes: Any
) -> dict[str, Any]:
    """An ablation of two seeds whose cells are done at once, and whose data `make` makes."""
    monkeypatch.setattr(TransferTiers, "make", make)
    monkeypatch.setattr(TransferTiers, "copies", lambda self, budget: {})
    done = lambda job, plan, cell, folder: ablation_cells._record(cell, "done")  # noqa: E731
    monkeypatch.setattr(ablation_cells, "_run_cell", done)
    given: dict[str, Any] = {"tasks": ("coffee-button", "window-close"), "known_tasks": ("door-lock",), "policy": DEBUG}
    given |= {"arms": ("robot-only", "bc"), "demos": (0, 1), "seeds": (0, 1), "parallel": 1, **changes}
    return running.run(ablate.AblateConfig(out=out, design="transfer", **given))


def test_data_that_cannot_be_made_fail_the_arms_of_their_replicate_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(self: TransferTiers) -> None:
        if self.out.name == "seed0":
            raise RuntimeError("no room left")

    result = run_with(tmp_path, monkeypatch, make)
    told = {(run["seed"], run["status"], run["error"]) for run in result["runs"]}
    assert told == {(0, "failed", "RuntimeError: no room left"), (1, "done", None)} and len(result["runs"]) == 8
    # what failed is tried again
    assert {run["status"] for run in run_with(tmp_path, monkeypatch, lambda self: None)["runs"]} == {"done"}
    # nothing to go on with is no result
    monkeypatch.setattr("jobs.ablation.maker.log.warning", lambda *_, **__: None)
    with pytest.raises(ValueError, match="RuntimeError: no room left"):
        run_with(tmp_path / "other", monkeypatch, make, seeds=(0,))


def test_a_task_without_a_demonstration_is_told_and_fails_the_arms_that_should_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(self: TransferTiers) -> None:
        won = {"coffee-button": True, "window-close": self.out.name == "seed1"}
        episodes = [{"task": task, "success": success} for task, success in won.items()]
        (self.out / "novel").mkdir(parents=True, exist_ok=True)
        (self.out / "novel" / "simulate.json").write_text(json.dumps({"seconds": 1.0, "per_episode": episodes}))

    result = run_with(tmp_path, monkeypatch, make)
    failed = {(run["seed"], run["demos"]): run["error"] for run in result["runs"] if run["status"] == "failed"}
    assert set(failed) == {(0, 1)}
    assert "1 demonstrations of each task are wanted, and of those that succeeded window-close has 0" in failed[0, 1]


def test_one_demonstration_is_copied_of_the_tasks_that_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "copied", lambda dataset: {"a": np.zeros((3, 4), np.float32)})
    monkeypatch.setattr(
        copying, "play", lambda act, how: [SimpleNamespace(task=task, success=True) for task in how.tasks]
    )
    assert copying.copies(tmp_path, tmp_path, ("a", "b"), Budget(starts=1), 64, 0) == {"a": {"success": 1, "of": 1}}


def test_replicates_that_are_made_side_by_side_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    monkeypatch.setattr("torch.set_num_threads", found.append)
    monkeypatch.setattr(TransferTiers, "make", lambda self: None)
    monkeypatch.setattr(TransferTiers, "copies", lambda self, budget: {})
    here = lambda function, items, parallel, cluster: processes.side_by_side(function, items, 1)  # noqa: E731
    monkeypatch.setattr(maker, "side_by_side", here)
    both = [tiers_at(tmp_path, replicate) for replicate in (0, 1)]
    maker.make_all(both, Budget(), 4)
    assert [tiers.cores for tiers in both] == [4, 4] and found == [4, 6] * 2
    maker.make_all(both[:1], Budget(), 4)
    assert both[0].cores == 8 and found[4:] == [6, 6]  # alone it has them all, and no more threads than were asked for


def test_a_process_that_is_killed_is_told_with_the_remedy() -> None:
    with pytest.raises(OSError, match="killed from outside.*--parallel"):
        list(processes.side_by_side(os._exit, [9, 9], 2))


def test_what_is_resumed_may_look_for_another_lift_and_is_not_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with(tmp_path, monkeypatch, lambda self: None)
    assert run_with(tmp_path, monkeypatch, lambda self: None, lift=0.3, demos=(0, 1, 3))["settings"]["lift"] == 0.3
    claimed = tmp_path / "train.json"
    claimed.write_text(json.dumps({k: v for k, v in json.loads(claimed.read_text()).items() if k != "transfer"}))
    with pytest.raises(ValueError, match=f"version of giza .transfer absent there and {FORMAT} here.*another --out"):
        run_with(tmp_path, monkeypatch, lambda self: None)


def test_the_curve_is_of_the_demonstrations_or_of_the_known_tasks_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"steps": 1, "minutes": 0.0, "samples_seen": 1, "members": [], "held_out": {}}
    asked: list[str] = []
    monkeypatch.setattr(ablation_cells, "_train", lambda *_: told)
    monkeypatch.setattr(ablation_cells, "_rollouts", lambda *_: [])
    monkeypatch.setattr(ablation_cells, "_curve", lambda folder, dataset: asked.append(dataset))
    monkeypatch.setattr("vla.checkpoint.load_policy", lambda folder: None)
    made = plans(TRANSFER["robot-only"], tiers_at(tmp_path), (0, 1))
    job = CellJob(str(tmp_path), "robot-only", "trunk", 0, made, (), Budget(), TierData(), DEBUG, 1)
    ablation_cells.run_arm(job)
    assert asked == ["known", "demonstrations"]


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
    result = running.run(config)
    assert [(run["status"], run["error"]) for run in result["runs"]] == [("done", None)] * 2
    folder = config.out / "replicates" / "seed0" / "demos1" / "painted"
    label = json.loads((folder / "track" / "_label.json").read_text())
    assert label["rows"] > 0 and label["unknown"] == ["expert.gripper"]
    cut = {path.parent.name: 0 for path in (folder.parent / "robot-files").rglob("*.npz")}
    assert set(cut) == {"known", "novel"} and len(list((folder.parent / "robot-files" / "novel").iterdir())) == 1
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*.parquet")}
    running.run(dataclasses.replace(config, arms=("robot-only", "human-track", "shuffled")))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_plans_travel_to_other_processes(tmp_path: Path) -> None:
    import pickle

    made = plans(TRANSFER["human-track"], tiers_at(tmp_path), (0, 1))
    assert pickle.loads(pickle.dumps(made)) == made and all(isinstance(plan, Plan) for plan in made)
