"""Latents of `giza extract`, each joined to the frame that it begins at, by clip and time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.clips.frames import ClipFrames
from corpora.episodes.columns import column_array
from corpora.video.decode import describe
from corpora.video.nearest import nearest_rows

LatentColumn = Literal["latent", "quantized"]
"""Before or after quantisation."""
SAME_MOMENT_S = 1e-3
"""A latent and its frame were shown at the same time, up to rounding."""


@dataclass(frozen=True)
class LatentRows:
    """N latents, in the order of the clips and of time."""

    rows: NDArray[np.int64]
    """[N], rows of the clips' table."""
    runs: NDArray[np.int64]
    """[N], clips, indices into `ClipFrames.rows`."""
    values: NDArray[np.float32]
    """[N, tokens, dim]."""


def read_latents(
    folder: Path,
    clips: ClipFrames,
    chosen: Sequence[int],
    *,
    tokens: int | None = None,
    column: LatentColumn = "latent",
) -> LatentRows:
    """The latents of the clips `chosen` (indices into `clips.rows`) whose frame was decoded.

    `tokens`: of a latent; None: as the configuration of the model says that extract.json names. Raises ValueError where
    the folder holds no finished extraction, where a latent has no frame at its time, and where the tokens are unknown
    or do not divide a latent.
    """
    if column not in ("latent", "quantized"):
        raise ValueError(f"column '{column}': must be 'latent' or 'quantized'")
    folder = folder.expanduser()
    summary_path = folder / "extract.json"
    if not summary_path.is_file():
        raise ValueError(f"'{folder}' holds no finished extraction; make one with: giza extract --out {folder}")
    tokens = _tokens(json.loads(summary_path.read_text("utf-8")), folder) if tokens is None else tokens
    return read_labels(folder, clips, chosen, column=column, steps=tokens, job="extract")


def read_labels(
    folder: Path, clips: ClipFrames, chosen: Sequence[int], *, column: str, steps: int, job: str
) -> LatentRows:
    """The lists in `column` of the Parquet parts of a folder that `giza <job>` wrote, each of `steps` steps or tokens, for
    the clips `chosen` whose frame was decoded. Raises ValueError as `read_latents`."""
    place = {clips.rows[run].clip_id: run for run in chosen}
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            table = pq.read_table(path, columns=["clip_id", "t_s", column])
            names = table.column("clip_id").to_pylist()
            runs = np.asarray([place.get(name, -1) for name in names], np.int64)
            if (runs >= 0).any():
                kept = table.filter(pa.array(runs >= 0))
                t_s = column_array(kept.column("t_s"), np.float64)[:, 0]
                found.append(
                    (_join(clips, runs[runs >= 0], t_s, folder, job), runs[runs >= 0], _values(kept, column, steps))
                )
        except (OSError, KeyError, pa.ArrowException) as error:
            raise ValueError(f"{path} cannot be read ({describe(error)}); write it again with giza {job}") from error
    if not found:
        return LatentRows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, steps, 0), np.float32))
    rows, runs, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(rows, kind="stable")
    order = order[clips.table.valid[rows[order]].any(1)]
    return LatentRows(rows[order], runs[order], values[order])


def shuffle_over_clips(latents: LatentRows, seed: int) -> LatentRows:
    """The same latents, each at a frame of another clip, as a control: what they say of their frames is gone, their
    distribution is not. Raises ValueError where one clip holds more than half of them."""
    count = len(latents.rows)
    largest = int(np.bincount(latents.runs).max(initial=0)) if count else 0
    if 2 * largest > count:
        raise ValueError(
            f"{largest} of {count} latents are of one clip: there are not enough others to exchange them with; add clips"
        )
    # In random order clip by clip; moved on by the largest clip, each lands in another one.
    rng = np.random.default_rng(seed)
    clip_order = rng.permutation(int(latents.runs.max(initial=0)) + 1)
    order = np.lexsort((rng.random(count), clip_order[latents.runs]))
    values = np.empty_like(latents.values)
    values[order] = latents.values[np.roll(order, largest)]
    return replace(latents, values=values)


def _join(
    clips: ClipFrames, runs: NDArray[np.int64], t_s: NDArray[np.float64], folder: Path, job: str
) -> NDArray[np.int64]:
    """Rows of the clips' table at these times."""
    rows = np.empty(len(runs), np.int64)
    for run in np.unique(runs).tolist():
        of_run = np.flatnonzero(runs == run)
        start, stop = int(clips.starts[run]), int(clips.starts[run + 1])
        nearest, near = nearest_rows(clips.t_s[start:stop], t_s[of_run], SAME_MOMENT_S)
        if not near.all():
            time = float(t_s[of_run][~near][0])
            raise ValueError(
                f"clip {clips.rows[run].clip_id} has no frame at {time:.3f} s, but '{folder}' holds a label of it: they "
                f"are of another corpus; make them again with giza {job}"
            )
        rows[of_run] = start + nearest
    return rows


def _values(table: pa.Table, column: str, tokens: int) -> NDArray[np.float32]:
    flat = column_array(table.column(column), np.float32)
    if tokens < 1 or not flat.shape[1] or flat.shape[1] % tokens:
        raise ValueError(f"tokens {tokens}: labels of {flat.shape[1]} numbers do not divide into so many")
    if not np.isfinite(flat).all():
        raise ValueError("numbers that are not finite: the model that made them is broken")
    return flat.reshape(len(flat), tokens, -1)


def _tokens(summary: dict[str, object], folder: Path) -> int:
    if "tokens" in summary:
        return int(str(summary["tokens"]))
    config = Path(str(summary.get("lam", ""))).expanduser() / "config.json"
    try:
        return int(json.loads(config.read_text("utf-8"))["tokens"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"'{folder}' does not say how many tokens a latent has, and {config} cannot be read; give tokens"
        ) from error
