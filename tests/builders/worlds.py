"""A simulator in small: what a rollout asks of an environment, with pictures that are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PictureWorld:
    """Shows picture number k after k x `every` control steps, and may be asked at these alone; nothing that is done matters."""

    instruction, success = "pick", False

    def __init__(self, every: int, picture: Callable[[int], NDArray[np.uint8]]) -> None:
        self.steps, self._every, self._picture = 0, every, picture

    @property
    def row(self) -> int:
        assert self.steps % self._every == 0
        return self.steps // self._every

    def reset(self, seed: int) -> NDArray[np.float32]:
        return np.zeros(11, np.float32)

    def step(self, action: Any) -> NDArray[np.float32]:
        self.steps += 1
        return np.zeros(11, np.float32)

    def render(self) -> NDArray[np.uint8]:
        return self._picture(self.row)

    def faucet_turned(self) -> None:
        return None
