"""Demonstrations of a simulated dataset, set in relation to the objects of their scenes, and an actor that does one of them in another
scene (see corpora/simulation/segments.py).

`giza simulate` keeps no object's place; the seed of an episode sets its scene again, and its actions tell when something moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.episode import Episode
from corpora.episodes.opening import open_episodes
from corpora.episodes.selection import EpisodeSelection, named_episodes
from corpora.simulation.episode import Expert, record_episode
from corpora.simulation.metaworld import MetaWorldEnv, episode_generator
from corpora.simulation.segments import STEP_M, Demonstration, Place, Plan, cut, objects_of, planned
from corpora.simulation.settings import CONTROL_HZ, Choice, EpisodeSettings, Joining, Look
from corpora.simulation.tasks import task_names
from corpora.store.decode import decode
from corpora.store.files import read_json
from corpora.store.told import closest
from corpora.video.encoding import VideoEncoding

BEGINS_M = 0.01
"""An object that is so far from where it stood has begun to move."""
NEAREST = 3
"""Of the demonstrations, by their objects' places, one is drawn."""


@dataclass(frozen=True)
class Taken:
    """One demonstration as the dataset has it."""

    task: str
    episode: int
    """Of its task, which with the dataset's seed sets its scene."""
    rows: Episode


@dataclass(frozen=True)
class SimulatedDataset:
    """What `giza simulate` wrote into a folder, and how."""

    root: Path
    look: Look
    episode: EpisodeSettings
    encoding: VideoEncoding
    demonstrations: tuple[Taken, ...]

    def of(self, task: str) -> list[Taken]:
        return [each for each in self.demonstrations if each.task == task]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.task for each in self.demonstrations))


def read_simulated(root: Path, tasks: Sequence[str] = (), episodes: str = "", take: int = 0) -> SimulatedDataset:
    """The episodes of `tasks` (default: all of the dataset) that succeeded, or those that are named ("0:20"), the first `take` of
    each task.

    Raises ValueError for a folder that `giza simulate` did not write, or without actions, and for a task that it has no such
    demonstration of, a task whose objects are not known, and a named episode that failed.
    """
    record = read_json(root / "simulate.json")
    if record is None or "settings" not in record:
        raise ValueError(
            f"--demos '{root}': holds no simulate.json: name a dataset that giza simulate wrote and finished"
        )
    settings, facts = record["settings"], record.get("per_episode")
    if settings.get("benchmark") == "libero":
        raise ValueError(f"--demos '{root}': holds demonstrations of LIBERO; those of Meta-World alone are multiplied")
    if facts is None:
        raise ValueError(f"--demos '{root}': was simulated with --action-free: simulate it with its actions")
    what = f"--demos '{root}': simulate.json"
    look = decode(Look, {name: settings[name] for name in ("size", "camera", "appearance", "show_goal")}, what=what)
    episode = decode(EpisodeSettings, settings["episode"], what=what)
    encoding = decode(VideoEncoding, settings["encoding"], what=what)
    names = task_names(tuple(tasks) or settings["tasks"])
    if lost := [name for name in names if name not in settings["tasks"]]:
        raise ValueError(f"--tasks '{lost[0]}': not of '{root}'. {closest(lost[0], settings['tasks'])}")
    for name in names:
        objects_of(name)
    selection = EpisodeSelection(failures=True, state=("observation.state",), action=("action",))
    opened = {each.index: each for each in open_episodes(root, selection).episodes}
    named = named_episodes(episodes)
    taken: list[Taken] = []
    for index, fact in enumerate(facts):
        mine = sum(each.task == fact["task"] for each in taken)
        if fact["task"] not in names or (named is not None and index not in named) or (take and mine == take):
            continue
        if named is not None and not fact["success"]:
            raise ValueError(f"--episodes '{episodes}': episode {index} of '{root}' failed: name those that succeeded")
        if fact["success"] and index in opened:
            taken.append(Taken(fact["task"], fact["episode"], opened[index]))
    if lost := [name for name in names if not any(each.task == name for each in taken)]:
        raise ValueError(
            f"--demos '{root}': no episode of {lost[0]} that succeeded is among those asked for: choose other --tasks or "
            "--episodes, or simulate more"
        )
    return SimulatedDataset(root, look, episode, encoding, tuple(taken))


