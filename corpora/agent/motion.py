"""How the tool of a track moves, and which of a robot's actions go with such a motion.

ridge = ActionsOfMotion.fit(courses(t_s, position_m, 0.2), chunks, gap_s=0.2)    # of the robot's demonstrations
chunks = ridge(courses(t_s, track.position_m, 0.2))                              # of a track in the same space
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.video.nearest import rows_later

PENALTY = 1e-2
"""Of the ridge, in variances of the motion: a track is off by a tenth of it or so, and differences within a course by more than
they tell. It is also for directions in which nothing moves."""
SHARES = (0.5, 1.0, 1.5)
"""Of a chunk's length, the moments at which its motion is looked at: when in it the tool moved, and where it came to, for a tool
follows its command late."""
TELLS = 0.5
"""Share of what actions differ by that a motion must tell: what presses against something hardly moves, and its actions are far
from none."""
_GROUPS = 20
"""Of motions of a like size, to tell how much each tells."""


def motions(t_s: NDArray[np.float64], position_m: NDArray[np.floating], gap_s: float) -> NDArray[np.float64]:
    """[T, 3], metres: how far a point at `position_m` [T, 3] is `gap_s` after each of the moments `t_s` [T]; NaN where it is
    not known at both, or no moment lies so far on. A gap that the moments do not hit exactly is taken as evenly moved."""
    later, near = rows_later(t_s, gap_s)
    took_s = np.where(near, t_s[later] - t_s, np.nan)
    return np.asarray((position_m[later].astype(np.float64) - position_m) * (gap_s / took_s)[:, None])


def courses(t_s: NDArray[np.float64], position_m: NDArray[np.floating], gap_s: float) -> NDArray[np.float64]:
    """[T, 3 * len(SHARES)]: `motions` over each of SHARES of the gap; NaN where that over the gap is not known. Where another is
    not (a rarer clock, the track's end), the tool is taken to move evenly."""
    whole = motions(t_s, position_m, gap_s)
    parts = [motions(t_s, position_m, share * gap_s) for share in SHARES]
    even = [np.where(np.isfinite(part), part, share * whole) for share, part in zip(SHARES, parts, strict=True)]
    return np.where(np.isfinite(whole).all(1, keepdims=True), np.concatenate(even, 1), np.nan)


@dataclass(frozen=True)
class ActionsOfMotion:
    """A linear map from a motion's course to the chunk of actions that begins with it."""

    gap_s: float
    """Seconds that a motion takes."""
    mean_m: NDArray[np.float64]
    """[C]: of the courses that it was fitted on."""
    weights: NDArray[np.float64]
    """[C, H, Da]: actions a metre."""
    mean_chunk: NDArray[np.float64]
    """[H, Da]."""
    least_m: float = 0.0
    """Size (norm of a course) below which a motion tells too little of the action."""

    @classmethod
    def fit(
        cls,
        motion_m: NDArray[np.float64],
        chunks: NDArray[np.floating],
        *,
        gap_s: float,
        told: NDArray[np.bool_] | slice = slice(None),
    ) -> ActionsOfMotion:
        """By ridge regression on N courses [N, C] and the chunks [N, H, Da] beside them; `told`: the dimensions that a motion
        tells. Raises ValueError where nothing moves."""
        mean_m, mean_chunk = motion_m.mean(0), chunks.astype(np.float64).mean(0)
        moved, done = motion_m - mean_m, (chunks - mean_chunk).reshape(len(chunks), -1)
        scale = moved.std(0).max()
        if not scale > 0:
            raise ValueError(f"the robot's tool moves nowhere within {gap_s:g} s: are these its tracks?")
        square = moved.T @ moved + PENALTY * len(moved) * scale**2 * np.eye(len(mean_m))
        weights = np.linalg.solve(square, moved.T @ done).reshape(len(mean_m), *mean_chunk.shape)
        true = (chunks - mean_chunk).mean(1)[:, told]
        wrong = true - np.tensordot(moved, weights, 1).mean(1)[:, told]
        least_m = _least(np.linalg.norm(motion_m, axis=1), wrong, true)
        return cls(gap_s, mean_m, weights, mean_chunk, least_m)

    def tells(self, motion_m: NDArray[np.float64]) -> NDArray[np.bool_]:
        """[M]: whether a course [M, C] is known, and large enough to tell of the action."""
        return np.asarray(np.linalg.norm(motion_m, axis=1) >= self.least_m)  # a NaN is not

    def __call__(self, motion_m: NDArray[np.float64]) -> NDArray[np.float32]:
        """[M, C] -> [M, H, Da]."""
        return (np.tensordot(motion_m - self.mean_m, self.weights, 1) + self.mean_chunk).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """`from_json` restores the same bits."""
        arrays = {name: getattr(self, name).tolist() for name in ("mean_m", "weights", "mean_chunk")}
        return {"gap_s": self.gap_s, "least_m": self.least_m, **arrays}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ActionsOfMotion:
        """Inverse of `to_json`. Raises KeyError or ValueError for what is missing or does not fit."""
        mean_m, weights, mean_chunk = (
            np.asarray(values[name], np.float64) for name in ("mean_m", "weights", "mean_chunk")
        )
        return cls(float(values["gap_s"]), mean_m, weights, mean_chunk, float(values["least_m"]))


def _least(size_m: NDArray[np.float64], wrong: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """The size up to which motions, a group of like size after the other, tell less than `TELLS` of the actions' mean over a
    chunk; 0 where none of them does, and where half of all do: then it is not the size that matters."""
    ranked = np.argsort(size_m, kind="stable")
    for rows in np.array_split(ranked, min(_GROUPS, len(ranked))):
        if np.square(wrong[rows]).sum() <= (1 - TELLS) * np.square(true[rows]).sum():
            least = float(size_m[rows[0]])
            return least if least > size_m[ranked[0]] and least <= np.median(size_m) else 0.0
    return 0.0
