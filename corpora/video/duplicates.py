"""Near-duplicates over a whole corpus: a small embedding of what a clip shows and how it changes, and faiss.

Half of the embedding is appearance (the clip's mean image), half is time (how each moment departs from that mean), so
that two episodes in the same scene with different motion stay apart, while a re-encoded or rescaled copy does not.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.video.settings import DuplicateSettings

if TYPE_CHECKING:
    import faiss

MOMENTS = 8
GRID = 8
DIMENSIONS = GRID * GRID + MOMENTS * GRID * GRID
FLAT_LIMIT = 16_384
"""Up to this many clips the search is exact; beyond it a graph (HNSW) keeps the time per clip nearly constant."""
CANDIDATES = 8
NOISE_FLOOR = 0.25
"""Luma (0-255, root mean square): movement below it counts for proportionally less, or noise would be compared."""


def embed_clip(frames: NDArray[np.uint8], t_s: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32 [DIMENSIONS] of unit length, from uint8 [T, H, W, 3] shown at `t_s`; both halves weigh the same."""
    moments = np.linspace(t_s[0], t_s[-1], MOMENTS)
    thumbs = np.empty((MOMENTS, GRID, GRID), np.float32)
    for index, moment in enumerate(moments):
        # Between two frames the thumbnail is interpolated, so that another frame rate gives the same moments.
        after = min(int(np.searchsorted(t_s, moment)), len(t_s) - 1)
        before = max(0, after - 1)
        span = t_s[after] - t_s[before]
        weight = float(np.clip((moment - t_s[before]) / span, 0, 1)) if span > 0 else 1.0
        thumbs[index] = (1 - weight) * _thumb(frames[before]) + weight * _thumb(frames[after])
    mean = thumbs.mean(0)
    appearance = _unit(mean - mean.mean(), NOISE_FLOOR)
    time = _unit(thumbs - mean, NOISE_FLOOR)
    return np.concatenate([appearance.ravel(), time.ravel()]).astype(np.float32) / np.float32(np.sqrt(2))


def _thumb(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA), np.float32)


def _unit(values: NDArray[np.float32], floor: float) -> NDArray[np.float32]:
    """Unit length, unless the root mean square is below `floor`."""
    return values / max(float(np.linalg.norm(values)), floor * np.sqrt(values.size))


@dataclass(frozen=True)
class Candidate:
    """What tells a clip apart from others that look alike."""

    clip_id: str
    group: str
    start_s: float
    end_s: float
    truth_digest: str = ""
    """Of its known actions; empty: none are known."""


class DuplicateIndex:
    """Clips kept so far. It holds about 3 kB for each (the embedding and what names the clip); the result depends
    only on the order in which clips are offered."""

    def __init__(self, settings: DuplicateSettings) -> None:
        self._settings = settings
        logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it logs which instruction set it tries
        import faiss  # the workers, which only embed, start sooner without it

        self._faiss = faiss
        self._index: faiss.Index = self._faiss.IndexFlatIP(DIMENSIONS)
        self._kept: list[Candidate] = []
        self._ids: set[str] = set()
        self._faiss.omp_set_num_threads(1)

    def find(self, clip: Candidate, embedding: NDArray[np.float32]) -> tuple[str, float] | None:
        """(clip_id, similarity) of an earlier kept clip that shows the same, or None.

        Clips of one group that overlap in time (the cameras of an episode) are different views, not duplicates. Nor are
        two clips whose known actions differ, however alike they look: a machine may do nearly the same twice.
        """
        if clip.clip_id in self._ids:
            return clip.clip_id, 1.0
        if not self._kept:
            return None
        scores, numbers = self._index.search(embedding[None], min(CANDIDATES, len(self._kept)))
        for score, number in zip(scores[0], numbers[0], strict=True):
            if number < 0 or score < self._settings.similarity:
                continue
            other = self._kept[number]
            if other.group == clip.group and other.start_s < clip.end_s and clip.start_s < other.end_s:
                continue
            if clip.truth_digest and other.truth_digest and clip.truth_digest != other.truth_digest:
                continue
            if self._both_halves(embedding, np.asarray(self._index.reconstruct(int(number)))):
                return other.clip_id, float(score)
        return None

    def add(self, clip: Candidate, embedding: NDArray[np.float32]) -> None:
        """Remembers a kept clip."""
        if len(self._kept) == FLAT_LIMIT:
            graph = self._faiss.IndexHNSWFlat(DIMENSIONS, 32, self._faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efSearch = 64
            graph.add(self._index.reconstruct_n(0, len(self._kept)))
            self._index = graph
        self._index.add(embedding[None])
        self._kept.append(clip)
        self._ids.add(clip.clip_id)

    def _both_halves(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
        cells = GRID * GRID
        return all(
            float(one[part] @ other[part]) * 2 >= self._settings.similarity
            for part in (slice(0, cells), slice(cells, None))
        )
