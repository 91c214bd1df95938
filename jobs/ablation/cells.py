"""One cell of an ablation: pretraining on the base (once for each arm and seed), grounding on few demonstrations, and
rollouts from starts that are the same for every cell. Each part is resumed, or skipped where it is done."""

from __future__ import annotations

import dataclasses
import json
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from corpora.mixture.mixture import MixtureSpec
from corpora.store.files import write_json
from corpora.store.run import TRAINING, Run
from jobs.ablation.arms import POLICIES, Arm, Cell
from jobs.ablation.maker import EMBODIMENT, Maker, Order
from jobs.ablation.processes import Cluster, side_by_side, torch_threads
from jobs.ablation.settings import Budget, TierData
from vla.models.config import PolicyConfig
from vla.recipes import tuning_of_policy
from vla.training_config import PolicyTrainingConfig

log = logging.getLogger(__name__)
RESULT = "result.json"
FAILURE = "failure.json"


@dataclass(frozen=True)
class Plan:
    """What one arm trains on with some number of demonstrations."""

    demos: int
    mixture: MixtureSpec
    orders: tuple[Order, ...]
    """Labels that it has made first."""
    fault: str = ""
    """Why its data could not be made; "": they are there."""

    @property
    def robot(self) -> MixtureSpec:
        """The demonstrations."""
        return self.mixture.of_tier("robot")

    @property
    def base(self) -> MixtureSpec:
        """What it is pretrained on: everything below the robot tier."""
        return self.mixture.of_tier("human", "synthetic", "neural")


def grounded_on(robot: MixtureSpec, base: MixtureSpec, budget: Budget) -> MixtureSpec:
    """What a policy is trained on in the end: the robot's data, and of the base, where there is one, the budget's share."""
    alone, share = robot.weighing(1.0), budget.co_train_share / (1 - budget.co_train_share)
    return alone + base.weighing(share) if base.datasets and share else alone


def plans(arm: Arm, tiers: Maker, demos: Sequence[int]) -> tuple[Plan, ...]:
    """One for each number of demonstrations. Raises ValueError where the arm asks for what the design has not."""
    found = []
    for count in demos:
        tiers.orders.clear()
        try:
            mixture = arm.mixture(tiers, count)
        except AttributeError as error:
            if error.obj is not tiers:
                raise
            raise ValueError(
                f"arm '{arm.name}' asks for '{error.name}', which design {tiers.design} has not: it has "
                f"{', '.join(tiers.mixtures)}; write the arm for these, or choose --recipe and --design of the other design"
            ) from None
        found.append(Plan(count, mixture, tuple(tiers.orders)))
    return tuple(found)


@dataclass(frozen=True)
class CellJob:
    """All that a process needs to run one arm and seed, plain enough to be sent to another machine."""

    out: str
    arm: str
    recipe: str
    seed: int
    plans: tuple[Plan, ...]
    tasks: tuple[str, ...]
    budget: Budget
    data: TierData
    policy: PolicyConfig
    threads: int
    batch_share: float = 1.0
    """Of the budget's batch."""
    start_seed: int = 0
    """Of the starts; in design transfer every seed has its own."""
    filmed: bool = False
    """A success and a failure with most demonstrations are filmed."""


def run_arm(job: CellJob) -> list[dict[str, Any]]:
    """The cells of one arm and seed, in the order of its plans; a failure is a result too."""
    import warnings

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    with torch_threads(job.threads):
        results = [_cell(job, plan) for plan in job.plans]
        if job.filmed:
            _film(job, max(results, key=lambda result: result["demos"]))
        return results


