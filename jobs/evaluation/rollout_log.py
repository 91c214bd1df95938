"""What came of rollouts: one record each, kept as JSON lines, and counted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corpora.simulation.tasks import INSTRUCTIONS
from jobs.evaluation.statistics import Share, wilson

FAUCET_TASKS = ("faucet-open", "faucet-close")
_WAYS = {INSTRUCTIONS[task]: task.removeprefix("faucet-") for task in FAUCET_TASKS}
ROLLOUT_FORMAT = 3
"""Raised when the same policy would do otherwise from the same start: in 1 an environment that closed spoilt the images
of those that still played, so that its successes are void; in 2 noise depended on what else played."""
ROLLOUTS = "rollouts.jsonl"
VIDEO_HZ = 20
"""Frames a second of the videos of rollouts."""


@dataclass(frozen=True)
class Rollout:
    """One finished rollout."""

    task: str
    start: int
    """Number of the initial state."""
    start_seed: int
    """Seed that the environment was reset with."""
    instruction: str
    """The instruction that the policy was given."""
    success: bool
    """Whether the benchmark's criterion of the task was met, whatever the instruction was."""
    turned: Literal["open", "close"] | None
    """Which way the faucet was turned first, past Meta-World's criterion of that way; None where there is none."""
    steps: int
    """Control steps played."""
    seconds: float
    """The same in seconds of the robot's time."""
    frames: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    """[F, S, S, 3] at VIDEO_HZ, of a recorded rollout: the first and the last moment included."""

    @property
    def key(self) -> tuple[str, int, str]:
        return (self.task, self.start, self.instruction)

    @property
    def as_instructed(self) -> bool:
        """Whether what the instruction says was done: the faucet turned that way first, else the task's success."""
        return self.turned == _WAYS[self.instruction] if self.instruction in _WAYS else self.success

    def to_json(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        del values["frames"]
        return values


def benchmark_told(settings: Mapping[str, Any]) -> str:
    """Of the settings of a closed loop: "Meta-World", "LIBERO-Object"."""
    suite = str(settings.get("suite", ""))
    return f"LIBERO-{suite.capitalize()}" if settings.get("benchmark") == "libero" else "Meta-World"


class RolloutLog:
    """Finished rollouts as JSON lines, so that an interrupted evaluation goes on where it was.

    The first line holds `settings`, all that a rollout's result depends on, and ROLLOUT_FORMAT. Raises ValueError for a log
    that was begun with other settings, or with rollouts of another format (a log that names none included).
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.rollouts: list[Rollout] = []
        header = json.loads(json.dumps({"settings": {**settings, "rollout_format": ROLLOUT_FORMAT}}))
        self.settings: dict[str, Any] = header["settings"]
        lines = path.read_text("utf-8").split("\n") if path.exists() else []
        if len(lines) < 2:  # not even the header was finished
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(header) + "\n", "utf-8")
            return
        before = json.loads(lines[0])["settings"]
        changed = [name for name in {**before, **self.settings} if before.get(name) != self.settings.get(name)]
        if changed:
            name = changed[0]
            raise ValueError(
                f"{path} was begun with another {name} ({before.get(name)} there, {self.settings.get(name)} here); "
                "choose another --out or remove it"
            )
        self.rollouts = logged(path)
        if lines[-1]:  # a line that was being written when the job was killed
            path.write_text("\n".join(lines[:-1]) + "\n", "utf-8")

    def add(self, rollout: Rollout) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rollout.to_json()) + "\n")
        self.rollouts.append(rollout)

    def done(self) -> set[tuple[str, int, str]]:
        """Keys (task, start, instruction) of what needs no second rollout."""
        return {rollout.key for rollout in self.rollouts}


def logged(path: Path) -> list[Rollout]:
    """Of a log, whatever its settings; a line that is not finished does not count. Empty where there is no log."""
    lines = path.read_text("utf-8").split("\n") if path.exists() else []
    return [Rollout(**json.loads(line)) for line in lines[1:-1]]


def success_shares(rollouts: Sequence[Rollout]) -> dict[str, Share]:
    """Task -> share of successes, and "all"; of rollouts whose instruction is their own task's (in LIBERO there are no others)."""
    own = [each for each in rollouts if each.instruction == INSTRUCTIONS.get(each.task, each.instruction)]
    shares = {}
    for task in (*dict.fromkeys(rollout.task for rollout in own), "all"):
        mine = [rollout.success for rollout in own if task in (rollout.task, "all")]
        shares[task] = wilson(sum(mine), len(mine))
    return shares


def language_instructions() -> dict[str, tuple[str, ...]]:
    """For `play`: both faucet scenes, each with both instructions and with none."""
    both = tuple(INSTRUCTIONS[task] for task in FAUCET_TASKS)
    return dict.fromkeys(FAUCET_TASKS, (*both, ""))


def language_shares(rollouts: Sequence[Rollout]) -> dict[str, Share]:
    """How the faucet answers to words.

    `compliance`: turned first the way that the instruction said, each start with both instructions; `open` and `close`
    are its halves. `blank`: without an instruction, turned the way of the scene's own task (the scene is the same, so
    half is chance for a policy that turns at all). `blank_turned`: without an instruction, turned either way.
    """
    faucets = [rollout for rollout in rollouts if rollout.task in FAUCET_TASKS]
    instructed = [rollout for rollout in faucets if rollout.instruction in _WAYS]
    blank = [rollout for rollout in faucets if not rollout.instruction]
    trials = {
        "compliance": [rollout.as_instructed for rollout in instructed],
        **{
            name: [rollout.as_instructed for rollout in instructed if _WAYS[rollout.instruction] == name]
            for name in ("open", "close")
        },
        "blank": [rollout.turned == rollout.task.removeprefix("faucet-") for rollout in blank],
        "blank_turned": [rollout.turned is not None for rollout in blank],
    }
    return {name: wilson(sum(hits), len(hits)) for name, hits in trials.items()}


def mean_seconds(rollouts: Sequence[Rollout]) -> dict[str, float | None]:
    """Task -> robot's seconds to success, of the rollouts that had it."""
    seconds: dict[str, list[float]] = {}
    for rollout in rollouts:
        seconds.setdefault(rollout.task, [])
        if rollout.success:
            seconds[rollout.task].append(rollout.seconds)
    return {task: sum(values) / len(values) if values else None for task, values in seconds.items()}
