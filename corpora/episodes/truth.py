"""All that is known of an episode's body, beside its video: the ground truth of clips that are cut from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.episodes.columns import may_hold_numbers
from corpora.episodes.rows import CLOCK, NUMBER, EpisodeRows, rows_of

_EPISODE = "episode_index"
_BOOKKEEPING = frozenset({CLOCK, NUMBER, _EPISODE, "index", "task_index"})
_EDGE_S = 1e-4


@dataclass(frozen=True)
class TruthRef:
    """Where the states and actions of one episode lie."""

    path: str
    """Parquet file."""
    episode: int
    fps: float
    """Rows a second, as the dataset has it; 0 where it does not say."""
    length: int
    """Rows, as the dataset has it; 0 where it does not say."""

    def read(self) -> EpisodeRows:
        """Its rows, with each numeric feature; those that hold nothing are among the lost.

        Raises ValueError where the file has no such episode or no times that can be used, OSError or pa.ArrowException
        where it is missing or damaged.
        """
        if not self.fps:
            raise ValueError("meta/info.json gives no fps")
        with pq.ParquetFile(self.path) as file:
            kinds = {name: file.schema_arrow.field(name).type for name in file.schema_arrow.names}
        names = [name for name, kind in kinds.items() if may_hold_numbers(kind)]
        filters = [(_EPISODE, "=", self.episode)] if _EPISODE in names else None
        table = pq.read_table(self.path, columns=names, filters=filters)
        features = [name for name in names if name not in _BOOKKEEPING and not name.startswith("annotation.")]
        return rows_of(table, features, self.fps)


def cut_truth(truth: dict[str, NDArray[Any]], start_s: float, end_s: float) -> dict[str, NDArray[Any]]:
    """The rows in [start_s, end_s)."""
    inside = (truth["t_s"] >= start_s - _EDGE_S) & (truth["t_s"] < end_s - _EDGE_S)
    return {name: values[inside] for name, values in truth.items()}


def truth_digest(truth: dict[str, NDArray[Any]]) -> str:
    """Digest of the row in the middle of a clip: equal for copies of an episode, different for two that look alike."""
    count = len(truth["t_s"])
    if count == 0:
        return ""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(set(truth) - {"t_s"}):
        digest.update(name.encode())
        digest.update(np.round(truth[name][count // 2].astype(np.float64), 4).tobytes())
    return digest.hexdigest()
