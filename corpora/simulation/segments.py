"""MimicGen's geometry (Mandlekar et al. 2023, arXiv 2310.17596): a demonstration is cut where another object begins to matter, and
each stretch is brought to where its object stands in another scene; straight lines join them.

    plan = planned(demonstration, env.places(objects_of(env.task)), hand, Joining())
    plan.hand, plan.action            # [T, 3] metres, [T, 4] as the environment takes them, one a control step
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.simulation.settings import Joining

Array = NDArray[np.float64]

GOAL = "goal"
"""Meta-World's own target, in the place of a body."""
STEP_M = 0.01
"""An action of 1 moves the hand's target so far in a control step."""

_CARRIED = ("obj", GOAL)
OBJECTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("push", "push-back", "push-wall", "pick-place", "pick-place-wall"), _CARRIED),
    **dict.fromkeys(("coffee-pull", "coffee-push", "sweep", "sweep-into", "bin-picking"), _CARRIED),
    **dict.fromkeys(("door-close", "door-lock", "door-open", "door-unlock"), ("door",)),
    **dict.fromkeys(("drawer-close", "drawer-open"), ("drawer",)),
    **dict.fromkeys(("faucet-close", "faucet-open"), ("faucetBase",)),
    **dict.fromkeys(("window-close", "window-open"), ("window",)),
    **dict.fromkeys(("handle-press", "handle-press-side", "handle-pull", "handle-pull-side"), ("box",)),
    **dict.fromkeys(("button-press", "button-press-wall"), ("box",)),
    **dict.fromkeys(("button-press-topdown", "button-press-topdown-wall"), ("box",)),
    **dict.fromkeys(("reach", "reach-wall"), (GOAL,)),
    "assembly": ("RoundNut", "peg"),
    "basketball": ("bsktball", "basket_goal"),
    "box-close": ("boxbodytop", "boxbody"),
    "coffee-button": ("coffee_machine",),
    "dial-turn": ("dial",),
    "disassemble": ("RoundNut",),
    "hammer": ("hammerbody", "box"),
    "lever-pull": ("lever",),
    "peg-insert-side": ("peg", "box"),
    "peg-unplug-side": ("plug1",),
    "shelf-place": ("obj", "shelf"),
    "soccer": ("soccer_ball", "goal_whole"),
}
"""Task -> the bodies of its model that it is about: what is touched first, and where that is to go."""


def objects_of(task: str) -> tuple[str, ...]:
    """Raises ValueError for a task whose objects are not known."""
    if task not in OBJECTS:
        raise ValueError(
            f"task '{task}': which object it is about is not known here; leave it out with --tasks. Known: "
            f"{', '.join(sorted(OBJECTS))}"
        )
    return OBJECTS[task]


@dataclass(frozen=True)
class Place:
    """Where something stands, or a motion from one place to another."""

    position: Array
    """[3], metres."""
    rotation: Array = field(default_factory=lambda: np.eye(3))
    """[3, 3]."""

    def to(self, other: Place) -> Place:
        """The motion that brings what stands here to `other`."""
        rotation = other.rotation @ self.rotation.T
        return Place(other.position - rotation @ self.position, rotation)

    def moved(self, points: Array) -> Array:
        """`points` [N, 3] after this motion."""
        return points @ self.rotation.T + self.position

    def turned(self, vectors: Array) -> Array:
        """`vectors` [N, 3] after this motion: directions, which have no place."""
        return vectors @ self.rotation.T

    def rows(self) -> list[list[float]]:
        """[3, 4], [rotation | position], as JSON has it."""
        matrix: list[list[float]] = np.column_stack([self.rotation, self.position]).tolist()
        return matrix


@dataclass(frozen=True)
class Segment:
    """Rows [start, stop) of a demonstration, which are about one object."""

    object: str
    start: int
    stop: int


@dataclass(frozen=True)
class Demonstration:
    """An episode of a dataset, and where its objects stood when it began."""

    number: int
    """As the dataset counts it."""
    hand: Array
    """[N, 3], metres, before each action."""
    action: Array
    """[N, 4], mean of the control steps of a row."""
    steps: int
    """Control steps of a row."""
    places: tuple[Place, ...]
    """Of `objects_of` its task."""
    segments: tuple[Segment, ...]
    """One an object."""

    def at_control_rate(self) -> tuple[Array, Array]:
        """Hand [N * steps, 3], on straight lines between the rows, and action [N * steps, 4]."""
        rows = np.arange(len(self.hand) * self.steps) / self.steps
        hand = np.stack([np.interp(rows, np.arange(len(self.hand)), axis) for axis in self.hand.T], axis=1)
        return hand, np.repeat(self.action, self.steps, axis=0)


@dataclass(frozen=True)
class Plan:
    """What the hand is to do in a scene; T control steps."""

    hand: Array
    """[T, 3], where it should be before each action."""
    action: Array
    """[T, 4], what takes it along where nothing leads it astray."""
    noisy: NDArray[np.bool_]
    """[T]: not on the lines between segments."""
    pieces: tuple[dict[str, Any], ...]
    """Where each segment came from: object, demonstration, rows, motion [3, 4], and the control step at which it begins."""


def planned(demonstration: Demonstration, places: Sequence[Place], hand: Array, joining: Joining, hz: int) -> Plan:
    """The demonstration in a scene whose objects stand at `places` and whose hand begins at `hand` [3]; `hz` control steps a
    second."""
    whole, actions = demonstration.at_control_rate()
    at = np.asarray(hand, np.float64)
    hands: list[Array] = []
    taken: list[Array] = []
    noisy: list[NDArray[np.bool_]] = []
    pieces = []
    for segment, there, here in zip(demonstration.segments, demonstration.places, places, strict=True):
        if segment.start == segment.stop:
            continue
        motion = there.to(here)
        rows = slice(segment.start * demonstration.steps, segment.stop * demonstration.steps)
        path, action = motion.moved(whole[rows]), actions[rows].copy()
        action[:, :3] = motion.turned(action[:, :3])
        line = _line(at, path[0], action[0, 3], joining.speed_m_s / hz)
        hands += [line[0], path]
        taken += [line[1], action]
        noisy += [np.zeros(len(line[0]), bool), np.ones(len(path), bool)]
        pieces.append(
            {
                "object": segment.object,
                "demonstration": demonstration.number,
                "rows": [segment.start, segment.stop],
                "motion": motion.rows(),
                "from_step": sum(map(len, hands)) - len(path),
            }
        )
        at = whole[min(rows.stop, len(whole) - 1)]
        at = motion.moved(at[None])[0]
    return Plan(np.concatenate(hands), np.concatenate(taken), np.concatenate(noisy), tuple(pieces))


def _line(start: Array, stop: Array, gripper: float, most_m: float) -> tuple[Array, Array]:
    """Hand [n, 3] and action [n, 4] from `start` to `stop`, at most `most_m` a step; nothing where they are the same."""
    length = float(np.linalg.norm(stop - start))
    count = math.ceil(length / min(most_m, STEP_M)) if length > 1e-6 else 0
    share = np.arange(count)[:, None] / max(count, 1)
    step = (stop - start) / max(count, 1) / STEP_M
    return start + share * (stop - start), np.tile([*step, gripper], (count, 1))


def cut(objects: Sequence[str], rows: int, begins: int) -> tuple[Segment, ...]:
    """The segments of a demonstration: the first object's until it `begins` to move, all others' the rest."""
    if len(objects) == 1:
        return (Segment(objects[0], 0, rows),)
    first, second = objects
    return (Segment(first, 0, begins), Segment(second, begins, rows))
