"""Closed loop in Meta-World: a policy acts from unseen initial states, and what came of it is counted.

Many environments play side by side (jobs/evaluation/rollouts.py); one call of the policy answers all that need a chunk.
Initial states come from the stream "evaluation" of their seed, which no simulated episode draws from, and are the same for
every policy. A rollout succeeds at the first control step that meets Meta-World's criterion of its task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corpora.simulation.gl import require_offscreen_gl
from corpora.simulation.settings import CONTROL_HZ, MAX_STEPS, Look
from corpora.simulation.tasks import DEFAULT_TASKS, INSTRUCTIONS, task_name, task_names
from corpora.store.files import plain
from corpora.video.nearest import rows_back
from corpora.video.view import View
from jobs.evaluation.rollout_log import (
    FAUCET_TASKS,
    ROLLOUTS,
    VIDEO_HZ,
    Rollout,
    RolloutLog,
    language_instructions,
    language_shares,
    mean_seconds,
    success_shares,
)
from jobs.evaluation.rollouts import (
    Observation,
    RolloutPool,
    RolloutRequest,
    RolloutSettings,
    control_steps,
)
from jobs.evaluation.videos import FILMS, contact_sheet, write_video


@dataclass(frozen=True)
class Observations:
    """What a policy is shown of B environments that need their next chunk."""

    images: NDArray[np.uint8]
    """[B, 1, T, 3, S, S]: one camera, T frames, oldest first."""
    image_mask: NDArray[np.bool_]
    """[B, 1, T]: False for a frame from before the initial state (its image is black)."""
    instruction: list[str]
    state: NDArray[np.float32]
    """[B, 11], see corpora.simulation.metaworld.STATE_NAMES."""
    task: list[str]
    """For looking on; a policy that reads this is told the task."""
    start: list[int]
    """Numbers of the initial states."""
    chunk: list[int]
    """How many chunks of its rollout each environment had before. A policy that draws noise draws it by task, start, instruction
    and this: nothing else that plays may change what a rollout does."""
    view: View | None = None
    """How the images are painted; None: they are as the camera saw them."""


Act = Callable[[Observations], NDArray[np.floating[Any]]]
"""Observations -> actions [B, H, 4] in Meta-World's units, H >= execute."""


@dataclass(frozen=True)
class ClosedLoopSettings:
    """What is played."""

    tasks: tuple[str, ...] = ()
    """Empty: the six that giza simulate makes."""
    starts: int = 20
    """Unseen initial states of each task."""
    execute: int = 8
    """Steps of a chunk that are executed before the next is asked for."""
    max_steps: int = 250
    """Control steps after which a rollout has failed."""
    language_check: bool = False
    """Tell each initial state of the faucet tasks both instructions, and none."""
    look: Look = field(default_factory=Look)
    """How images are rendered: as the training data were."""
    view: View | None = None
    """How they are painted, as the training data were; None: not at all."""
    videos: int = 1
    """Initial states of each task and instruction that are recorded."""
    workers: int = 2
    """Processes of environments."""
    slots: int = 6
    """Environments of each process that play side by side."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("starts", "execute", "workers", "slots"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if not 1 <= self.max_steps <= MAX_STEPS:
            raise ValueError(f"max_steps {self.max_steps}: must be within 1 to {MAX_STEPS}, Meta-World's own limit")


def closed_loop(
    act: Act,
    settings: ClosedLoopSettings,
    identity: Mapping[str, Any],
    out: Path,
    *,
    step_s: float,
    history_s: Sequence[float],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Plays what `out`'s log of rollouts still lacks; videos, a contact sheet, and the closed loop of evaluation.json.

    `identity`: of the policy, kept with the log. Raises ValueError where the log was begun with other settings.
    """
    tasks = task_names(settings.tasks or DEFAULT_TASKS)
    if settings.language_check and not set(tasks) & set(FAUCET_TASKS):
        raise ValueError(f"--language-check: it needs one of {', '.join(FAUCET_TASKS)} among --tasks")
    played = RolloutLog(
        out / ROLLOUTS,
        {
            **identity,
            "seed": settings.seed,
            "execute": settings.execute,
            "max_steps": settings.max_steps,
            "size": settings.look.size,
            "camera": settings.look.camera,
            **({"history_rows": list(rows_back(history_s, step_s))} if len(history_s) > 1 else {}),
        },
    )
    instructions = language_instructions() if settings.language_check else {}
    wanted = [
        (task, start, text)
        for task in tasks
        for text in instructions.get(task, (INSTRUCTIONS[task],))
        for start in range(settings.starts)
    ]
    began, steps = time.perf_counter(), 0

    def on_complete(rollout: Rollout) -> None:
        nonlocal steps
        steps += rollout.steps
        if rollout.frames is not None:  # before the log says that there is nothing left to do
            write_video(out / FILMS, rollout)
        played.add(rollout)
        progress(len(set(wanted) & played.done()), len(wanted))

    progress(len(set(wanted) & played.done()), len(wanted))
    play(
        act,
        settings,
        instructions=instructions,
        step_s=step_s,
        history_s=history_s,
        skip=played.done(),
        on_complete=on_complete,
    )
    order = {key: place for place, key in enumerate(wanted)}
    rollouts = sorted((each for each in played.rollouts if each.key in order), key=lambda each: order[each.key])
    contact_sheet(out / FILMS, rollouts, out / "contact_sheet.png")
    result: dict[str, Any] = {
        "settings": {**played.settings, "step_s": step_s, "starts": settings.starts},
        "success": {name: share.to_json() for name, share in success_shares(rollouts).items()},
        "mean_seconds": mean_seconds(rollouts),
        "control_steps_per_s": round(steps / (time.perf_counter() - began), 1) if steps else None,
    }
    if settings.language_check:
        result["language"] = {name: share.to_json() for name, share in language_shares(rollouts).items()}
    return plain(result)


