"""Closed loop in Meta-World: a policy acts from unseen starts, and what came of it is counted.

Many environments play side by side (jobs/rollout_workers.py); one call of the policy answers all that need a chunk.
Starts come from the stream "evaluation" of their seed, which no simulated episode draws from, and are the same for every
policy. A rollout succeeds at the first control step that meets Meta-World's criterion of its task.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corpora.simulation.gl import require_offscreen_gl
from corpora.simulation.metaworld import CONTROL_HZ, MAX_STEPS, Look
from corpora.simulation.tasks import INSTRUCTIONS, task_name, task_names
from jobs.evaluation.rollouts import (
    Answer,
    Question,
    RolloutPool,
    RolloutRequest,
    RolloutSettings,
    control_steps,
    start_seed,
)
from jobs.evaluation.statistics import Share, wilson

FAUCET_TASKS = ("faucet-open", "faucet-close")
_WAYS = {INSTRUCTIONS[task]: task.removeprefix("faucet-") for task in FAUCET_TASKS}
ROLLOUT_FORMAT = 2
"""Raised when the same policy would do otherwise from the same start: in 1 an environment that closed spoilt the pictures
of those that still played, so that its successes are void."""
FILM_HZ = 20
"""Frames a second of the films of rollouts."""


@dataclass(frozen=True)
class Observations:
    """What a policy is shown of B environments that need their next chunk."""

    pictures: NDArray[np.uint8]
    """[B, 1, T, 3, S, S]: one camera, T frames, oldest first."""
    picture_mask: NDArray[np.bool_]
    """[B, 1, T]: False for a frame from before the start (its picture is black)."""
    instruction: list[str]
    state: NDArray[np.float32]
    """[B, 11], see corpora.simulation.metaworld.STATE_NAMES."""
    task: list[str]
    """For looking on; a policy that reads this is told the task."""
    round: int
    """How many calls went before; a policy that draws noise seeds it by this."""


Act = Callable[[Observations], NDArray[np.floating[Any]]]
"""Observations -> actions [B, H, 4] in Meta-World's units, H >= execute."""


@dataclass(frozen=True)
class Rollout:
    """One finished rollout."""

    task: str
    start: int
    """Number of the start."""
    start_seed: int
    """Seed that the environment was reset with."""
    instruction: str
    """What the policy was told."""
    success: bool
    """Whether Meta-World's criterion of the task was met, whatever the policy was told."""
    turned: Literal["open", "close"] | None
    """Which way the faucet was turned first, past Meta-World's criterion of that way; None where there is none."""
    steps: int
    """Control steps played."""
    seconds: float
    """The same in seconds of the robot's time."""
    frames: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    """[F, S, S, 3] at FILM_HZ, of a filmed rollout: the first and the last moment included."""

    @property
    def key(self) -> tuple[str, int, str]:
        return (self.task, self.start, self.instruction)

    @property
    def as_told(self) -> bool:
        """Whether what the instruction says was done: the faucet turned that way first, else the task's success."""
        return self.turned == _WAYS[self.instruction] if self.instruction in _WAYS else self.success

    def to_json(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        del values["frames"]
        return values


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
        self.rollouts = [Rollout(**json.loads(line)) for line in lines[1:-1]]
        if lines[-1]:  # a line that was being written when the job was killed
            path.write_text("\n".join(lines[:-1]) + "\n", "utf-8")

    def add(self, rollout: Rollout) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rollout.to_json()) + "\n")
        self.rollouts.append(rollout)

    def done(self) -> set[tuple[str, int, str]]:
        """Keys (task, start, instruction) of what needs no second rollout."""
        return {rollout.key for rollout in self.rollouts}


def evaluate_metaworld(
    act: Act | Literal["expert"],
    tasks: Sequence[str],
    starts: int,
    *,
    look: Look | None = None,
    execute: int = 8,
    max_steps: int = 250,
    seed: int = 0,
    workers: int = 2,
    slots: int = 6,
    instructions: Mapping[str, Sequence[str]] | None = None,
    step_s: float = 1 / CONTROL_HZ,
    history_s: Sequence[float] = (0.0,),
    skip: Collection[tuple[str, int, str]] = (),
    film: int = 0,
    done: Callable[[Rollout], None] | None = None,
) -> list[Rollout]:
    """Rollouts of `act` from `starts` unseen starts of each task; in the order of tasks, instructions and starts.

    `act`: the policy, or "expert" for Meta-World's script. `execute` steps of each chunk are executed, each held for
    `step_s` seconds. `instructions`: task -> what the policy is told, one rollout of every start for each; tasks that it
    does not name are told their own instruction. `history_s`: ages of the frames in the policy's pictures, oldest first.
    `workers` processes play `slots` environments each. `skip`: rollouts (task, start, instruction) that are not needed.
    The first `film` starts of each task and instruction bring their pictures. `done` is called with each rollout as it
    ends. Call it from a program's main module (processes are spawned).

    Raises ValueError for wrong arguments, a missing simulator and chunks of a wrong shape.
    """
    require_offscreen_gl()
    names = task_names(tasks)
    told = {task_name(name): list(texts) for name, texts in (instructions or {}).items()}
    settings = _settings(look or Look(), execute, step_s, max_steps, seed, history_s, act == "expert")
    if starts < 1 or workers < 1 or slots < 1:
        raise ValueError(f"starts {starts}, workers {workers}, slots {slots}: each must be at least 1")
    requests = [
        RolloutRequest(task, start, instruction, film=start < film)
        for start in range(starts)
        for task in names
        for instruction in dict.fromkeys(told.get(task, [INSTRUCTIONS[task]]))
        if (task, start, instruction) not in skip
    ]
    rollouts: list[Rollout] = []
    if not requests:
        return rollouts
    with RolloutPool(requests, settings, workers=workers, slots=slots) as pool:
        for number, (questions, answers) in enumerate(pool):
            for answer in answers:
                rollouts.append(_rollout(answer, seed))
                if done is not None:
                    done(rollouts[-1])
            chunks = np.zeros((0, execute, 4), np.float32)
            if questions:
                assert act != "expert"
                chunks = checked_chunks(act(_observations(questions, number)), len(questions), execute)
            pool.answer(chunks)
    order = {request[:3]: place for place, request in enumerate(sorted(requests, key=lambda r: names.index(r.task)))}
    return sorted(rollouts, key=lambda rollout: order[rollout.key])