def _cell(job: CellJob, plan: Plan) -> dict[str, Any]:
    """The result of one cell, from the disk where it is done."""
    cell = Cell(job.arm, plan.demos, job.seed)
    folder = Path(job.out) / "runs" / cell.folder
    done = folder / RESULT
    if done.is_file():
        finished: dict[str, Any] = json.loads(done.read_text("utf-8"))
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    if plan.fault:
        result = _record(cell, "failed", error=plan.fault)
        write_json(folder / FAILURE, result)
        return result
    try:
        result = _run_cell(job, plan, cell, folder)
        (folder / FAILURE).unlink(missing_ok=True)
        write_json(done, result)
    except KeyboardInterrupt:
        raise
    except Exception as error:  # an arm that fails is reported, and the others go on
        result = _record(cell, "failed", error=f"{type(error).__name__}: {error}")
        write_json(folder / FAILURE, {**result, "traceback": traceback.format_exc()})
    return result


def _record(cell: Cell, status: str, *, error: str | None = None, **facts: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(cell), "status": status, "error": error, "rollouts": [], "curve": [], **facts}


def _run_cell(job: CellJob, plan: Plan, cell: Cell, folder: Path) -> dict[str, Any]:
    from vla.checkpoint import load_policy

    budget = job.budget
    for order in plan.orders:
        _label(job, order)
    pretraining: dict[str, Any] = {"steps": 0, "minutes": 0.0, "samples_seen": 0}
    start = None
    if plan.base.datasets:
        own = f"-demos{cell.demos}" if len({other.base for other in job.plans}) > 1 or plan.orders else ""
        if budget.pretrain_steps:
            start = Path(job.out) / "runs" / cell.arm / f"pretrain{own}-seed{cell.seed}"
            pretraining = _train(job, plan.base, start, budget.pretrain_steps, None)
        steps = budget.ground_steps
    else:
        steps = budget.pretrain_steps + budget.ground_steps  # trained as long
    grounding = _train(job, grounded_on(plan.robot, plan.base, budget), folder, steps, start)
    policy = load_policy(folder)
    rollouts = _rollouts(job, policy, folder)
    names = {spec.name for spec in plan.robot.datasets}
    seen = sum(m["epochs"] * m["samples"] for m in grounding["members"] if m["name"] in names)
    return _record(
        cell,
        "done",
        steps=pretraining["steps"] + grounding["steps"],
        minutes=round(pretraining["minutes"] + grounding["minutes"], 3),
        samples_seen=pretraining["samples_seen"] + grounding["samples_seen"],
        robot_samples_seen=round(seen),
        curve=_curve(folder, plan.robot.datasets[-1].name),
        rollouts=rollouts,
        held_out=grounding["held_out"],
        pretraining=pretraining.get("held_out", {}),
    )


def _label(job: CellJob, order: Order) -> None:
    """Has labels made as long as the policy's chunks, and of images that are decoded for it anyway."""
    from jobs.commands.label import LabelConfig

    how = LabelConfig(
        *(Path(), EMBODIMENT, Path(), Path()),  # the order says of what, and where to
        steps=job.budget.pretrain_steps or job.budget.ground_steps,
        horizon=job.policy.horizon,
        image_size=job.policy.image_size,
        cache=Path(job.out) / "cache",
    )
    order.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(order.folder.with_suffix(".lock")):  # cells side by side share the labels; the second finds them done
        order.make(how)


