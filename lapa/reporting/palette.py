"""Colours of codes, bodies and sources: the same one means the same thing in all figures of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS = (
    "#2a6fbb", "#d9730d", "#2f8f4e", "#c0392b", "#7b52ab", "#8c5a3c", "#d1549a", "#0e8a94", "#8f8f1c", "#3d4f8f", "#5aa9e6",
    "#d9a000",
)  # fmt: skip
"""On a light page; base.html.j2 has them as --k0, --k1 ..., and lighter ones for a dark page."""
REST = -1
"""No colour of its own: one of many."""


def colours_of(counts: Sequence[int]) -> list[int]:
    """Index into COLOURS for each label, by how often it occurs: those that occur in their order where they are few, else the
    most frequent; REST for all others."""
    frequent = np.argsort(-np.asarray(counts), kind="stable")[: len(COLOURS)]
    own = sorted(int(label) for label in frequent if counts[label] > 0)
    found = [REST] * len(counts)
    for colour, label in enumerate(own):
        found[label] = colour
    return found


@dataclass(frozen=True)
class Kinds:
    """What each of N pairs is one of: a code, a body, a source."""

    name: str
    labels: tuple[str, ...]
    colours: tuple[int, ...]
    """Of each label: index into COLOURS, or REST."""
    of: NDArray[np.int64]
    """[N]: which of `labels`."""

    def shares(self) -> list[float]:
        """How often each label occurs."""
        return list(np.bincount(self.of, minlength=len(self.labels)) / max(1, len(self.of)))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "labels": self.labels, "colours": self.colours, "of": self.of.tolist()}
