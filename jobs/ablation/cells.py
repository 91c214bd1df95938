"""One cell of an ablation: pretraining on the base (once for each arm and seed), grounding on few demonstrations, and
rollouts from starts that are the same for every cell. Each part is resumed, or skipped where it is done."""

from __future__ import annotations

import dataclasses
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from corpora.episodes.episode import EpisodeSelection
from corpora.mixture.spec import Pyramid, read_pyramid
from corpora.store.files import write_json
from corpora.store.run import TRAINING, Run
from jobs.ablation.arms import ARMS, Arm, Cell
from jobs.ablation.data import EMBODIMENT, Prepared, TierData, base_pyramid, labelled, robot_member
from vla.models.config import PolicyConfig
from vla.training_config import PolicyTrainingConfig

RESULT = "result.json"
FAILURE = "failure.json"


@dataclass(frozen=True)
class Budget:
    """What all arms have in common."""

    pretrain_steps: int = 400
    """Optimiser steps on the base alone; an arm without a base takes them on its demonstrations. 0: the base is trained on
    beside the demonstrations only, from scratch."""
    ground_steps: int = 600
    """Optimiser steps on the demonstrations."""
    co_train_share: float = 0.5
    """Share of the base's samples beside those of demonstrations."""
    batch_size: int = 32
    """Samples a step, in both."""
    lr: float = 1e-3
    """Peak learning rate of both."""
    starts: int = 10
    """Unseen starts of each task."""
    execute: int = 8
    """Steps of a chunk that are executed."""
    max_steps: int = 250
    """Control steps of a rollout."""

    def __post_init__(self) -> None:
        if self.pretrain_steps < 0 or self.ground_steps < 1:
            raise ValueError(
                f"pretrain_steps {self.pretrain_steps}, ground_steps {self.ground_steps}: at least 0 and 1 optimiser steps"
            )
        if not 0 <= self.co_train_share < 1:
            raise ValueError(f"co_train_share {self.co_train_share}: within 0 and 1, e.g. 0.5")
        if not self.pretrain_steps and not self.co_train_share:
            raise ValueError(
                "pretrain_steps 0 with co_train_share 0: nothing would be trained on the base; give either"
            )


@dataclass(frozen=True)
class CellJob:
    """All that a process needs to run one arm and seed, plain enough to be sent to another machine."""

    out: str
    arm: str
    seed: int
    demos: tuple[int, ...]
    tasks: tuple[str, ...]
    budget: Budget
    data: TierData
    policy: PolicyConfig
    extra: str
    threads: int


def run_arm(job: CellJob) -> list[dict[str, Any]]:
    """The cells of one arm and seed, in the order of `demos`; a failure is a result too."""
    import logging
    import warnings

    import torch

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    threads = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        return [_cell(job, demos) for demos in job.demos]
    finally:
        torch.set_num_threads(threads)  # the process may be the caller's own


def _cell(job: CellJob, demos: int) -> dict[str, Any]:
    """The result of one cell, from the disk where it is done."""
    cell = Cell(job.arm, demos, job.seed)
    folder = Path(job.out) / "runs" / cell.folder
    done = folder / RESULT
    if done.is_file():
        finished: dict[str, Any] = json.loads(done.read_text("utf-8"))
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    try:
        result = _run_cell(job, cell, folder)
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


def _run_cell(job: CellJob, cell: Cell, folder: Path) -> dict[str, Any]:
    from vla.checkpoint import load_policy

    arm, budget = ARMS[cell.arm], job.budget
    out = Path(job.out)
    places = labelled(_places(out), arm, cell.demos)
    extra = read_pyramid(job.extra) if job.extra else None
    own = ""
    if arm.human in ("inverse-dynamics", "true"):  # the labels know only these demonstrations
        own = f"-demos{cell.demos}"
        _label(job, places, cell.demos, true=arm.human == "true")
    base = base_pyramid(arm, places, extra)
    pretraining: dict[str, Any] = {"steps": 0, "minutes": 0.0, "samples_seen": 0}
    start = None
    if arm.pretrained:
        if budget.pretrain_steps:
            start = out / "runs" / cell.arm / f"pretrain{own}-seed{cell.seed}"
            pretraining = _train(job, arm, base, start, cell.seed, budget.pretrain_steps, None)
        share = budget.co_train_share / (1 - budget.co_train_share)
        total = sum(member.weight for member in base.members)
        rest = [dataclasses.replace(member, weight=member.weight * share / total) for member in base.members]
        mixture = Pyramid("", (robot_member(places, cell.demos, 1.0), *(m for m in rest if m.weight > 0)), Path())
        steps = budget.ground_steps
    else:
        mixture = Pyramid("", (robot_member(places, cell.demos, 1.0),), Path())
        steps = budget.pretrain_steps + budget.ground_steps  # trained as long
    grounding = _train(job, arm, mixture, folder, cell.seed, steps, start)
    policy = load_policy(folder)
    rollouts = _rollouts(job, policy, folder)
    robot = sum(m["epochs"] * m["samples"] for m in grounding["members"] if m["name"] == "demonstrations")
    return _record(
        cell,
        "done",
        steps=pretraining["steps"] + grounding["steps"],
        minutes=round(pretraining["minutes"] + grounding["minutes"], 3),
        samples_seen=pretraining["samples_seen"] + grounding["samples_seen"],
        robot_samples_seen=round(robot),
        curve=_curve(folder),
        rollouts=rollouts,
        held_out=grounding["held_out"],
        pretraining=pretraining.get("held_out", {}),
    )


