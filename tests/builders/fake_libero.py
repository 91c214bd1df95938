"""A stand-in for corpora/simulation/libero/world.py: a thing, a basket and a tool that does as it is told, seen from above."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.simulation.libero.channel import Say
from corpora.simulation.libero.facts import OBJECTS, object_task

MOVE_M = 0.025
"""The tool goes so far at an action of 1, half of what the controller is told: it is soft, as LIBERO's is."""
BASKET = np.array([0.0, 0.26, 0.03])
DEADLY = "GIZA_TEST_DIES_AT"
"""Variable: the process ends itself at this start's number."""


def tasks(benchmark: str) -> list[dict[str, Any]]:
    assert benchmark == "libero_object"
    return [{"task": object_task(name), "instruction": object_task(name).replace("_", " ")} for name in OBJECTS]


def work(order: Mapping[str, Any], say: Say) -> None:
    say({"tasks": tasks(order["benchmark"])})


class World:
    """A closed gripper carries what is within 3 cm of it; success is the thing let go over the
    basket. Butter never is to be had."""

    def __init__(self, benchmark: str, *, size: int, shadows: bool = False) -> None:
        self.size, self.instruction, self.success, self.steps = size, "", False, 0

    def enter(self, task: str) -> None:
        self.name = task.removeprefix("pick_up_the_").removesuffix("_and_place_it_in_the_basket")
        self.instruction = task.replace("_", " ")

    def begin(self, start: int) -> None:
        if str(start) == os.environ.get(DEADLY):
            os.kill(os.getpid(), 9)
        self.scatter(10_000 + start)

    def scatter(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.tool = np.array([0.0, 0.0, 0.25]) + rng.normal(0, 0.01, 3)
        self.thing = np.array([*rng.uniform(-0.2, -0.1, 2), 0.03])
        self.success, self.steps, self.closed = False, 0, False

    def step(self, action: Sequence[float]) -> None:
        action = np.clip(np.asarray(action, np.float64), -1, 1)
        near = np.linalg.norm(self.tool - self.thing) < 0.03 and self.name != "butter"
        self.tool = self.tool + MOVE_M * action[:3]
        if self.closed and near:
            self.thing = self.thing + MOVE_M * action[:3]
        self.closed = action[6] > 0
        self.steps += 1
        self.success = bool(not self.closed and np.linalg.norm(self.thing[:2] - BASKET[:2]) < 0.05)

    def state(self) -> NDArray[np.float32]:
        return np.array([*self.tool, 0, 0, 0, 0.04 * (not self.closed), -0.04 * (not self.closed)], np.float32)

    def place(self, name: str) -> NDArray[np.float64]:
        return {"tool": self.tool, "basket_1": BASKET}.get(name, self.thing).copy()

    def picture(self, camera: str) -> NDArray[np.uint8]:
        image = np.full((self.size, self.size, 3), {"agentview": 40, "robot0_eye_in_hand": 90}[camera], np.uint8)
        for place, colour in ((BASKET, (200, 180, 60)), (self.thing, (220, 30, 30)), (self.tool, (30, 30, 220))):
            row, column = (int(np.clip((each + 0.4) / 0.8 * self.size, 2, self.size - 3)) for each in place[:2])
            image[row - 2 : row + 3, column - 2 : column + 3] = colour
        return image

    def close(self) -> None:
        pass
