"""Pairs as rows that point into frames: those of one clip in memory, or those of many in memory-mapped files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lapa.pairs.batch import PairBatch
from lapa.pairs.config import PairConfig
from lapa.pairs.flow import pair_flow
from lapa.pairs.pair import stabilise

Featurise = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
"""uint8 frames [F, S, S, 3] -> features [F, N, D] of the frozen model of a feature target: float16, which is what they
are kept as, or float32 for a published model, whose authors' code does not round them."""


@dataclass(frozen=True)
class PairTable:
    """P pairs of F frames. A frame is kept once, however many pairs it is part of."""

    config: PairConfig
    frames: NDArray[np.uint8]
    """[F, S, S, 3]."""
    first: NDArray[np.int64]
    """[P], rows of `frames`."""
    second: NDArray[np.int64]
    """[P]."""
    clip: NDArray[np.int64]
    """[P], index of the clip."""
    t_s: NDArray[np.float64]
    """[P], time of the first frame in its source."""
    gap_s: NDArray[np.float64]
    """[P], actual time between the frames."""
    camera: NDArray[np.floating]
    """[P, 3, 3], first to second; the identity where it is unknown."""
    camera_inlier_ratio: NDArray[np.float32]
    """[P]; 0 where the camera's motion is unknown."""
    motion: NDArray[np.float32]
    """[P], mean absolute difference of luma, 0-255."""
    label: NDArray[np.float32]
    """[P, A], NaN where unknown or withheld; A may be 0."""
    flow: NDArray[np.floating] | None = None
    """[P, 2, S/4, S/4], where it is kept."""
    features: NDArray[np.floating] | None = None
    """[F, N, D], what the model is fed instead of frames."""
    frame_index: NDArray[np.int64] | None = None
    """[P], which frame of its source the first is, see `Clip.frame_index`; None in tables of earlier versions of giza."""

    @staticmethod
    def of(
        config: PairConfig,
        frames: NDArray[np.uint8],
        first: NDArray[np.int64],
        second: NDArray[np.int64],
        t_s: NDArray[np.floating],
        gap_s: NDArray[np.floating],
        camera: NDArray[np.floating],
        **known: NDArray[Any],
    ) -> PairTable:
        """Pairs of one clip, with what more is known of them."""
        nothing = np.zeros(len(first), np.float32)
        rest: dict[str, Any] = {
            "camera_inlier_ratio": nothing,
            "motion": nothing,
            "label": nothing[:, None][:, :0],
            "frame_index": np.full(len(first), -1, np.int64),
        } | known
        return PairTable(
            config=config,
            frames=frames,
            first=first,
            second=second,
            clip=np.zeros(len(first), np.int64),
            t_s=np.asarray(t_s, np.float64),
            gap_s=np.asarray(gap_s, np.float64),
            camera=np.asarray(camera),
            **rest,
        )

    def __len__(self) -> int:
        return len(self.first)

    def draw(self, shares: NDArray[np.floating]) -> NDArray[np.int64]:
        """A pair for each of `shares` [B] in [0, 1): first one of the gaps that there are, each as likely as another, then a
        pair of that gap; long gaps have far fewer pairs than short ones."""
        place = np.asarray(shares, np.float64) * len(self._by_gap)
        gap = place.astype(np.int64)
        rows = [self._by_gap[g][int((p - g) * len(self._by_gap[g]))] for g, p in zip(gap.tolist(), place, strict=True)]
        return np.array(rows, np.int64)

    @cached_property
    def _by_gap(self) -> list[NDArray[np.int64]]:
        """Rows of each of the configuration's gaps that has some; a pair is of the gap that its own is nearest to."""
        wanted = np.array(self.config.gap_s)
        nearest = np.abs(self.gap_s[:, None] - wanted).argmin(1)
        return [rows for gap in range(len(wanted)) if len(rows := np.flatnonzero(nearest == gap))]

    def batch(
        self, chosen: NDArray[np.integer] | Sequence[int] | None = None, *, flow: bool = False, plain: bool = False
    ) -> PairBatch:
        """The pairs `chosen` (default: all), images in uint8.

        `flow`: measured where it is not kept; `plain`: with the frames as they were before they were stabilised.
        """
        chosen = np.arange(len(self)) if chosen is None else np.asarray(chosen, np.int64)
        i, j = self.first[chosen], self.second[chosen]
        names = ["clip", "t_s", "gap_s", "camera", "camera_inlier_ratio", "motion"]
        if self.label.shape[1]:
            names.append("label")
        if self.frame_index is not None:
            names.append("frame_index")
        known = {name: torch.from_numpy(getattr(self, name)[chosen]) for name in names}
        if plain:
            known["plain"] = torch.stack([channels_first(self.frames[k]) for k in (i, j)], 1)
        if self.features is not None:
            return PairBatch(torch.from_numpy(self.features[i]), torch.from_numpy(self.features[j]), **known)
        compensate = self.config.camera_compensation
        stable = [
            stabilise(self.frames[a], self.frames[b], h, compensate=compensate)
            for a, b, h in zip(i, j, self.camera[chosen], strict=True)
        ]
        before, after, valid = (np.stack(part) for part in zip(*stable, strict=True))
        if self.flow is not None:
            moved = self.flow[chosen].astype(np.float32)
        else:
            moved = np.stack([pair_flow(a, b) for a, b in zip(before, after, strict=True)]) if flow else None
        return PairBatch(
            channels_first(before),
            channels_first(after),
            torch.from_numpy(valid[:, None]),
            None if moved is None else torch.from_numpy(moved),
            **known,
        )


def channels_first(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 [B, S, S, 3] -> uint8 [B, 3, S, S], as they lie in memory."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
