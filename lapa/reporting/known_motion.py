"""Pairs whose motion is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lapa.pairs.known_motion import is_action


@dataclass(frozen=True)
class KnownMotion:
    """Pairs of one embodiment whose motion is known."""

    embodiment: str
    feature: str
    dims: list[int]
    rows: NDArray[np.int64]
    """[P], of the sample."""
    y: NDArray[np.float64]
    """[P, K]: relative motion in `dims`."""
    others: dict[int, float]
    """Spread of each dimension that is not asked for."""

    @property
    def what(self) -> str:
        """In words."""
        return f"{'the sum of' if is_action(self.feature) else 'the change of'} {self.feature}"