def _settings(
    look: Look,
    execute: int,
    step_s: float,
    max_steps: int,
    seed: int,
    history_s: Sequence[float],
    expert: bool,
) -> RolloutSettings:
    if execute < 1:
        raise ValueError(f"execute {execute}: must be at least 1 step of the chunk")
    if not 1 <= max_steps <= MAX_STEPS:
        raise ValueError(f"max_steps {max_steps}: must be within 1 to {MAX_STEPS}, Meta-World's own limit")
    ages = tuple(round(age * CONTROL_HZ) for age in history_s)
    if not ages or ages[-1] != 0 or list(ages) != sorted(set(ages), reverse=True):
        raise ValueError(
            f"history_s {tuple(history_s)}: ages in seconds, oldest first, at least 1/{CONTROL_HZ} s apart, the last 0"
        )
    film_every = CONTROL_HZ // FILM_HZ
    return RolloutSettings(look, execute, control_steps(step_s), max_steps, seed, ages, film_every, expert)


def _observations(questions: Sequence[Question], number: int) -> Observations:
    pictures = np.stack([question.pictures for question in questions])
    return Observations(
        pictures=np.ascontiguousarray(pictures.transpose(0, 1, 4, 2, 3))[:, None],
        picture_mask=np.stack([question.seen for question in questions])[:, None],
        instruction=[question.instruction for question in questions],
        state=np.stack([question.state for question in questions]),
        task=[question.task for question in questions],
        round=number,
    )


def checked_chunks(chunks: Any, count: int, execute: int) -> NDArray[np.float32]:
    """A policy's answer as float32 [count, H, 4]. Raises ValueError for another shape, H below `execute`, and NaN."""
    actions = np.asarray(chunks, np.float32)
    if actions.ndim != 3 or actions.shape[0] != count or actions.shape[2] != 4:
        raise ValueError(
            f"the policy answered {actions.shape}: must be [{count}, H, 4], see corpora.simulation.metaworld"
        )
    if actions.shape[1] < execute:
        raise ValueError(f"execute {execute}: the policy's chunks have {actions.shape[1]} steps; choose at most that")
    if not np.isfinite(actions).all():
        raise ValueError("the policy answered NaN or infinity; its training diverged")
    return actions


def _rollout(answer: Answer, seed: int) -> Rollout:
    request = answer.request
    return Rollout(
        task=request.task,
        start=request.start,
        start_seed=start_seed(seed, request.task, request.start),
        instruction=request.instruction,
        success=answer.success,
        turned=answer.turned,  # type: ignore[arg-type]
        steps=answer.steps,
        seconds=answer.steps / CONTROL_HZ,
        frames=answer.frames,
    )


def success_shares(rollouts: Sequence[Rollout]) -> dict[str, Share]:
    """Task -> share of successes, and "all"; of rollouts that were told their own task."""
    own = [rollout for rollout in rollouts if rollout.instruction == INSTRUCTIONS[rollout.task]]
    shares = {}
    for task in (*dict.fromkeys(rollout.task for rollout in own), "all"):
        mine = [rollout.success for rollout in own if task in (rollout.task, "all")]
        shares[task] = wilson(sum(mine), len(mine))
    return shares


def language_instructions() -> dict[str, tuple[str, ...]]:
    """For `evaluate_metaworld`: both faucet scenes, each told both instructions and nothing."""
    both = tuple(INSTRUCTIONS[task] for task in FAUCET_TASKS)
    return dict.fromkeys(FAUCET_TASKS, (*both, ""))


def language_shares(rollouts: Sequence[Rollout]) -> dict[str, Share]:
    """How the faucet answers to words.

    `compliance`: turned first the way that the instruction said, each start with both instructions; `open` and `close`
    are its halves. `blank`: without an instruction, turned the way of the scene's own task (the scene is the same, so
    half is chance for a policy that turns at all). `blank_turned`: without an instruction, turned either way.
    """
    faucets = [rollout for rollout in rollouts if rollout.task in FAUCET_TASKS]
    told = [rollout for rollout in faucets if rollout.instruction in _WAYS]
    blank = [rollout for rollout in faucets if not rollout.instruction]
    trials = {
        "compliance": [rollout.as_told for rollout in told],
        **{
            name: [rollout.as_told for rollout in told if _WAYS[rollout.instruction] == name]
            for name in ("open", "close")
        },
        "blank": [rollout.turned == rollout.task.removeprefix("faucet-") for rollout in blank],
        "blank_turned": [rollout.turned is not None for rollout in blank],
    }
    return {name: wilson(sum(hits), len(hits)) for name, hits in trials.items()}


@dataclass
class StepCounter:
    """Control steps of finished rollouts and their rate; a `done` callback."""

    steps: int = 0
    started: float = field(default_factory=time.perf_counter)

    def __call__(self, rollout: Rollout) -> None:
        self.steps += rollout.steps

    @property
    def per_s(self) -> float:
        return self.steps / (time.perf_counter() - self.started)
