"""What a policy is asked at one moment, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.video.image import fit_square
from corpora.video.nearest import after_beginning
from vla.actions.names import places
from vla.embodiment import Embodiment


@dataclass(frozen=True)
class Observation:
    """What a robot sees, feels and is asked to do, at one moment."""

    images: Mapping[str, NDArray[np.uint8]]
    """Camera -> uint8 [H, W, 3], or [T, H, W, 3] for a policy that sees T frames, oldest first; any size. A camera may be
    called by its full name ("observation.images.head") or the last word of it; one that is missing is masked."""
    state: NDArray[np.floating[Any]] | None = None
    """Proprioceptive state [Ds], raw; None for a robot that has none."""
    instruction: str = ""
    """What to do."""
    since_start_s: float = math.inf
    """Seconds since the episode began, for a policy that sees several frames: those from before it are masked, as in training,
    whatever stands in their places."""
    painted: bool = False
    """The images are painted as `Embodiment.views` says, for a policy that learned from such: by
    `corpora.agent.painting.painter_of(view)`, every frame of the episode in its order."""

    def check_view(self, known: Embodiment) -> None:
        """Raises ValueError where the images are not said to be of the robot's views."""
        if known.views and not self.painted:
            camera, view = next(iter(known.views.items()))
            raise ValueError(
                f"the pictures of camera {camera} were {view} in training, and this policy acts on no others: paint them with "
                "corpora.agent.painting.painter_of(view) and say painted=True"
            )
        if self.painted and not known.views:
            raise ValueError(f"painted: the pictures of '{known.name}' were not painted in training; leave it out")

    def seen_by(
        self, known: Embodiment, history_s: Sequence[float], side: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """uint8 [V, T, 3, side, side] and bool [V, T], in the order of the embodiment's cameras, T = len(history_s). Raises ValueError
        where the observation does not fit it."""
        self.check_view(known)
        images, since_s = self.images, self.since_start_s
        if not since_s >= 0:
            raise ValueError(f"since_start_s {since_s}: must be at least 0 seconds")
        history = len(history_s)
        there = after_beginning(history_s, since_s, known.step_s)
        where = dict(zip(images, places(list(images), known.cameras), strict=True))
        if unknown := [name for name, place in where.items() if place is None]:
            raise ValueError(f"image '{unknown[0]}': the cameras of '{known.name}' are {', '.join(known.cameras)}")
        seen = np.zeros((len(known.cameras), history, side, side, 3), np.uint8)
        mask = np.zeros((len(known.cameras), history), np.bool_)
        for name, given in images.items():
            frames = np.asarray(given)
            frames = frames[None] if frames.ndim == 3 else frames
            if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) != history or frames.shape[3] != 3:
                raise ValueError(
                    f"image '{name}': {frames.dtype} {list(np.shape(given))}: must be uint8 [{history}, height, width, 3], the "
                    "first axis being optional where it is 1"
                )
            place = where[name]
            assert place is not None
            fit = known.squared_by or "stretch"
            shown = [fit_square(np.ascontiguousarray(frame), side, fit) for frame in frames[there]]
            seen[place, there], mask[place] = shown, there
        return np.ascontiguousarray(seen.transpose(0, 1, 4, 2, 3)), mask


@dataclass(frozen=True)
class ActionChunk:
    """What a policy would do next."""

    actions: NDArray[np.float32]
    """Raw actions [H, Da], in the robot's own numbers."""
    step_s: float
    """Seconds between two of them."""
