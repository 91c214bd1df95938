"""Closed loop in LIBERO by its public protocol: processes of the LIBERO environment ask a policy server, and what came of each
rollout is kept and counted as in Meta-World."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpora.simulation.libero.facts import (
    ACTION_NAMES,
    CAMERAS,
    CONTROL_HZ,
    EXECUTE,
    STARTS,
    STATE_NAMES,
    WAIT_STEPS,
    LiberoLook,
    suite_named,
)
from corpora.simulation.libero.process import told_by
from corpora.store.files import plain
from corpora.store.told import closest
from corpora.video.nearest import rows_back
from jobs.evaluation.libero_client import TOKEN_VARIABLE
from jobs.evaluation.rollout_log import ROLLOUTS, Rollout, RolloutLog, mean_seconds, success_shares
from jobs.evaluation.videos import FILMS, contact_sheet, write_video
from vla.policy import Policy
from vla.serving.client import PolicyClient, PolicyServerError
from vla.serving.groot import server_of
from vla.serving.modality_layout import ModalityLayout, layout_of
from vla.serving.server import ServerConfig


@dataclass(frozen=True)
class LiberoSettings:
    """What is played; what is not said is the public protocol."""

    suite: str = "object"
    """spatial, object, goal or long."""
    tasks: tuple[str, ...] = ()
    """Some tasks of the suite, by LIBERO's names or by words that only one of them has; empty: all."""
    starts: int = STARTS
    """Stored initial states of each task."""
    execute: int = EXECUTE
    """Steps of a chunk that are executed before the next is asked for."""
    max_steps: int = 0
    """Control steps after which a rollout has failed; 0: the suite's."""
    wait_steps: int = WAIT_STEPS
    """Control steps at rest before the policy acts."""
    look: LiberoLook = field(default_factory=LiberoLook)
    """How pictures are drawn."""
    videos: int = 1
    """Starts of each task that are filmed."""
    workers: int = 2
    """Processes of the simulator."""
    server: str = ""
    """HOST:PORT of a giza serve; empty: one is started here."""
    timeout_s: float = 60.0
    """After so many seconds without an answer the server is gone."""
    seed: int = 0
    """Of the policy's noise."""

    def __post_init__(self) -> None:
        suite_named(self.suite)
        for name in ("starts", "execute", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.starts > STARTS:
            raise ValueError(f"starts {self.starts}: LIBERO stores {STARTS} of each task")
        if self.server and not self.server.rpartition(":")[2].isdigit():
            raise ValueError(f"server '{self.server}': must be HOST:PORT, e.g. 127.0.0.1:5555")


def libero_loop(
    policy: Policy,
    embodiment: str,
    settings: LiberoSettings,
    identity: Mapping[str, Any],
    out: Path,
    *,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Plays what `out`'s log of rollouts still lacks; videos, a contact sheet, and the closed loop of evaluation.json.

    `identity`: of the policy, kept with the log. Raises ValueError for a policy of another robot, a task that there is not, a
    log of other settings and a missing environment; OSError where the server or a process of LIBERO's is gone: what was played
    until then is kept.
    """
    suite, known = suite_named(settings.suite), policy.embodiment(embodiment)
    if settings.execute > policy.config.horizon:
        raise ValueError(f"execute {settings.execute}: the policy's chunks have {policy.config.horizon} steps")
    plan = plan_of(policy, embodiment)
    limit = settings.max_steps or suite.max_steps
    (told,) = told_by([{"module": "corpora.simulation.libero.world", "benchmark": suite.benchmark}])
    instructions = {each["task"]: each["instruction"] for each in told["tasks"]}
    tasks = _chosen(settings.tasks, list(instructions), settings.suite)
    log = RolloutLog(
        out / ROLLOUTS,
        {
            **identity,
            "benchmark": "libero",
            "suite": settings.suite,
            "seed": settings.seed,
            "execute": settings.execute,
            "max_steps": limit,
            "wait_steps": settings.wait_steps,
            "gripper_opens_at": 1 if plan["opens_at_one"] else -1,
            "camera": "agentview",
            **dataclasses.asdict(settings.look),
        },
    )
    wanted = [(task, start, instructions[task]) for task in tasks for start in range(settings.starts)]
    missing = [key for key in wanted if key not in log.done()]
    began, steps = time.perf_counter(), 0
    progress(len(wanted) - len(missing), len(wanted))
    if missing:
        with _served(policy, embodiment, settings, plan) as address:
            order = {
                "module": "jobs.evaluation.libero_client",
                "benchmark": suite.benchmark,
                "plan": plan,
                "server": address,
                "seed": settings.seed,
                "execute": settings.execute,
                "max_steps": limit,
                "wait_steps": settings.wait_steps,
                **dataclasses.asdict(settings.look),
            }
            for rollout in map(_rollout, told_by(list(_orders(order, missing, settings)))):
                steps += rollout.steps
                if rollout.frames is not None:
                    write_video(out / FILMS, rollout)
                log.add(rollout)
                progress(len(set(wanted) & log.done()), len(wanted))
    order_of = {key: place for place, key in enumerate(wanted)}
    rollouts = sorted((each for each in log.rollouts if each.key in order_of), key=lambda each: order_of[each.key])
    contact_sheet(out / FILMS, rollouts, out / "contact_sheet.png")
    result = {
        "settings": {**log.settings, "step_s": known.step_s, "starts": settings.starts},
        "success": {name: share.to_json() for name, share in success_shares(rollouts).items()},
        "mean_seconds": mean_seconds(rollouts),
        "control_steps_per_s": round(steps / (time.perf_counter() - began), 1) if steps else None,
    }
    return plain(result)


def plan_of(policy: Policy, embodiment: str) -> dict[str, Any]:
    """How an observation of LIBERO's becomes the policy's, and its chunk becomes LIBERO's: names as they are served -> LIBERO's
    camera, or dimensions of its state and action. Raises ValueError for a policy of another robot."""
    known = policy.embodiment(embodiment)
    space, layout = known.action_space, layout_of(known)
    wrong = f"embodiment '{embodiment}' is not LIBERO's robot: "
    remedy = "; choose one that was trained on giza simulate --benchmark libero, or on a published copy of LIBERO"
    if space.action_dim != len(ACTION_NAMES) or space.state_dim not in (0, len(STATE_NAMES)):
        numbers = f"{space.state_dim} numbers of state and {space.action_dim} of action, LIBERO's has 8 and 7"
        raise ValueError(f"{wrong}it has {numbers}{remedy}")
    if {dim for part in layout.action for dim in range(part.start, part.end)} != set(range(len(ACTION_NAMES))):
        raise ValueError(f"{wrong}not all of its action is served{remedy}")
    if known.views:
        raise ValueError(f"{wrong}it was trained on painted pictures{remedy}")
    return {
        "cameras": _cameras(layout, wrong, remedy),
        "state": {part.name: (part.start, part.end) for part in layout.state},
        "action": {part.name: (part.start, part.end) for part in layout.action},
        "instruction": layout.instruction_key,
        "history": list(rows_back(policy.config.history_s, known.step_s)),
        "step_s": known.step_s,
        "horizon": policy.config.horizon,
        "opens_at_one": _opens_at_one(policy, embodiment),
    }


def _cameras(layout: ModalityLayout, wrong: str, remedy: str) -> dict[str, str]:
    names = {name: camera for camera, known in CAMERAS.items() for name in known}
    if len(layout.cameras) == 1 and layout.cameras[0] not in names:
        return {layout.cameras[0]: "agentview"}  # a policy's only camera is meant, whatever it is called
    unknown = [name for name in layout.cameras if name not in names]
    if unknown:
        raise ValueError(f"{wrong}cameras {unknown} are none of {', '.join(names)}{remedy}")
    return {name: names[name] for name in layout.cameras}


def _opens_at_one(policy: Policy, embodiment: str) -> bool:
    """Copies made by way of OpenVLA's RLDS have grippers that close at 0 and open at 1; LIBERO's closes at 1 and opens at -1.
    One that never went below 0, but not to 0 either, only ever closed."""
    space = policy.embodiment(embodiment).action_space
    gripper = len(ACTION_NAMES) - 1
    for part in space.parts:
        fitted = space.actions[part.name]
        if gripper in part.dims and fitted.dim == len(part.dims):
            place = list(part.dims).index(gripper)
            low = float(fitted.statistics.min[..., place].min())
            return abs(low) < 0.05 < float(fitted.statistics.max[..., place].max())
    return False


@contextmanager
def _served(
    policy: Policy, embodiment: str, settings: LiberoSettings, plan: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Where a server of the policy listens: the one that is named, once it has answered, or one of our own."""
    if not settings.server:
        with server_of(policy, embodiment, ServerConfig(port=0), seed=settings.seed) as own:
            yield {"host": "127.0.0.1", "port": own.port, "timeout_s": settings.timeout_s}
        return
    host, _, port = settings.server.rpartition(":")
    host = host or "127.0.0.1"
    token = os.environ.get(TOKEN_VARIABLE)
    with PolicyClient(host, int(port), api_token=token, timeout_s=settings.timeout_s) as client:
        try:
            config = client.get_modality_config()
        except TimeoutError as error:
            raise ValueError(
                f"server '{settings.server}': nobody answers there; start it with giza serve --policy ... --embodiment "
                f"{embodiment} --port {port}, or leave --server out"
            ) from error
        except PolicyServerError as error:
            raise ValueError(f"server '{settings.server}' refuses: {error}") from error
    for kind, names in (("video", plan["cameras"]), ("state", plan["state"]), ("action", plan["action"])):
        if set(found := config[kind].modality_keys) != set(names):
            raise ValueError(
                f"server '{settings.server}' serves another policy: its {kind} has {list(found)}, that of --policy "
                f"{list(names)}; serve the same"
            )
    yield {"host": host, "port": int(port), "timeout_s": settings.timeout_s}


def _orders(
    order: Mapping[str, Any], missing: Sequence[tuple[str, int, str]], settings: LiberoSettings
) -> Iterator[dict[str, Any]]:
    """Of each worker: one stretch of what is missing, so that it makes few environments."""
    each = -(-len(missing) // settings.workers)
    for first in range(0, len(missing), each):
        rollouts = [(task, start, start < settings.videos) for task, start, _ in missing[first : first + each]]
        yield {**order, "rollouts": rollouts}


def _rollout(told: Mapping[str, Any]) -> Rollout:
    return Rollout(
        task=told["task"],
        start=told["start"],
        start_seed=told["start"],
        instruction=told["instruction"],
        success=told["success"],
        turned=None,
        steps=told["steps"],
        seconds=told["steps"] / CONTROL_HZ,
        frames=told.get("frames"),
    )


def _chosen(wanted: Sequence[str], tasks: Sequence[str], suite: str) -> list[str]:
    """Tasks in the suite's order. Raises ValueError for words that none, or several, have."""
    chosen = []
    for words in wanted:
        found = [task for task in tasks if words in (task, task.replace("_", " "))] or [
            task for task in tasks if words.replace(" ", "_") in task
        ]
        if len(found) != 1:
            many = f"{len(found)} tasks of suite '{suite}' have it" if found else f"none of suite '{suite}' has it"
            raise ValueError(f"task '{words}': {many}. {closest(words, tasks)}")
        chosen += found
    return [task for task in tasks if task in chosen] if wanted else list(tasks)
