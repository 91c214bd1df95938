"""All that is known of an episode's body, beside its video: the ground truth of clips that are cut from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.episodes.columns import column_array, is_numeric

_BOOKKEEPING = frozenset({"timestamp", "frame_index", "episode_index", "index", "task_index"})
_EDGE_S = 1e-4


@dataclass(frozen=True)
class TruthRef:
    """Where the states and actions of one episode lie."""

    path: str
    """Parquet file."""
    episode: int

    def read(self) -> dict[str, NDArray[Any]]:
        """t_s float64 [N] (from the episode's beginning) and float32 [N, D] for each numeric feature.

        Raises ValueError where the file has no such episode or no timestamps, OSError or pa.ArrowException where it is
        damaged.
        """
        with pq.ParquetFile(self.path) as file:
            names = [name for name in file.schema_arrow.names if is_numeric(file.schema_arrow.field(name).type)]
        if "timestamp" not in names:
            raise ValueError(f"{self.path} has no column 'timestamp'")
        filters = [("episode_index", "=", self.episode)] if "episode_index" in names else None
        table = pq.read_table(self.path, columns=names, filters=filters)
        if table.num_rows == 0:
            raise ValueError(f"{self.path} holds no row of episode {self.episode}")
        truth: dict[str, NDArray[Any]] = {"t_s": column_array(table.column("timestamp"), np.float64)[:, 0]}
        for name in names:
            if name not in _BOOKKEEPING and not name.startswith("annotation."):
                truth[name] = column_array(table.column(name), np.float32)
        order = np.argsort(truth["t_s"], kind="stable")
        return {name: values[order] for name, values in truth.items()}


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