class _Watched(Expert):
    """What the expert does, and where the objects are: before each control step."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self.states: list[NDArray[np.float32]] = []
        self.places: list[tuple[Place, ...]] = []

    def wanted(self, env: MetaWorldEnv) -> NDArray[np.float64]:
        self.states.append(env.state())
        self.places.append(env.places(self._names))
        return super().wanted(env)


class _Still(_Watched):
    """Nobody acts: things settle when a scene begins."""

    def wanted(self, env: MetaWorldEnv) -> NDArray[np.float64]:
        super().wanted(env)
        return np.zeros(4)

    def noisy(self, step: int) -> bool:
        return False


def demonstration(env: MetaWorldEnv, dataset: SimulatedDataset, taken: Taken) -> Demonstration:
    """The demonstration in its own scene: the expert does it again, to see where the objects are, and when the first of two
    begins to move, which it does not by itself.

    Raises ValueError where that is not what the dataset holds.
    """
    rows, settings = taken.rows, dataset.episode
    assert rows.state is not None and rows.action is not None
    names = objects_of(taken.task)
    watched = _Watched(names)
    record_episode(env, settings, taken.episode, None, actor=watched)
    states = np.stack(watched.states)[:: settings.frame_every]
    if states.shape != rows.state.shape or not np.allclose(states, rows.state, atol=1e-4):
        raise ValueError(
            f"--demos '{dataset.root}': episode {rows.index} is not what its seed gives here: was it simulated with another "
            "version of Meta-World, or changed since? Simulate it again"
        )
    begins = len(rows.action)
    if len(names) > 1:
        still = _Still(names)
        record_episode(env, settings, taken.episode, None, actor=still)
        paths = zip(watched.places, still.places, strict=False)
        apart = [float(np.linalg.norm(a[0].position - b[0].position)) for a, b in paths]
        moved = np.flatnonzero(np.array(apart) > BEGINS_M)
        begins = min(begins, -(-int(moved[0]) // settings.frame_every)) if len(moved) else begins
    return Demonstration(
        number=rows.index,
        hand=rows.state[:, :3].astype(np.float64),
        action=rows.action.astype(np.float64),
        steps=settings.frame_every,
        places=watched.places[0],
        segments=cut(names, len(rows.action), begins),
    )


@dataclass
class Follower:
    """Does, in each scene, one of some demonstrations of its task, its segments moved to the objects of the scene."""

    demonstrations: Sequence[Demonstration]
    joining: Joining
    seed: int
    choice: Choice = "nearest"
    name: str = "multiplied "
    plan: Plan | None = field(default=None, init=False)
    """Of the scene that it is in."""

    def begin(self, env: MetaWorldEnv, number: int) -> int:
        places = env.places(objects_of(env.task))
        order = np.arange(len(self.demonstrations))
        if self.choice == "nearest":
            far = [
                sum(float(np.linalg.norm(a.position - b.position)) for a, b in zip(each.places, places, strict=True))
                for each in self.demonstrations
            ]
            order = np.argsort(far, kind="stable")[:NEAREST]
        rng = episode_generator(self.seed, env.task, number, f"{self.name}choice")
        chosen = self.demonstrations[int(rng.choice(order))]
        self.plan = planned(chosen, places, env.state()[:3].astype(np.float64), self.joining, CONTROL_HZ)
        return len(self.plan.action)

    def wanted(self, env: MetaWorldEnv) -> NDArray[np.float64]:
        assert self.plan is not None, "begin sets the scene"
        action = self.plan.action[env.steps].copy()
        astray = self.plan.hand[env.steps] - env.state()[:3]
        action[:3] += self.joining.gain * astray / STEP_M
        return np.clip(action, -1, 1)

    def noisy(self, step: int) -> bool:
        assert self.plan is not None, "begin sets the scene"
        return bool(self.plan.noisy[step])

    def pieces(self) -> list[dict[str, Any]]:
        """Where what it did came from, as JSON has it."""
        assert self.plan is not None, "begin sets the scene"
        return list(self.plan.pieces)
