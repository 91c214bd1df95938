"""What one demonstration does when it is replayed without looking: the floor of every task of an ablation. A task that is solved
by it cannot show what a policy sees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.simulation.settings import Look
from corpora.simulation.tasks import INSTRUCTIONS
from corpora.store.files import write_json
from jobs.ablation.settings import Budget
from jobs.evaluation.closed_loop import Act, ClosedLoopSettings, Observations, play

RESULT = "copy.json"


def copied(dataset: Path) -> dict[str, NDArray[np.float32]]:
    """Task -> actions [N, 4] of its first demonstration in a dataset of giza simulate."""
    from corpora.episodes.opening import open_episodes
    from corpora.episodes.selection import EpisodeSelection

    tasks = {text: task for task, text in INSTRUCTIONS.items()}
    found = {}
    for episode in open_episodes(dataset, EpisodeSelection(demos=1)).episodes:
        assert episode.action is not None
        found[tasks[episode.instruction]] = episode.action
    return found


def copy_act(demonstrations: Mapping[str, NDArray[np.float32]], execute: int) -> Act:
    """What `play` calls: step after step of the task's demonstration; its last action is held."""

    def act(seen: Observations) -> NDArray[np.float32]:
        chunks = []
        for task, chunk in zip(seen.task, seen.chunk, strict=True):
            actions = demonstrations[task]
            rows = np.arange(chunk * execute, (chunk + 1) * execute).clip(max=len(actions) - 1)
            chunks.append(actions[rows])
        return np.stack(chunks)

    return act


def copies(out: Path, dataset: Path, tasks: tuple[str, ...], budget: Budget, size: int, seed: int) -> dict[str, Any]:
    """Task -> {"success": n, "of": m} from the starts of `seed`, for those with a demonstration; kept in `out`."""
    done = out / RESULT
    if done.is_file():
        finished: dict[str, Any] = json.loads(done.read_text("utf-8"))
        return finished
    demonstrations = copied(dataset)
    tasks = tuple(task for task in tasks if task in demonstrations)
    how = ClosedLoopSettings(
        tasks,
        budget.starts,
        execute=budget.execute,
        max_steps=budget.max_steps,
        look=Look(size=size),
        videos=0,
        workers=1,
        slots=12,
        seed=seed,
    )
    rollouts = play(copy_act(demonstrations, budget.execute), how)
    found = {
        task: {"success": sum(r.success for r in rollouts if r.task == task), "of": budget.starts} for task in tasks
    }
    write_json(done, found)
    return found
