"""A script that solves tasks of LIBERO-Object: above the thing, down, grasp, lift, over the basket, release. Runs in the LIBERO
environment. What succeeds is told frame by frame; frame t shows the world before action t."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.simulation.libero.channel import Say
from corpora.simulation.libero.facts import CONTROL_HZ, WAIT_STEPS, object_task
from corpora.simulation.metaworld import smooth_noise

REST = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
"""Nothing moves, the gripper is open."""
SCRIPT_STEPS = 280
"""Control steps after which a try has failed."""
AFTER_SUCCESS = 10
"""Control steps that an episode goes on for after its success."""
NOISE_SMOOTHING_S = 0.1

_STEP_M = 0.05
"""An action of 1 moves the tool's target so far."""
_GAIN = 2.0
"""The controller's target is ahead of the tool: it is soft, and stops short of a target at the place itself."""
_ABOVE_M, _CARRY_M = 0.12, 0.30
_FINGERS_M = 0.035
"""A thing's top must be no higher above the tool, or the palm comes down on it."""
_CLOSE_STEPS = 12


@dataclass
class PickAndPlace:
    """What the script wants at each step, of where tool, thing and basket are; it goes on to its next stage where it has come far
    enough."""

    stage: int = field(default=0, init=False)
    waited: int = field(default=0, init=False)
    grip_m: float = field(default=0.0, init=False)
    """How far above the thing's middle it is gripped."""

    def action(
        self, tool: NDArray[np.float64], thing: NDArray[np.float64], basket: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """[7]; places [3] in metres."""
        target, gripper = self._stage(tool, thing, basket)
        move = np.clip(_GAIN * (target - tool) / _STEP_M, -1, 1)
        return np.array([*move, 0, 0, 0, gripper])

    def _stage(
        self, tool: NDArray[np.float64], thing: NDArray[np.float64], basket: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], float]:
        """Where to, and what the gripper does."""
        if self.stage == 0:  # it stands: its middle is half as high as its top
            self.grip_m = max(0.0, float(thing[2]) - _FINGERS_M)
        above, grip = (thing + np.array([0, 0, height]) for height in (self.grip_m + _ABOVE_M, self.grip_m))
        high = np.array([basket[0], basket[1], _CARRY_M])
        stages = [
            (above, -1.0, 0.01, 0),
            (grip, -1.0, 0.01, 0),
            (grip, 1.0, np.inf, _CLOSE_STEPS),
            (np.array([tool[0], tool[1], _CARRY_M]), 1.0, 0.03, 0),
            (high, 1.0, 0.02, 0),
            (high, -1.0, 0.0, 0),
        ]
        target, gripper, near, wait = stages[self.stage]
        self.waited += 1
        if self.stage < len(stages) - 1 and np.linalg.norm(target - tool) <= near and self.waited > wait:
            self.stage, self.waited = self.stage + 1, 0
        return target, gripper


def generator(seed: int, task: str, number: int, stream: str) -> np.random.Generator:
    """Of one episode's starts or noise; depends on these four alone."""
    words = [seed, zlib.crc32(task.encode()), number, zlib.crc32(stream.encode())]
    return np.random.default_rng(np.random.SeedSequence(words))


def work(order: Mapping[str, Any], say: Say) -> None:
    """Of each of the order's `episodes`, (object, number, level of noise): tries drawn starts until the script succeeds, and tells
    the episode, or that `tries` of them failed."""
    world = importlib.import_module(order["world"]).World("libero_object", size=order["size"], shadows=order["shadows"])
    try:
        entered = ""
        for name, number, level in order["episodes"]:
            if name != entered:
                world.enter(object_task(name))
                entered = name
            starts = generator(order["seed"], name, number, "start").integers(2**31, size=order["tries"])
            for failed, start in enumerate(map(int, starts)):
                facts = {"task": name, "number": number, "noise": level, "seed": start, "failed": failed}
                rows = _tried(world, order, facts, generator(order["seed"], name, number, f"noise {failed}"))
                if rows is not None:
                    say({**facts, "steps": len(rows["action"]), "instruction": world.instruction}, **rows)
                    break
            else:
                say({"task": name, "number": number, "failed": order["tries"]})
    finally:
        world.close()


def _tried(
    world: Any, order: Mapping[str, Any], facts: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, NDArray[Any]] | None:
    """image uint8 [T, S, S, 3], state [T, 8], action and expert [T, 7], success bool [T]; None where it failed."""
    world.scatter(facts["seed"])
    for _ in range(WAIT_STEPS):
        world.step(REST)
    noise = smooth_noise(rng, SCRIPT_STEPS, facts["noise"], smoothing_s=NOISE_SMOOTHING_S, hz=CONTROL_HZ, dims=3)
    script, last = PickAndPlace(), SCRIPT_STEPS
    rows: list[dict[str, Any]] = []
    succeeded = False
    while len(rows) < last:
        wanted = script.action(world.place("tool"), world.place(f"{facts['task']}_1"), world.place("basket_1"))
        action = wanted.copy()
        action[:3] = np.clip(action[:3] + noise[len(rows)], -1, 1)
        row = {"image": world.picture(order["camera"]), "state": world.state(), "action": action, "expert": wanted}
        world.step(action)
        rows.append({**row, "success": world.success})
        if world.success and not succeeded:
            succeeded, last = True, min(last, len(rows) + AFTER_SUCCESS)
    if not (succeeded and world.success):
        return None
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
