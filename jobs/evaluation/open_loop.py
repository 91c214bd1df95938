"""Open loop: how far a policy's chunks are from what the demonstrator did next, beside the obvious baselines.

Arrays only. N samples (moments of held-out episodes), H steps of a chunk, Da dimensions of the raw action. An error is a
squared difference, averaged over the steps within the episode; "normalised" divides it by the dimension's variance in the
training episodes, so that radians and gripper openings can be averaged. Intervals come from resampling episodes.

Which action holds a robot still its action space says, else its data: see vla/actions/rest.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from jobs.evaluation.statistics import Interval, bootstrap_ratio, resamples
from vla.actions.rest import Still, still_rules
from vla.actions.space import ActionSpace
from vla.trained_on import Standing

OPEN_LOOP_FORMAT = 4
"""Raised when the same policy would answer otherwise at the same moment, or is judged otherwise: in 1 noise depended on the
moments before, and displacements were taken for targets; in 2 all episodes were called held out; in 3 what the
robot says of its displacements was not asked."""

BASELINES = {
    "hold_still": "hold still",
    "repeat_last": "repeat last action",
    "mean_chunk": "mean chunk",
    "mean_motion": "mean motion",
}
"""Key -> title. Mean motion moves from where the robot is as the training episodes do on average."""

STILL_TITLES: dict[Still, str] = {"state": "the state", "zero": "zero", "last": "the last action"}


@dataclass(frozen=True)
class Chunks:
    """Moments of episodes, and what was done from there."""

    state: NDArray[np.float32] | None
    """[N, Ds]; None for a robot that tells none."""
    last: NDArray[np.float32]
    """[N, Da]: the action of the step before; NaN at an episode's beginning."""
    action: NDArray[np.float32]
    """[N, H, Da]."""
    mask: NDArray[np.bool_]
    """[N, H]: False past the episode's end."""
    episode: NDArray[np.int64]
    """[N]: which episode."""
    t_s: NDArray[np.float64]
    """[N]: seconds from the episode's beginning."""
    moved: NDArray[np.float32] | None = None
    """[N, Ds]: how the state moves until the dataset's next row; NaN at an episode's end. None: not known."""

    def __post_init__(self) -> None:
        count, horizon, dim = self.action.shape
        assert self.mask.shape == (count, horizon) and self.last.shape == (count, dim)
        assert self.episode.shape == self.t_s.shape == (count,)


class Baselines:
    """What needs no policy, fitted on the training episodes."""

    def __init__(self, train: Chunks, held_by: Sequence[int | None], space: ActionSpace | None = None) -> None:
        """`held_by` [Da]: the dimension of the state that may hold the same quantity, or None; the training episodes tell
        whether it does. `space`: says what a displacement is, which they then do not have to.

        Raises ValueError where no training step is known.
        """
        if not train.mask.any():
            raise ValueError("the baselines need training episodes with actions; choose other --episodes to hold out")
        self.held_by = tuple(held_by)
        first = train.mask[:, 0]
        self.still_rules = still_rules(
            None if train.state is None else train.state[first],
            None if train.moved is None else train.moved[first],
            train.action[first, 0],
            self.held_by,
            None if space is None else space.displacements,
        )
        """[Da]: what holding still is, in each dimension."""
        nothing = np.zeros(train.action.shape[2])
        self.rest = nothing if space is None or space.displacements is None else space.at_rest(nothing)
        """[Da]: no displacement, however it is written."""
        known = train.action[train.mask].astype(np.float64)
        self.std = known.std(0)
        """[Da]: of the training actions, for normalised errors."""
        self.mean = known.mean(0)
        weight = train.mask[..., None].astype(np.float64)
        counts = np.maximum(weight.sum(0), 1)
        self.mean_chunk = (train.action * weight).sum(0) / counts
        self.mean_motion = ((train.action - self.still(train)[:, None]) * weight).sum(0) / counts

    def last(self, chunks: Chunks) -> NDArray[np.float64]:
        """[N, Da]: the last action; at an episode's beginning the state or zero where these hold still, else the mean."""
        first = np.broadcast_to(self.mean, chunks.last.shape)
        return np.where(np.isnan(chunks.last), self._held_still(chunks, first), chunks.last)

    def still(self, chunks: Chunks) -> NDArray[np.float64]:
        """[N, Da]: what leaves the robot where it is: the state, zero or the last action, as `still_rules` say."""
        return self._held_still(chunks, self.last(chunks))

    def _held_still(self, chunks: Chunks, otherwise: NDArray[np.float64]) -> NDArray[np.float64]:
        held = otherwise.copy()
        for dim, (rule, source) in enumerate(zip(self.still_rules, self.held_by, strict=True)):
            if rule == "zero":
                held[:, dim] = self.rest[dim]
            elif rule == "state" and chunks.state is not None:
                held[:, dim] = chunks.state[:, source]
        return held

    def predict(self, chunks: Chunks) -> dict[str, NDArray[np.float64]]:
        """Key of BASELINES -> [N, H, Da]."""
        shape = chunks.action.shape
        still = self.still(chunks)[:, None]
        return {
            "hold_still": np.broadcast_to(still, shape),
            "repeat_last": np.broadcast_to(self.last(chunks)[:, None], shape),
            "mean_chunk": np.broadcast_to(self.mean_chunk, shape),
            "mean_motion": still + self.mean_motion,
        }


