"""What a policy is asked at one moment, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class ActionChunk:
    """What a policy would do next."""

    actions: NDArray[np.float32]
    """Raw actions [H, Da], in the robot's own numbers."""
    step_s: float
    """Seconds between two of them."""