def _label(job: CellJob, places: Prepared, demos: int, *, true: bool) -> None:
    """Actions for people's clips: by an inverse dynamics model of `demos` demonstrations a task, or the `true` ones."""
    from jobs.ablation.ceiling import write_true_actions
    from jobs.commands import label

    folder = places.pseudo_actions
    config = label.LabelConfig(
        robot=places.robot,
        embodiment=EMBODIMENT,
        corpus=places.human,
        out=folder,
        steps=job.budget.pretrain_steps or job.budget.ground_steps,
        selection=EpisodeSelection(demos=demos, failures=True),
        horizon=job.policy.horizon,
        image_size=job.policy.image_size,
        cache=Path(job.out) / "cache",
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(
        folder.with_suffix(".lock")
    ):  # seeds that run side by side share the labels; the second finds them done
        if true:
            write_true_actions(config, Path(job.out) / "human" / "truth.parquet")
        else:
            label.run(config, quiet=True)


def _places(out: Path) -> Prepared:
    human = out / "human"
    return Prepared(out / "robot", out / "synthetic", human / "corpus", human / "latents", human / "pseudo")


def _train(
    job: CellJob, arm: Arm, mixture: Pyramid, folder: Path, seed: int, steps: int, start: Path | None
) -> dict[str, Any]:
    """Trains in `folder`, or reads what a finished training left there."""
    import lightning

    from jobs.policy_run import train_policy
    from vla.checkpoint import build_policy, load_policy
    from vla.data.open import open_members

    run = Run(folder, {}, record=TRAINING)  # the ablation's folder belongs to its settings
    if (done := run.finished) is not None:
        return done
    lightning.seed_everything(seed, workers=True, verbose=False)
    config = dataclasses.replace(job.policy, head="regression") if arm.recipe == "bc" else job.policy
    policy = load_policy(start) if start is not None else build_policy(config)
    alignment = dataclasses.replace(
        PolicyTrainingConfig(steps=1).alignment,
        standardise=True,
        ema=1.0,  # the random start, kept: an average of a network that learns from nothing but it falls to a point
    )
    flare = arm.flare and arm.recipe != "bc"
    training = PolicyTrainingConfig(
        steps=steps,
        batch_size=job.budget.batch_size,
        lr=job.budget.lr,
        workers=0,
        ema=0.99,
        flare=flare,
        alignment=alignment,
        val_every_steps=max(1, min(50, steps // 2), steps // 5),  # checkpoints twice as often, of a small budget too
        val_samples=128,
    )
    members = open_members(
        mixture,
        policy,
        seed=0,  # the same episodes are held out in every arm and seed
        held_share=0.1,
        future_s=alignment.future_s if flare else None,
        cache=Path(job.out) / "cache",
    )
    return train_policy(policy, members, training, run, seed=seed, quiet=True)


def _rollouts(job: CellJob, policy: Any, folder: Path) -> list[dict[str, Any]]:
    """Successes from the starts that all cells share; resumed start by start."""
    from corpora.simulation.metaworld import Look
    from jobs.evaluation.acting import metaworld_act
    from jobs.evaluation.closed_loop import play
    from jobs.evaluation.rollout_log import RolloutLog

    settings = {"tasks": job.tasks, "starts": job.budget.starts, "execute": job.budget.execute}
    log = RolloutLog(folder / "rollouts.jsonl", settings)
    play(
        metaworld_act(policy, EMBODIMENT, seed=0),
        job.tasks,
        job.budget.starts,
        look=Look(size=job.data.size),
        execute=job.budget.execute,
        max_steps=job.budget.max_steps,
        seed=0,
        workers=1,
        slots=12,
        skip=log.done(),
        on_complete=log.add,
    )
    ordered = sorted(log.rollouts, key=lambda rollout: (rollout.task, rollout.start))
    return [{"task": r.task, "start": r.start, "success": r.success, "steps": r.steps} for r in ordered]


def _curve(folder: Path) -> list[list[float]]:
    """[step, held-out action loss on demonstrations] as TensorBoard has it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    name = "val/action/demonstrations"
    if name not in events.Tags()["scalars"]:
        return []
    return [[float(event.step), round(float(event.value), 5)] for event in events.Scalars(name)]


def each(jobs: list[CellJob], parallel: int, engine: str, done: Callable[[list[dict[str, Any]]], None]) -> None:
    """Runs the jobs in `parallel` processes of this machine, or as Ray tasks; `done` hears of each that ends."""
    if engine == "ray":
        import ray

        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
        remote = ray.remote(num_cpus=jobs[0].threads, max_retries=2)(run_arm)
        waiting = [remote.remote(job) for job in jobs]
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            done(ray.get(ready[0]))
        return
    if parallel == 1:
        for job in jobs:
            done(run_arm(job))
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(parallel, mp_context=context, max_tasks_per_child=1) as pool:
        for future in as_completed([pool.submit(run_arm, job) for job in jobs]):
            done(future.result())
