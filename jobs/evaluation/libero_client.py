"""Rollouts in LIBERO against a policy server. Runs in the LIBERO environment, on NumPy, ZeroMQ and msgpack beside it."""

from __future__ import annotations

import importlib
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.simulation.libero.channel import Say
from vla.serving.client import PolicyClient, PolicyServerError

TOKEN_VARIABLE = "GIZA_API_TOKEN"
REST = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
FILMED = "agentview"


def work(order: Mapping[str, Any], say: Say) -> None:
    """Plays each of the order's `rollouts`, (task, start, whether it is filmed), and tells what came of it.

    Raises ValueError where the server refuses, and OSError where it does not answer.
    """
    server = order["server"]
    client = PolicyClient(
        server["host"], server["port"], api_token=os.environ.get(TOKEN_VARIABLE), timeout_s=server["timeout_s"]
    )
    world = importlib.import_module(order["world"]).World(
        order["benchmark"], size=order["size"], shadows=order["shadows"]
    )
    entered = ""
    try:
        for task, start, filmed in order["rollouts"]:
            if task != entered:
                world.enter(task)
                entered = task
            world.begin(start)
            played = Playing(world, client, order, _seed(order["seed"], task, start), filmed=filmed)
            success, steps = played.play()
            told = {"task": task, "start": start, "instruction": world.instruction, "success": success, "steps": steps}
            say(told, **({"frames": np.stack(played.frames)} if filmed else {}))
    except PolicyServerError as error:
        raise ValueError(f"the policy server refuses: {error}") from error
    except TimeoutError as error:
        raise OSError(f"the policy server is gone ({error}): start it again with giza serve") from error
    finally:
        world.close()
        client.close()


def _seed(seed: int, task: str, start: int) -> int:
    """Of a rollout's noise: it depends on nothing else that plays."""
    return int(np.random.SeedSequence([seed, zlib.crc32(task.encode()), start]).generate_state(1)[0])


class Playing:
    """One rollout, from a start that is set."""

    def __init__(
        self, world: Any, client: PolicyClient, order: Mapping[str, Any], seed: int, *, filmed: bool = False
    ) -> None:
        self.world, self.client, self.order, self.filmed = world, client, order, filmed
        self.plan: Mapping[str, Any] = order["plan"]
        self.frames: list[NDArray[np.uint8]] = []
        self.step = 0
        self._seen: dict[int, dict[str, NDArray[np.uint8]]] = {}
        client.reset({"seed": seed})

    def play(self) -> tuple[bool, int]:
        """Whether it succeeded, and in how many control steps after those at rest."""
        for _ in range(self.order["wait_steps"]):
            self.world.step(REST)
        self._look()
        while not self._over():
            for action in self._asked()[: self.order["execute"]]:
                self.world.step(action)
                self.step += 1
                self._look()
                if self._over():
                    break
        return self.world.success, self.step

    def _over(self) -> bool:
        return self.world.success or self.step >= self.order["max_steps"]

    def _look(self) -> None:
        """Draws what will be shown alone: the frames of an observation and of the film."""
        ages, period = self.plan["history"], self.order["execute"]
        asked = not self._over() and any((self.step + age) % period == 0 for age in ages)
        wanted = set(self.plan["cameras"].values()) if asked else set()
        pictures = {camera: self.world.picture(camera) for camera in wanted | ({FILMED} if self.filmed else set())}
        if self.filmed:
            self.frames.append(pictures[FILMED])
        if asked:
            self._seen[self.step] = pictures
            self._seen = {at: kept for at, kept in self._seen.items() if at >= self.step - max(ages)}

    def _asked(self) -> NDArray[np.float32]:
        """[H, 7]: the next chunk, in LIBERO's numbers."""
        plan, state = self.plan, self.world.state()
        times = [
            max(0, self.step - age) for age in plan["history"]
        ]  # of before the start its first frame, which is masked
        observation = {
            "video": {
                name: np.stack([self._seen[at][camera] for at in times])[None]
                for name, camera in plan["cameras"].items()
            },
            "state": {name: state[None, None, first:end] for name, (first, end) in plan["state"].items()},
            "language": {plan["instruction"]: [[self.world.instruction]]},
        }
        parts, _ = self.client.get_action(observation, {"since_start_s": [self.step * plan["step_s"]]})
        chunk = np.zeros((plan["horizon"], 7), np.float32)
        for name, (first, end) in plan["action"].items():
            chunk[:, first:end] = parts[name][0]
        if plan["opens_at_one"]:
            chunk[:, 6] = 1 - 2 * chunk[:, 6]
        return chunk
