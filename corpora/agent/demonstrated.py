"""What a robot did where its tool was and moved likewise: for motions that are too small to tell the action.

What presses against something hardly moves while its command is full. Which command that is, the nearest moment of a
demonstration of the same task shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from corpora.agent.motion import SHARES, TELLS
from corpora.store.files import digest_of

LEAST = 0.05
"""Share of all slow moments."""


@dataclass(frozen=True)
class Moments:
    """N moments of a robot's episodes of one task."""

    position_m: NDArray[np.float64]
    """[N, 3]: where the tool is."""
    course_m: NDArray[np.float64]
    """[N, C]: how it moves, see `corpora.agent.motion.courses`."""
    chunks: NDArray[np.float32]
    """[N, H, Da]: what is done."""
    episode: NDArray[np.int64]
    """[N]"""

    @property
    def digest(self) -> str:
        arrays = (self.position_m, self.course_m, self.chunks, self.episode)
        return digest_of(*(array.tobytes() for array in arrays))[:16]

    def take(self, rows: NDArray[np.bool_]) -> Moments:
        """Some of them."""
        return Moments(self.position_m[rows], self.course_m[rows], self.chunks[rows], self.episode[rows])

    def nearest(
        self, position_m: NDArray[np.floating], course_m: NDArray[np.floating]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Of each of M moments [M, 3], [M, C] the nearest of these, and its distance in metres: of the places, and of the
        motions (root mean square over a course's parts), together."""
        away = [(self.position_m[:, k] - position_m[:, k, None]) ** 2 for k in range(3)]
        away += [(self.course_m[:, k] - course_m[:, k, None]) ** 2 / len(SHARES) for k in range(course_m.shape[1])]
        squares = np.sum(away, axis=0)
        rows = squares.argmin(1)
        return rows, np.sqrt(squares[np.arange(len(rows)), rows])


@dataclass(frozen=True)
class Demonstrated:
    """Actions by the nearest moment of a demonstration of the same task."""

    moments: Mapping[str, Moments]
    """Text of a task -> all that is known of it."""
    within_m: float
    """Distance up to which the nearest moment tells `TELLS` of the action; 0: it never does, or it is not known."""

    @classmethod
    def fit(
        cls,
        learned: Mapping[str, Moments],
        more: Mapping[str, Moments],
        least_m: float,
        told: NDArray[np.bool_] | slice = slice(None),
    ) -> Demonstrated:
        """`learned`: tasks whose episodes show each other how far one is to be trusted, in motions below `least_m`; `told`:
        the dimensions of the action that count. `more`: tasks that are looked up, too, whatever they are."""
        apart, wrong, true = [np.zeros(0)], [], []
        for moments in learned.values():
            episodes = np.unique(moments.episode)
            slow = np.linalg.norm(moments.course_m, axis=1) < least_m
            for one, other in permutations(episodes.tolist(), 2):
                asked, shown = moments.take(slow & (moments.episode == one)), moments.take(moments.episode == other)
                if not len(asked.episode):
                    continue
                rows, distance = shown.nearest(asked.position_m, asked.course_m)
                done = asked.chunks.mean(1)[:, told]
                apart.append(distance)
                true.append(done)
                wrong.append(done - shown.chunks[rows].mean(1)[:, told])
        both = {text: _joined([each[text] for each in (learned, more) if text in each]) for text in {**learned, **more}}
        if not true:
            return cls(both, 0.0)
        return cls(both, _within(np.concatenate(apart), np.concatenate(wrong), np.concatenate(true)))

    def at(
        self, text: str, position_m: NDArray[np.floating], course_m: NDArray[np.floating]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """bool [M] which moments [M, 3], [M, C] of a clip of this task have one that is near enough, and the chunks of those."""
        known = np.isfinite(position_m).all(1) & np.isfinite(course_m).all(1)
        if text not in self.moments or not self.within_m or not known.any():
            return np.zeros(len(position_m), np.bool_), np.zeros((0, 0, 0), np.float32)
        rows, distance = self.moments[text].nearest(position_m[known], course_m[known])
        near = distance <= self.within_m
        found = known.copy()
        found[known] = near
        return found, self.moments[text].chunks[rows[near]]


def _joined(parts: list[Moments]) -> Moments:
    """Episodes of the parts are different ones."""
    ends = np.cumsum([0, *(part.episode.max(initial=-1) + 1 for part in parts)])
    return Moments(
        np.concatenate([part.position_m for part in parts]),
        np.concatenate([part.course_m for part in parts]),
        np.concatenate([part.chunks for part in parts]),
        np.concatenate([part.episode + end for part, end in zip(parts, ends, strict=False)]),
    )


def _within(distance_m: NDArray[np.float64], wrong: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """The distance beyond which moments tell, taken together, less than `TELLS` of the actions' mean over a chunk; 0 where those
    nearer are less than `LEAST` of all: they are so by chance."""
    ranked = np.argsort(distance_m, kind="stable")
    gain = ((1 - TELLS) * np.square(true[ranked]).sum(1) - np.square(wrong[ranked]).sum(1)).cumsum()
    last = int(gain.argmax())
    return float(distance_m[ranked[last]]) if gain[last] > 0 and last + 1 >= LEAST * len(ranked) else 0.0