def _train(job: CellJob, mixture: MixtureSpec, folder: Path, steps: int, start: Path | None) -> dict[str, Any]:
    """Trains in `folder`, or reads what a finished training left there."""
    from jobs.training.policy_run import train_in

    kind, config = POLICIES[job.recipe], job.policy
    if kind.head:
        config = dataclasses.replace(config, head=kind.head, feeding=kind.feeding)
    alignment = dataclasses.replace(
        PolicyTrainingConfig(steps=1).alignment,
        standardise=True,
        ema=1.0,  # the random start, kept: an average of a network that learns from nothing but it falls to a point
        target="backbone" if job.policy.vision.name else "ema",
        change=kind.change,
    )
    training = PolicyTrainingConfig(
        steps=steps,
        batch_size=max(1, round(job.budget.batch_size * job.batch_share)),
        lr=job.budget.lr,
        workers=0,
        ema=0.99,
        flare=kind.flare,
        alignment=alignment,
        val_every_steps=max(1, min(50, steps // 2), steps // 5),  # checkpoints twice as often, of a small budget too
        val_samples=128,
    )
    return train_in(
        Run(folder, {}, record=TRAINING),  # the ablation's folder belongs to its settings
        mixture,
        config,
        training,
        policy=start or "",
        tuning=tuning_of_policy(config),
        seed=job.seed,
        data_seed=0,  # the same episodes are held out in every arm and seed
        cache=Path(job.out) / "cache",
        quiet=True,
    )


def _film(job: CellJob, result: dict[str, Any]) -> None:
    """Of a cell that is done; one that cannot be filmed stops nothing."""
    if result["status"] != "done":
        return
    from jobs.ablation.films import RECORD, film
    from vla.checkpoint import load_policy

    folder = Path(job.out) / "runs" / Cell(job.arm, result["demos"], job.seed).folder
    try:
        if not (folder / RECORD).is_file():
            act, how = _acting(job, load_policy(folder))
            film(act, how, result["rollouts"], folder)
    except Exception as error:
        log.warning("%s is not filmed: %s: %s", folder.name, type(error).__name__, error)


def _acting(job: CellJob, policy: Any) -> tuple[Any, Any]:
    """The policy as rollouts ask it, and how they are played."""
    import torch

    from corpora.simulation.settings import Look
    from jobs.evaluation.acting import metaworld_act, metaworld_view
    from jobs.evaluation.closed_loop import ClosedLoopSettings

    how = ClosedLoopSettings(
        job.tasks,
        job.budget.starts,
        execute=job.budget.execute,
        max_steps=job.budget.max_steps,
        look=Look(size=job.data.size),
        view=metaworld_view(policy, EMBODIMENT),
        videos=0,
        workers=1,
        slots=12,
        seed=job.start_seed,
    )
    policy = policy.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return metaworld_act(policy, EMBODIMENT), how


def _rollouts(job: CellJob, policy: Any, folder: Path) -> list[dict[str, Any]]:
    """Successes from the starts that all cells of a seed share; resumed start by start."""
    from jobs.evaluation.closed_loop import play
    from jobs.evaluation.rollout_log import RolloutLog

    settings = {"tasks": job.tasks, "starts": job.budget.starts, "execute": job.budget.execute}
    if job.start_seed:
        settings["start_seed"] = job.start_seed
    played = RolloutLog(folder / "rollouts.jsonl", settings)
    act, how = _acting(job, policy)
    play(act, how, skip=played.done(), on_complete=played.add)
    ordered = sorted(played.rollouts, key=lambda rollout: (rollout.task, rollout.start))
    return [{"task": r.task, "start": r.start, "success": r.success, "steps": r.steps} for r in ordered]


def _curve(folder: Path, dataset: str) -> list[list[float]]:
    """[step, held-out action loss on a dataset] as TensorBoard has it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    name = f"val/action_loss/{dataset}"
    if name not in events.Tags()["scalars"]:
        return []
    return [[float(event.step), round(float(event.value), 5)] for event in events.Scalars(name)]


def each(jobs: list[CellJob], parallel: int, engine: str, done: Callable[[list[dict[str, Any]]], None]) -> None:
    """Runs the jobs in `parallel` processes of this machine, or of a cluster; `done` hears of each that ends."""
    cluster = Cluster(Path(jobs[0].out), _killed) if engine == "ray" else None
    for _, results in side_by_side(run_arm, jobs, parallel, cluster):
        done(results)


def _killed(job: CellJob, reason: str) -> list[dict[str, Any]]:
    """The cells of an arm that cannot be run; those that were done before stay so."""
    return run_arm(dataclasses.replace(job, plans=tuple(dataclasses.replace(plan, fault=reason) for plan in job.plans)))