@dataclass(frozen=True)
class OpenLoopResult:
    """Errors of the policy and of the baselines on the same steps. M methods, the policy first."""

    methods: tuple[str, ...]
    names: tuple[str, ...]
    """[Da] of the action's dimensions."""
    moving: NDArray[np.bool_]
    """[Da]: dimensions that move in the training episodes; only these are averaged."""
    per_dim: dict[str, Interval]
    """Method -> squared error [Da] in raw units."""
    overall: dict[str, Interval]
    """Method -> normalised squared error, averaged over the moving dimensions."""
    ratio: dict[str, Interval]
    """Baseline -> the policy's overall error over the baseline's, on the same resamples of episodes."""
    per_step: dict[str, NDArray[np.float64]]
    """Method -> normalised squared error [H] by how far ahead."""
    std: NDArray[np.float64]
    """[Da] in the training episodes."""
    samples: int
    episodes: int
    hold_still_is: tuple[Still, ...] = ()
    """[Da]: the rule by which each dimension holds still."""
    standing: Standing = "not known"
    """What the episodes are to the policy."""
    numbers: tuple[int, ...] = ()
    """[E] of the episodes; earlier versions kept none."""
    per_episode: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Method -> normalised squared error [E], as `overall`."""
    drawn: tuple[int, ...] = ()
    """Episodes that are kept with their trajectories and films."""

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Of what `to_json` wrote, also after JSON."""

        def intervals(name: str) -> dict[str, Interval]:
            return {method: Interval.from_json(value) for method, value in found[name].items()}

        steps = found["normalised_squared_error_per_step"]
        return cls(
            methods=tuple(found["normalised_squared_error"]),
            names=tuple(found["dimensions"]),
            moving=np.asarray(found["moving"], np.bool_),
            per_dim=intervals("squared_error_per_dimension"),
            overall=intervals("normalised_squared_error"),
            ratio=intervals("policy_over_baseline"),
            per_step={name: np.asarray(curve, np.float64) for name, curve in steps.items()},
            std=np.asarray(found["std"], np.float64),
            samples=found["samples"],
            episodes=found["episodes"],
            hold_still_is=tuple(found["hold_still_is"]),
            standing=found["standing"],
            numbers=tuple(found.get("episode_numbers", ())),
            per_episode={
                name: np.asarray(values, np.float64)
                for name, values in found.get("normalised_squared_error_per_episode", {}).items()
            },
            drawn=tuple(found.get("drawn", ())),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; NaN where a step occurs in no episode."""
        return {
            "samples": self.samples,
            "episodes": self.episodes,
            "dimensions": list(self.names),
            "moving": self.moving.tolist(),
            "std": self.std.tolist(),
            "normalised_squared_error": {name: found.to_json() for name, found in self.overall.items()},
            "policy_over_baseline": {name: found.to_json() for name, found in self.ratio.items()},
            "squared_error_per_dimension": {name: found.to_json() for name, found in self.per_dim.items()},
            "normalised_squared_error_per_step": {name: found.tolist() for name, found in self.per_step.items()},
            "hold_still_is": list(self.hold_still_is),
            "standing": self.standing,
            "episode_numbers": list(self.numbers),
            "normalised_squared_error_per_episode": {name: found.tolist() for name, found in self.per_episode.items()},
            "drawn": list(self.drawn),
        }


def compare(
    predictions: Mapping[str, NDArray[np.floating[Any]]],
    truth: Chunks,
    std: NDArray[np.float64],
    names: Sequence[str],
    *,
    still_rules: Sequence[Still] = (),
    draws: int = 2000,
    seed: int = 0,
) -> OpenLoopResult:
    """Errors of `predictions` (method -> [N, H, Da], the policy first) against `truth`.

    `std` [Da] of the training actions; dimensions with none stand still and are left out of averages. Raises ValueError
    where nothing moves, nothing is known, or shapes differ.
    """
    moving = std > 1e-6 * max(float(std.max(initial=0.0)), 1e-12)
    if not moving.any():
        raise ValueError("no dimension of the action moves in the training episodes; is this the right action?")
    if not truth.mask.any():
        raise ValueError("no step of the held-out episodes has an action; choose other --episodes")
    groups, inverse = np.unique(truth.episode, return_inverse=True)
    counts = np.zeros(len(groups))
    np.add.at(counts, inverse, truth.mask.sum(1))
    weights = resamples(len(groups), draws, seed)
    scale = np.where(moving, std, 1.0) ** 2
    per_dim: dict[str, Interval] = {}
    overall: dict[str, Interval] = {}
    per_step: dict[str, NDArray[np.float64]] = {}
    sums: dict[str, NDArray[np.float64]] = {}
    per_episode: dict[str, NDArray[np.float64]] = {}
    for method, predicted in predictions.items():
        if predicted.shape != truth.action.shape:
            raise ValueError(f"{method} predicts {predicted.shape}: must be {truth.action.shape}")
        error = np.where(truth.mask[..., None], predicted.astype(np.float64) - truth.action, 0.0) ** 2
        by_episode = np.zeros((len(groups), error.shape[2]))
        np.add.at(by_episode, inverse, error.sum(1))
        per_dim[method] = bootstrap_ratio(by_episode, np.repeat(counts[:, None], by_episode.shape[1], 1), weights)
        sums[method] = (by_episode / scale)[:, moving].mean(1)
        overall[method] = bootstrap_ratio(sums[method], counts, weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            per_episode[method] = sums[method] / counts
            per_step[method] = (error.sum(0) / scale)[:, moving].mean(1) / truth.mask.sum(0)
    policy, *others = predictions
    ratio = {other: bootstrap_ratio(sums[policy], sums[other], weights) for other in others}
    return OpenLoopResult(
        tuple(predictions),
        tuple(names),
        moving,
        per_dim,
        overall,
        ratio,
        per_step,
        std,
        len(truth.action),
        len(groups),
        tuple(still_rules),
        numbers=tuple(groups.tolist()),
        per_episode=per_episode,
    )


def episodes_told(count: int, standing: Standing) -> str:
    """E.g. "6 held-out episodes"."""
    noun = "episode" if count == 1 else "episodes"
    if standing in ("other data", "not known"):
        return f"{count} {noun} ({'of data it was not trained on' if standing == 'other data' else 'trained on or not: not known'})"
    return f"{count} {standing.replace(' on', '-on').replace('held out', 'held-out')} {noun}"


def describe_still(rules: Sequence[Still]) -> str:
    """E.g. "the state in 7 dimensions, the last action in 1"."""
    counts = {STILL_TITLES[rule]: list(rules).count(rule) for rule in STILL_TITLES}
    parts = [f"{title} in {count}" for title, count in counts.items() if count]
    return ", ".join([f"{parts[0]} {'dimension' if parts[0].endswith(' 1') else 'dimensions'}", *parts[1:]])
