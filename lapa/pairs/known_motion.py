"""What is known of a pair's motion from the states and actions that travel with a clip: what labels teach and what probes
read are one thing."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.clips.manifest import ClipRow
from lapa.pairs.config import LabelSpec

KNOWN_MOTION = 4
"""Raised when `relative_motion` would give other numbers, or `SeenLabels.choose` other clips."""
_ACTIONS = ("action", "actions")


def is_action(feature: str) -> bool:
    """Whether a feature holds actions ("action", "action.expert"), which add up, and not a state, which changes."""
    return feature.split(".")[0] in _ACTIONS


def relative_motion(
    truth: Mapping[str, NDArray[Any]], feature: str, t_s: NDArray[np.floating], gap_s: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Motion [N, D] over each pair's gap; NaN where a frame lies outside the known times, or next to a
    row that holds nothing; actions that hold nothing within the gap make no sum.

    A state changes: its linear interpolation at t + gap minus that at t. Actions add up: their sum over the gap, each
    held until the next. `truth` holds t_s [M] in seconds and feature [M, D]. Raises ValueError where the feature is unknown.
    """
    if feature not in truth:
        raise ValueError(f"no ground truth '{feature}': known are {', '.join(sorted(set(truth) - {'t_s'}))}")
    times = np.asarray(truth["t_s"], np.float64)
    values = np.asarray(truth[feature], np.float64)
    values = values[:, None] if values.ndim == 1 else values
    begin, end = np.asarray(t_s, np.float64), np.asarray(t_s, np.float64) + np.asarray(gap_s, np.float64)
    if len(times) < 2:
        return np.full((len(begin), values.shape[1]), np.nan)
    step = float(np.median(np.diff(times)))
    edges, curve = times, values
    if is_action(feature):
        # A sum in the action's own steps, so that the motion over a gap does not depend on the pair's phase.
        edges, curve = np.append(times, times[-1] + step), _summed(np.where(np.isnan(values), 0, values))

    def change(curve: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([np.interp(end, edges, column) - np.interp(begin, edges, column) for column in curve.T], axis=1)

    known = ((begin >= edges[0] - step) & (end <= edges[-1] + step))[:, None]
    if is_action(feature):
        known = known & (change(_summed(np.isnan(values))) <= 0)
    return np.where(known, change(curve), np.nan)


def _summed(values: NDArray[Any]) -> NDArray[np.float64]:
    """[M + 1, D]: of the rows before each."""
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])


class LabelsDiffer(ValueError):
    """A clip's labels have another width than the others': the flags are to blame, and the clip is whole."""


@dataclass(frozen=True)
class SeenLabels:
    """The known actions that a model may see."""

    spec: LabelSpec = field(default_factory=LabelSpec)
    clips: frozenset[str] = frozenset()
    """Ids of the clips whose actions are seen."""
    width: int = 0
    """Dimensions; 0: no labels at all."""

    @staticmethod
    def choose(spec: LabelSpec, rows: Sequence[ClipRow], seed: int, width: int) -> SeenLabels:
        """Those of `spec.share` of the source videos of `rows` (of `spec.embodiment`), whole: who labels, labels episodes. None
        without a feature. Raises ValueError for an embodiment that is in no row."""
        bodies = sorted({row.embodiment for row in rows})
        if spec.feature and spec.embodiment not in ("", *bodies):
            raise ValueError(f"--labels.embodiment '{spec.embodiment}': none of {', '.join(map(repr, bodies))}")
        of = [row for row in rows if spec.feature and spec.embodiment in ("", row.embodiment)]
        shown = {row.group for row in of if chosen_share(row.group, spec.share, seed)}
        return SeenLabels(spec, frozenset(row.clip_id for row in of if row.group in shown), width)

    def of(
        self,
        clip_id: str,
        truth: Mapping[str, NDArray[Any]] | None,
        from_s: NDArray[np.float64],
        to_s: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """[P, width]: `relative_motion` between the times [P] of a clip; NaN where it is unknown or withheld. Raises LabelsDiffer
        where this clip's feature has other dimensions."""
        if truth is None or clip_id not in self.clips or self.spec.feature not in truth:
            return np.full((len(from_s), self.width), np.nan, np.float32)
        motion = relative_motion(truth, self.spec.feature, from_s, to_s - from_s)
        if self.spec.dims and max(self.spec.dims) < motion.shape[1]:
            motion = motion[:, list(self.spec.dims)]
        if motion.shape[1] != self.width:
            raise LabelsDiffer(
                f"--labels.feature '{self.spec.feature}': has {motion.shape[1]} dimensions in clip {clip_id}, where the labels have "
                f"{self.width}: bodies of different widths are in this corpus; name dimensions that all have with --labels.dims, "
                "or one body with --labels.embodiment"
            )
        return motion.astype(np.float32)


def chosen_share(key: str, share: float, seed: int) -> bool:
    """Whether `key` is among the `share` of keys that a seed chooses: the same on every machine, whatever the other keys."""
    return zlib.crc32(f"{seed}:{key}".encode()) / 2**32 < share
