"""A policy that takes a given time to think and to act, and a clock in which nothing takes time but that."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from corpora.episodes.parts import ActionPart
from vla.actions.space import ActionSpace
from vla.noise import drawn
from vla.serving.dual_rate import DualRateReport, DualRateRunner, Moment

NEVER = threading.Event()
STEP_S, HORIZON = 0.05, 16


class VirtualClock:
    """Time that moves only when all three threads of a runner sleep; then the one whose moment comes first wakes, alone.

    Of two with the same moment, the one whose thread's name comes first. So a run is the same each time, and takes none.
    """

    def __init__(self) -> None:
        self.time, self.turn = 0.0, ""
        self.stop = NEVER
        self.sleeping: dict[str, float] = {}
        self.changed = threading.Condition()

    def now(self) -> float:
        return self.time

    def sleep_until(self, time_s: float, stop: threading.Event) -> None:
        me = threading.current_thread().name
        with self.changed:
            self.stop = self.stop if stop is NEVER else stop  # who thinks is woken as well when the run is over
            self.sleeping[me] = max(time_s, self.time)
            if self.turn == me:
                self.turn = ""
            self._wake_next()
            while self.turn != me and not self.stop.is_set():
                self.changed.wait(0.01)  # `stop` has no way to tell this condition
            self.sleeping.pop(me, None)

    def _wake_next(self) -> None:
        if not self.turn and len(self.sleeping) == 3:
            self.time, self.turn = min((moment, name) for name, moment in self.sleeping.items())
            self.changed.notify_all()


class TimedPolicy:
    """Thinks and acts for a given time, or for ever from the thought or chunk number `hangs` on. Its tokens hold when they were
    begun; step k of its chunk is 100 (state + k * step), and the moment of its tokens."""

    device, training = torch.device("cpu"), False

    def __init__(self, clock: Any, *, think_s: float, act_s: float) -> None:
        self.clock, self.think_s, self.act_s = clock, think_s, act_s
        self.thoughts: list[float] = []
        self.chunks: list[float] = []
        self.noise: list[float] = []
        self.heard: list[str] = []
        self.hangs: dict[str, int] = {}
        parts = (ActionPart("both", (0, 1), displacement=False),)
        self.space = ActionSpace.fit(None, np.zeros((2, 1, 2)), parts=parts)

    def embodiment(self, name: str) -> Any:
        return SimpleNamespace(step_s=STEP_S, action_space=self.space)

    def tell_cut(self, instruction: Any) -> None:
        """It cuts nothing."""
        self.heard.extend(instruction)

    def encode(self, images: Any, image_mask: Any, instruction: Any) -> Any:
        assert images.shape == (1, 2, 1, 3, 4, 4) and image_mask.shape == (1, 2, 1) and instruction == ["go"]
        begun = self.clock.now()
        self.thoughts.append(begun)
        hangs = len(self.thoughts) > self.hangs.get("think", 10**9)
        self.clock.sleep_until(begun + (1e9 if hangs else self.think_s), NEVER)
        return SimpleNamespace(features=torch.tensor([[[begun]]], dtype=torch.float64))

    def act_on(self, tokens: Any, state: Any, embodiment: str, *, noise: Any) -> Any:
        assert state.shape == (1, 1)
        begun = self.clock.now()
        self.chunks.append(begun)
        self.noise.append(float(drawn(noise, (1, 1))))
        hangs = len(self.chunks) > self.hangs.get("chunk", 10**9)
        self.clock.sleep_until(begun + (1e9 if hangs else self.act_s), NEVER)
        time_meant = 100 * (state[:, :1] + STEP_S * np.arange(HORIZON)[None])
        return np.stack([time_meant, np.full_like(time_meant, float(tokens.features))], -1)


def observing(clock: Any) -> Any:
    """The state is the time, so that a chunk's own numbers say when each step is meant for."""

    def observe() -> Moment:
        images, mask = torch.zeros(2, 1, 3, 4, 4, dtype=torch.uint8), torch.ones(2, 1, dtype=torch.bool)
        return Moment(images, mask, "go", np.array([clock.now()]))

    return observe


Sent = list[tuple[float, Any]]
"""Times, and the actions that were sent."""


def simulated(
    *, think_s: float, act_s: float, displacements: Sequence[int] = (), **settings: Any
) -> tuple[DualRateRunner, TimedPolicy]:
    """A runner in virtual time."""
    clock = VirtualClock()
    policy = TimedPolicy(clock, think_s=think_s, act_s=act_s)
    policy.space = dataclasses.replace(policy.space, displacements=tuple(displacements))
    return DualRateRunner(policy, observing(clock), embodiment="gr1", clock=clock, **settings), policy  # type: ignore[arg-type]


def simulate(*, run: dict[str, Any], **settings: Any) -> tuple[DualRateReport, Sent, TimedPolicy]:
    """What a run in virtual time sends, and its report."""
    runner, policy = simulated(**settings)
    sent: Sent = []
    report = runner.run(lambda action, now: sent.append((now, action)), **run)
    return report, sent, policy
