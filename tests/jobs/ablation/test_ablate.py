"""Ablations: arms, cells, what fails and what is resumed."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import jobs
from corpora.mixture.label_kinds import Latents
from corpora.mixture.mixture import MixtureSpec, read_mixture
from jobs.ablation import arms as arms_module
from jobs.ablation import cells as ablation_cells
from jobs.ablation import config as ablate
from jobs.ablation import running
from jobs.ablation.arms import ARMS, Arm, Cell, arms_named, cells
from jobs.ablation.cells import FAILURE, RESULT, CellJob, Plan, plans, run_arm
from jobs.ablation.maker import TrueActions
from jobs.ablation.settings import Budget, TierData
from jobs.ablation.tiers import LabelOrder, Tiers
from jobs.ablation.transfer import TransferTiers
from tests.builders.ablations import extra_file
from tests.builders.policies import batch_of, tiny_policy
from vla.models.config import VisionConfig
from vla.recipes import DEBUG, EVERYTHING, FROZEN_VLM, RECIPES
from vla.training_config import TuningConfig


def tiers_at(out: Path, extra: Path | None = None) -> Tiers:
    return Tiers(out, ("drawer-open",), TierData(), read_mixture(extra) if extra else None)


def job(out: Path, name: str = "bc", demos: tuple[int, ...] = (1, 3), **changes: Any) -> CellJob:
    arm = ARMS[name]
    made = plans(arm, tiers_at(out), demos)
    base = CellJob(str(out), name, arm.recipe, 0, made, ("drawer-open",), Budget(), TierData(), DEBUG, 1)
    return dataclasses.replace(base, **changes)


def test_cells_come_seed_by_seed_so_that_a_part_has_whole_seeds() -> None:
    found = cells({"robot-only": (1, 3), "bc": (1, 3)}, (0, 7))
    assert [cell.seed for cell in found] == [0] * 4 + [7] * 4
    assert len({cell.folder for cell in found}) == 8


def test_some_arms_alone_are_run_without_a_demonstration() -> None:
    config = ablate.AblateConfig(Path("x"), **{**ablate.RECIPES["standard"], "zero_arms": ("robot-only", "true")})
    found = cells({arm: config.demos_of(arm) for arm in config.arms}, (0,))
    assert {cell.arm for cell in found if cell.demos == 0} == {"robot-only", "true"}
    assert [cell.arm for cell in found if cell.demos == 1] == list(config.arms)
    alone = dataclasses.replace(config, demos=(0,))  # then nothing else is asked for
    assert {alone.demos_of(arm) for arm in config.arms} == {(0,)}
    with pytest.raises(ValueError, match="--zero-arms robot-onyl: of design transfer there are robot-only, "):
        running.run(dataclasses.replace(config, zero_arms=("robot-onyl",)))


FUTURE = {name: recipe.policy for name, recipe in RECIPES.items() if recipe.policy.future_tokens}


@pytest.mark.parametrize("name", ["ablate", *FUTURE])
def test_what_is_aligned_with_the_future_has_seen_state_and_actions(name: str) -> None:
    """V12: read behind the first layer, which is of cross-attention, future tokens know nothing of what is done."""
    given = ablate.POLICY if name == "ablate" else FUTURE[name]
    layers = dataclasses.replace(DEBUG.dit, layers=given.dit.layers, future_layer=given.dit.future_layer)
    policy = tiny_policy(dit=dataclasses.replace(layers, cross=given.dit.cross), future_tokens=4)
    batch = batch_of(policy.config, [0, 3])

    def states(**changed: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        with torch.no_grad():
            found = policy.loss({**batch, **changed}).future_states  # type: ignore[typeddict-item]
        assert found is not None
        return found

    for part in ("state", "action"):
        assert not torch.allclose(states(), states(**{part: batch[part] + 1}))  # type: ignore[literal-required]


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


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"recipe": "trunc"}, "arm 'mine': recipe 'trunc'. Did you mean 'trunk'?"),
        ({"role": "hero"}, "arm 'mine': role 'hero'. Known: baseline, arm"),
    ],
)
def test_an_arm_of_a_recipe_or_role_that_there_is_not_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Arm("mine", "", lambda tiers, demos: tiers.robot(demos), **wrong)


def test_a_control_that_there_is_not_is_refused() -> None:
    mine = Arm("mine", "", lambda tiers, demos: tiers.robot(demos), controls=("shufled",))
    with pytest.raises(ValueError, match="arm 'mine': control 'shufled': of design joint there are robot-only"):
        arms_named("joint", ("robot-only", "mine"), {"mine": mine})
    assert arms_named("joint", ("robot-only", "human-latent"))[1].controls == ("shuffled",)  # one that is not run


def test_the_arms_of_the_modules_help_are_arms_of_the_design_that_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "_extract.json").write_text("{}")
    _, *examples = str(arms_module.__doc__).split("mine = ")
    transfer = TransferTiers(tmp_path, ("door-lock",), ("coffee-button",), TierData(), 0)
    assert ablate.RECIPES["demo"]["design"] == transfer.design  # whose example comes first
    for example, tiers in zip(examples, (transfer, tiers_at(tmp_path)), strict=True):
        mine = eval(example.strip(), {"Arm": Arm})
        assert plans(mine, tiers, (1,))[0].base.datasets
        arms_named(tiers.design, ("robot-only", mine.name), {mine.name: mine})


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
        "world-only": [],
        "human-world": [("human", "none")],
        "world-shuffled": [("human", "none")],
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
        "world-only": ["robot"],
        "human-world": ["robot", "human (next pictures)"],
        "world-shuffled": ["robot", "human (next pictures shuffled)"],
    }


def test_only_what_the_arms_ask_for_is_made(tmp_path: Path) -> None:
    wanted = {}
    for name in ("bc", "synthetic", "human-flare", "human-latent", "human-idm", "human-true"):
        tiers = tiers_at(tmp_path)
        (plan,) = plans(ARMS[name], tiers, (3,))
        assert all(isinstance(order, LabelOrder) for order in plan.orders)
        wanted[name] = (tiers.wanted - {"robot"}, [(order.folder.name, vars(order)["true"]) for order in plan.orders])
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
    (tmp_path / "tracks" / "_extract.json").write_text("{}")
    mine = Arm(
        "human-track",
        "+ human video by tracked hands",
        mixture=lambda tiers, demos: tiers.robot(demos) + tiers.human.labelled(tmp_path / "tracks"),
    )
    assert arms_named("joint", ("robot-only", "human-track"), {mine.name: mine}) == [ARMS["robot-only"], mine]
    (spec,) = base(mine, tiers_at(tmp_path))
    assert spec.label == Latents(tmp_path / "tracks") and spec.embodiment == "latent"
    trained = []
    monkeypatch.setattr(running, "each", lambda jobs, parallel, engine, done: trained.extend(jobs))
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
        "recipe": "small",
        "controls": [],
        "demos": [1],
    }
    assert "cannot tell" in str(study.comparison("human-track"))  # no cell was run
    with pytest.raises(
        ValueError, match="recipe 'demo' is of design transfer, .* choose recipe 'joint_demo' or 'joint'"
    ):
        jobs.ablate(tiers.out, arms=["robot-only"], tiers=tiers, recipe="demo")


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
        "human-world": {"street"},
        "world-shuffled": {"street"},
    }
    kitchen = next(spec for spec in joined["human-latent"] if spec.name == "kitchen")
    assert kitchen.label == Latents(tmp_path / "latents") and kitchen.data.corpus == tmp_path / "kitchen"
    assert all(spec.label.shuffle_seed == 0 for spec in joined["shuffled"])


@pytest.mark.parametrize(("arm", "tuning"), [("robot-only", FROZEN_VLM), ("bc", EVERYTHING)])
def test_a_backbone_that_is_named_stays_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str, tuning: TuningConfig
) -> None:
    """The baseline is trained whole: its backbone is frozen by itself."""
    given: list[TuningConfig] = []
    monkeypatch.setattr("jobs.training.policy_run.train_in", lambda *_, **how: given.append(how["tuning"]))
    named = dataclasses.replace(DEBUG, vision=VisionConfig(name="dino"))
    ablation_cells._train(job(tmp_path, arm, policy=named), MixtureSpec(()), tmp_path, 1, None)
    assert given == [tuning]


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
    monkeypatch.setattr(ablation_cells, "_curve", lambda folder, dataset: [])
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
        for run in running.gather(
            config, [ARMS["robot-only"]], {"robot-only": plans(ARMS["robot-only"], tiers_at(tmp_path), (1,))}
        )["runs"]
    ] == ["missing", "done"]


def test_an_arm_runs_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds its cell done: what it would run, other tests run here. In this process it would fail."""
    monkeypatch.setattr(ablation_cells, "_cell", lambda job, plan: pytest.fail("run by the process that asked"))
    folder = tmp_path / "runs" / Cell("bc", 1, 0).folder
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(json.dumps({"arm": "bc", "told by": "the disk"}))
    found: list[Any] = []
    ablation_cells.each([job(tmp_path, "bc", (1,))], 2, "local", found.extend)
    assert found == [{"arm": "bc", "told by": "the disk"}]