def play(
    act: Act | Literal["expert"],
    settings: ClosedLoopSettings,
    *,
    instructions: Mapping[str, Sequence[str]] = MappingProxyType({}),
    step_s: float = 1 / CONTROL_HZ,
    history_s: Sequence[float] = (0.0,),
    skip: Collection[tuple[str, int, str]] = (),
    on_complete: Callable[[Rollout], None] = lambda rollout: None,
) -> list[Rollout]:
    """Rollouts of `act` from unseen initial states of each task; in the order of tasks, instructions and initial states.

    `act`: the policy, or "expert" for Meta-World's script. Each step of a chunk is held for `step_s` seconds.
    `instructions`: task -> instructions that the policy is given, one rollout of every initial state for each; other tasks
    have their own. `history_s`: ages of the frames in the policy's images, oldest first. `skip`: rollouts (task, start,
    instruction) that are not needed. `on_complete` is called with each rollout as it ends. Call it from a program's main
    module (processes are spawned).

    Raises ValueError for wrong arguments, a missing simulator and chunks of a wrong shape.
    """
    require_offscreen_gl()
    names = task_names(settings.tasks or DEFAULT_TASKS)
    given = {task_name(name): list(texts) for name, texts in instructions.items()}
    common = _common(settings, step_s, history_s, act == "expert")
    requests = [
        RolloutRequest(task, start, instruction, video=start < settings.videos)
        for start in range(settings.starts)
        for task in names
        for instruction in dict.fromkeys(given.get(task, [INSTRUCTIONS[task]]))
        if (task, start, instruction) not in skip
    ]
    rollouts: list[Rollout] = []
    if not requests:
        return rollouts
    with RolloutPool(requests, common, workers=settings.workers, slots=settings.slots) as pool:
        for observations, results in pool:
            for ended in results:
                rollouts.append(ended)
                on_complete(ended)
            chunks = np.zeros((0, settings.execute, 4), np.float32)
            if observations:
                assert act != "expert"
                seen = _observations(observations, settings.view)
                chunks = checked_chunks(act(seen), len(observations), settings.execute)
            pool.answer(chunks)
    order = {request[:3]: place for place, request in enumerate(sorted(requests, key=lambda r: names.index(r.task)))}
    return sorted(rollouts, key=lambda rollout: order[rollout.key])


def _common(settings: ClosedLoopSettings, step_s: float, history_s: Sequence[float], expert: bool) -> RolloutSettings:
    ages = list(history_s)
    if not ages or ages[-1] != 0 or ages != sorted(set(ages), reverse=True):
        raise ValueError(f"history_s {tuple(history_s)}: ages in seconds, oldest first, the last 0")
    repeat = control_steps(step_s)
    return RolloutSettings(
        settings.look,
        settings.execute,
        repeat,
        settings.max_steps,
        settings.seed,
        # a policy was trained on rows a step apart: the frame of an age between two rows was one of them
        tuple(repeat * back for back in rows_back(ages, step_s)),
        CONTROL_HZ // VIDEO_HZ,
        expert,
        settings.view,
    )


def _observations(observations: Sequence[Observation], view: View | None = None) -> Observations:
    images = np.stack([observation.images for observation in observations])
    return Observations(
        images=np.ascontiguousarray(images.transpose(0, 1, 4, 2, 3))[:, None],
        image_mask=np.stack([observation.seen for observation in observations])[:, None],
        instruction=[observation.instruction for observation in observations],
        state=np.stack([observation.state for observation in observations]),
        task=[observation.task for observation in observations],
        start=[observation.start for observation in observations],
        chunk=[observation.chunk for observation in observations],
        view=view,
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
