"""Statistics of an ablation's runs: success of each arm, the best baseline, and paired differences with their intervals.

The reference of all arms is the best of the baselines. It is chosen by the same runs, so that it is rather too good by
luck than too bad, and a lift over it is rather understated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from jobs.ablation.findings import LIFT, Comparison, Question, Statistics, Success
from jobs.ablation.intervals import Design, Grid, Method
from jobs.ablation.roles import ArmRole, arm_roles

Full = Mapping[tuple[str, int], Mapping[int, Grid]]
"""(arm, demonstrations) -> seed -> its full run."""
QUESTIONS: dict[str, Question] = {
    "arm": "lift",
    "positive": "instrument",
    "ceiling": "instrument",
    "control": "beside",
    "baseline": "beside",
}
"""What an arm of a role is compared with the best baseline for."""


def summarise(result: Mapping[str, Any], *, draws: int = 10_000, seed: int = 0) -> Statistics:
    """Statistics of an ablation's result (`arms`, `runs`, `settings` with tasks, demos, seeds and starts).

    The same seed and number of seeds, tasks and starts draw the same resamples, for all arms and comparisons.
    Raises ValueError where two runs claim the same arm, demonstrations and seed, and for an unknown design or role.
    """
    settings = result["settings"]
    design = settings.get("design", "joint")
    if design not in get_args(Design):
        raise ValueError(f"design '{design}': must be among {', '.join(get_args(Design))}")
    tasks, seeds, lift = tuple(settings["tasks"]), tuple(settings["seeds"]), float(settings.get("lift", LIFT))
    method = Method(design, tasks, draws, seed)
    arms, runs = arm_roles(result), _runs(result)
    full: dict[tuple[str, int], dict[int, Grid]] = {}
    success, comparisons, references = [], [], {}
    for demos in settings["demos"]:
        here = [arm for arm in arms if arm.demos is None or demos in arm.demos]
        for arm in here:
            grids = {k: _grid(runs.get((arm.name, demos, k)), tasks, settings["starts"]) for k in seeds}
            mine = full[arm.name, demos] = {k: grid for k, grid in grids.items() if not isinstance(grid, str)}
            found = method.measure(list(mine.values()), least=0.0)
            success.append(
                Success(
                    arm.name,
                    demos,
                    seeds=tuple(mine),
                    without={k: why for k, why in grids.items() if isinstance(why, str)},
                    by_seed={k: float(grid.mean()) for k, grid in mine.items()},
                    rollouts=len(tasks) * settings["starts"],
                    over=found.over,
                    overall=found.overall,
                    tasks=found.tasks,
                )
            )
        reference = best_baseline([arm.name for arm in here if arm.role == "baseline"], full, demos)
        if reference is None:
            continue
        references[demos] = reference
        for name, other, question in _questions(here, reference):
            ours, theirs = full[name, demos], full[other, demos]
            both = tuple(k for k in seeds if k in ours and k in theirs)
            lacking = tuple(k for k in seeds if k not in both)
            measured = method.measure([ours[k] - theirs[k] for k in both], least=-1.0)
            asked = {"arm": name, "reference": other, "demos": demos, "question": question}
            comparisons.append(Comparison(**vars(measured), **asked, seeds=both, without=lacking, lift=lift))
    return Statistics(arms, references, success, _corrected(comparisons), design, lift, draws)


def best_baseline(baselines: Sequence[str], full: Full, demos: int) -> str | None:
    """The one that succeeds most over the seeds that all of them have in full; None where there is no baseline.

    One with less than half of the seeds of another is not waited for: it would leave few seeds to choose by.
    """
    count = {name: len(full[name, demos]) for name in baselines}
    most = max(count.values(), default=0)
    if not most:
        return baselines[0] if baselines else None
    fit = [name for name in baselines if 2 * count[name] >= most]
    shared = set.intersection(*(set(full[name, demos]) for name in fit))

    def rank(name: str) -> tuple[float, ...]:
        grids = full[name, demos]
        if shared:
            return (float(np.mean([grids[k].mean() for k in sorted(shared)])),)
        return count[name], float(np.mean([grid.mean() for grid in grids.values()]))

    return max(fit, key=rank)  # the first of equals


def _questions(arms: Sequence[ArmRole], reference: str) -> list[tuple[str, str, Question]]:
    """(arm, what it is compared with, why); a control that is the best baseline is not asked twice."""
    names = [arm.name for arm in arms if arm.name != reference]
    found: list[tuple[str, str, Question]] = []
    for arm in arms:
        if arm.name != reference:
            found.append((arm.name, reference, QUESTIONS[arm.role]))
        found += [(arm.name, control, "control") for control in arm.controls if control in names]
    return found


def _runs(result: Mapping[str, Any]) -> dict[tuple[str, int, int], Mapping[str, Any]]:
    runs: dict[tuple[str, int, int], Mapping[str, Any]] = {}
    for run in result["runs"]:
        key = (run["arm"], run["demos"], run["seed"])
        if key in runs:
            raise ValueError(f"two runs of arm '{key[0]}', {key[1]} demonstrations, seed {key[2]}: keep one of them")
        runs[key] = run
    return runs


def _grid(run: Mapping[str, Any] | None, tasks: Sequence[str], starts: int) -> Grid | str:
    """Successes of a full run, or why it is left out."""
    if run is None or run["status"] == "missing":
        return "not run"
    if run["status"] != "done":
        return f"failed: {run.get('error') or 'no reason given'}"
    grid = np.full((len(tasks), starts), np.nan)
    for rollout in run["rollouts"]:
        task, start = rollout["task"], rollout["start"]
        if task not in tasks or not 0 <= start < starts:
            return f"played a start that is not planned: {task} {start}"
        place = (tasks.index(task), start)
        if not np.isnan(grid[place]):
            return f"played a start twice: {task} {start}"
        grid[place] = float(rollout["success"])
    lacking = int(np.isnan(grid).sum())
    return f"{lacking} of {grid.size} rollouts are missing" if lacking else grid


def _corrected(comparisons: list[Comparison]) -> list[Comparison]:
    """With Holm's step-down p-values over all that could be compared for the same question."""
    corrected = list(comparisons)
    for question in {comparison.question for comparison in comparisons}:
        family = [
            (comparison.p, place)
            for place, comparison in enumerate(comparisons)
            if comparison.question == question and comparison.p is not None
        ]
        reached = 0.0
        for rank, (p, place) in enumerate(sorted(family)):
            reached = max(reached, min(1.0, p * (len(family) - rank)))
            corrected[place] = dataclasses.replace(comparisons[place], p_holm=reached, compared=len(family))
    return corrected
