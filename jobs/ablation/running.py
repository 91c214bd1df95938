"""An ablation as it runs: data, then arms side by side, then what they say."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from corpora.held_out import HELD_OUT
from corpora.mixture.mixture import read_mixture
from corpora.simulation.tasks import task_names
from jobs.ablation.arms import DESIGNS, Arm, arms_named, cells
from jobs.ablation.cells import FAILURE, RESULT, CellJob, Plan, each, grounded_on, plans
from jobs.ablation.config import AblateConfig
from jobs.ablation.maker import Maker, make_all
from jobs.ablation.processes import share_of_cores
from jobs.ablation.settings import Budget
from jobs.ablation.tiers import Tiers
from jobs.ablation.transfer import FORMAT, TransferTiers
from jobs.progress import VOICE, bar

if TYPE_CHECKING:
    from jobs.ablation.statistics import Statistics


def run(config: AblateConfig, own: Sequence[Arm] = ()) -> dict[str, Any]:
    """Runs what is missing and writes ablation.json and ablation.html; returns the former.

    `own`: arms beside those of ARMS, which `config.arms` may name. Raises ValueError for an unknown arm, and where `out`
    holds another ablation; an arm that fails is in the result and stops nothing.
    """
    began = time.monotonic()
    if unknown := [arm for arm in config.zero_arms if arm not in (*DESIGNS[config.design], *config.arms)]:
        raise ValueError(
            f"--zero-arms {unknown[0]}: of design {config.design} there are {', '.join(DESIGNS[config.design])}"
        )
    arms = arms_named(config.design, config.arms, {arm.name: arm for arm in own})
    from corpora.store.provenance import provenance
    from corpora.store.run import TRAINING, Run
    from jobs.ablation.page import write_page
    from jobs.ablation.tables import print_tables
    from jobs.evaluation.rollout_log import ROLLOUT_FORMAT
    from vla.stored import FORMAT as POLICY_FORMAT

    settings = dataclasses.asdict(config)
    for moved in ("out", "engine", "parallel", "recipe"):
        del settings[moved]
    settings["extra"] = config.extra.read_text("utf-8") if config.extra is not None else None
    run = Run(
        config.out,
        settings,
        summary="ablation.json",
        record=TRAINING,
        budget=("arms", "seeds", "demos", "zero_arms", "seed", "lift"),
        formats={
            "rollout_format": ROLLOUT_FORMAT,
            "held_out": HELD_OUT,
            "transfer": FORMAT if config.design == "transfer" else None,
            "policy_format": POLICY_FORMAT,
        },
    )
    with run.claim():
        result, found = _measure(config, arms)
        result["minutes"] = round((time.monotonic() - began) / 60, 2)
        result["provenance"] = provenance()
        write_page(result, config.out / "ablation.html", found)
        result = run.finish(result, traced=False)
    print_tables(result, found)
    return result


def _measure(config: AblateConfig, arms: Sequence[Arm]) -> tuple[dict[str, Any], Statistics]:
    """Runs what is missing; all that there is then, and what it says."""
    from jobs.ablation.statistics import summarise

    policy = config.seen_by
    parallel = config.parallel or min(8, os.cpu_count() or 1)
    tiers = open_tiers(config)
    plan = {seed: {arm.name: plans(arm, own, config.demos_of(arm.name)) for arm in arms} for seed, own in tiers.items()}
    makers = list(dict.fromkeys(tiers.values()))
    made = dict(zip(makers, make_all(makers, config.budget, parallel, config.engine), strict=True))
    jobs = [
        CellJob(
            out=str(config.out.resolve()),
            arm=arm.name,
            recipe=arm.recipe,
            seed=seed,
            plans=tuple(
                dataclasses.replace(each, fault=made[tiers[seed]].lacks(each.demos)) for each in plan[seed][arm.name]
            ),
            tasks=task_names(config.tasks),
            budget=config.budget,
            data=config.data,
            policy=policy,
            threads=share_of_cores(parallel),
            batch_share=config.budget.robot_share if arm.thinned else 1.0,
            start_seed=tiers[seed].start_seed,
            filmed=seed == config.seeds[0],
        )
        for seed in config.seeds
        for arm in arms
    ]
    with bar("arms", unit="cells", keep=True) as show:
        finished = 0

        def done(results: list[dict[str, Any]]) -> None:
            nonlocal finished
            finished += 1
            VOICE.say("; ".join(_said(result) for result in results))
            show(finished, len(jobs))

        each(jobs, parallel, config.engine, done)
    first = next(seed for seed in config.seeds if not made[tiers[seed]].fault)
    floors = [each.copies for each in made.values()]
    result = gather(config, arms, plan[first])
    result["pyramid"] = {
        "tiers": [{"tier": tier, "hours": value} for tier, value in tiers[first].hours().items()],
        "arms": _drawings(arms, plan[first], config.budget),
    }
    result["copy"] = {
        task: {name: sum(floor[task][name] for floor in floors if task in floor) for name in ("success", "of")}
        for task in task_names(config.tasks)
        if any(task in floor for floor in floors)
    }
    found = summarise(result, seed=config.seed)
    result["statistics"] = found.to_json()
    return result, found


def open_tiers(config: AblateConfig) -> dict[int, Maker]:
    """Seed -> its data: in design joint the same for all."""
    tasks = task_names(config.tasks)
    if config.design == "joint":
        extra = read_mixture(config.extra.resolve()) if config.extra is not None else None
        return dict.fromkeys(config.seeds, Tiers(config.out, tasks, config.data, extra))
    known = task_names(config.known_tasks)
    return {seed: TransferTiers(config.out, known, tasks, config.data, seed) for seed in config.seeds}


def _drawings(arms: Sequence[Arm], plan: Mapping[str, Sequence[Plan]], budget: Budget) -> list[dict[str, Any]]:
    """The pyramid of each arm at its largest number of demonstrations, in its shares of a batch; arms that train on the same
    share one."""
    names: dict[str, list[str]] = {}
    for arm in arms:
        most = max(plan[arm.name], key=lambda found: found.demos)
        try:
            drawn = grounded_on(most.robot, most.base, budget).svg()
        except ValueError:  # a dataset that failed to be made is told by its arm
            continue
        names.setdefault(drawn, []).append(arm.name)
    return [{"names": found, "svg": drawn} for drawn, found in names.items()]


def _said(result: dict[str, Any]) -> str:
    name = f"{result['arm']} {result['demos']} demos seed {result['seed']}"
    if result["status"] != "done":
        return f"{name}: {result['status']} ({result['error']})"
    won = sum(rollout["success"] for rollout in result["rollouts"])
    return f"{name}: {won}/{len(result['rollouts'])}"


def gather(config: AblateConfig, arms: Sequence[Arm], plan: Mapping[str, Sequence[Plan]]) -> dict[str, Any]:
    """What the runs left on disk, for statistics and page; a cell without a result is `missing`."""
    from jobs.ablation.films import films_of

    runs = []
    for cell in cells({arm.name: config.demos_of(arm.name) for arm in arms}, config.seeds):
        folder = config.out / "runs" / cell.folder
        found = next((folder / name for name in (RESULT, FAILURE) if (folder / name).is_file()), None)
        if found is None:
            runs.append({**dataclasses.asdict(cell), "status": "missing", "error": None, "rollouts": [], "curve": []})
        else:
            record = json.loads(found.read_text("utf-8"))
            record.pop("traceback", None)
            runs.append(record | {"films": films_of(folder, config.out)})
    settings = {
        "design": config.design,
        "lift": config.lift,
        "tasks": list(task_names(config.tasks)),
        "known_tasks": list(task_names(config.known_tasks)) if config.design == "transfer" else [],
        "backbone": config.backbone,
        "demos": list(config.demos),
        "seeds": list(config.seeds),
        **dataclasses.asdict(config.budget),
        **{f"data_{name}": value for name, value in dataclasses.asdict(config.data).items()},
        "seed": config.seed,
    }
    return {
        "recipe": config.recipe,
        "settings": settings,
        "arms": [
            {
                "name": arm.name,
                "says": arm.description,
                "members": arm.data(max(plan[arm.name], key=lambda found: found.demos).mixture),
                "role": arm.role,
                "recipe": arm.recipe,
                "controls": list(arm.controls),
                "demos": list(config.demos_of(arm.name)),
            }
            for arm in arms
        ],
        "runs": runs,
        "latents": None,
    }
