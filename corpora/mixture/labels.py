"""Labels of clips on disk (latents of `giza extract`, pseudo-actions of `giza label`), each joined to the frame that it
begins at, by clip and time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.clips.frames import ClipFrames
from corpora.clips.parts import part_paths, read_record
from corpora.episodes.columns import column_array
from corpora.store.files import machine_trouble
from corpora.video.image import SquaredBy
from corpora.video.nearest import nearest_rows
from corpora.video.probe import describe
from corpora.video.view import View

EXTRACTED = "_extract.json"
"""Record of a folder of latents."""
SAME_MOMENT_S = 1e-3
"""A label and its frame were shown at the same time, up to rounding."""


@dataclass(frozen=True)
class EmbodimentFacts:
    """What a set of samples says of the embodiment whose actions it has."""

    cameras: tuple[str, ...]
    step_s: float = 0.0
    """Seconds between two steps of a chunk; 0: its steps are no moments (tokens of a latent)."""
    state_names: tuple[str, ...] = ()
    """[Ds]; state.0, state.1, ... where they are not known, or not unique. Empty: there is no state."""
    action_names: tuple[str, ...] = ()
    """[Da]; likewise."""
    squared_by: SquaredBy = ""
    """How images that are not square were made so; "": they are square, or it is not known."""
    made_by: str = ""
    """What made the actions (latents): the numbers of two models mean different things. "": a robot, whose names say it."""
    codec: Mapping[str, Any] | None = None
    """The action space that these actions were made with (pseudo-actions), as its `to_json` gives it: they follow their
    robot and have no part in its statistics. None: the samples are what an action space is fitted on."""
    views: Mapping[str, View] = field(default_factory=dict)
    """Camera -> how its pictures were painted; others are as the camera saw them."""
    from_origin: bool = False
    """Its chunks begin at the origin, unturned: what is relative is counted from there, and no state is known beside it."""


def numbered(kind: str, width: int) -> tuple[str, ...]:
    """Names of dimensions that have none of their own."""
    return tuple(f"{kind}.{number}" for number in range(width))


@dataclass(frozen=True)
class Labels:
    """N labels of clips, in the order of the clips and of time."""

    rows: NDArray[np.int64]
    """[N], rows of the clips' table: the frames at which labels begin."""
    runs: NDArray[np.int64]
    """[N], clips, indices into `ClipFrames.rows`."""
    values: NDArray[np.float32]
    """[N, steps, dim]."""
    facts: EmbodimentFacts
    known: NDArray[np.bool_] | None = None
    """[dim]: dimensions of which the values tell, or [N, steps, dim]; None: all."""

    @classmethod
    def read(
        cls,
        folder: Path,
        clips: ClipFrames,
        *,
        column: str,
        steps: int,
        job: str,
        facts: EmbodimentFacts,
        holes: bool = False,
    ) -> Labels:
        """The lists in `column` of the Parquet parts that `giza <job>` wrote to `folder`, each of `steps` steps or tokens,
        of those frames that were decoded.

        Raises ValueError for a part that cannot be read, a label without a frame at its time, lists that do not divide into
        `steps`, and, unless there may be `holes`, numbers that are not finite.
        """
        place = {row.clip_id: run for run, row in enumerate(clips.rows)}
        found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        for path in part_paths(folder):
            try:
                table = pq.read_table(path, columns=["clip_id", "t_s", column])
                runs = np.asarray([place.get(name, -1) for name in table.column("clip_id").to_pylist()], np.int64)
                known = runs >= 0
                if known.any():
                    kept, runs = table.filter(pa.array(known)), runs[known]
                    t_s = column_array(kept.column("t_s"), np.float64)[:, 0]
                    found.append((_join(clips, runs, t_s, folder, job), runs, _values(kept, column, steps, holes)))
            except (OSError, KeyError, pa.ArrowException) as error:
                if machine_trouble(error):
                    raise
                raise ValueError(
                    f"{path} cannot be read ({describe(error)}); write it again with giza {job}"
                ) from error
        if not found:
            nothing = np.zeros(0, np.int64)
            return cls(nothing, nothing, np.zeros((0, steps, 0), np.float32), facts)
        rows, runs, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(rows, kind="stable")
        order = order[clips.table.valid[rows[order]].any(1)]
        return cls(rows[order], runs[order], values[order], facts)

    def exchanged(self, order: NDArray[np.int64]) -> Labels:
        """Each frame with the label that is number `order` [N]."""
        known = self.known if self.known is None or self.known.ndim == 1 else self.known[order]
        return replace(self, values=self.values[order], known=known)


def exchanged(runs: NDArray[np.int64], seed: int, texts: Sequence[str] | None = None) -> NDArray[np.int64]:
    """For each label the number [N] of another one, of another clip, as a control: what a label says of its frame is then gone,
    the distribution is not. `runs`: clip of each label, [N].

    `texts`, of the clips: the other one is of the same text: what labels say of their task is left, what they say of the
    moment is gone. Where one clip holds more than half of its text's labels, some of the others are used twice. Raises ValueError
    where one clip holds more than half of all, with `texts` for labels of clips without a text, and of the only clip of one.
    """
    rng = np.random.default_rng(seed)
    if texts is None:
        count, largest = len(runs), _largest_clip(runs)
        if 2 * largest > count:
            raise ValueError(
                f"{largest} of {count} labels are of one clip: there are not enough others to exchange them with; add clips"
            )
        return _of_other_clips(runs, rng)
    text_of = np.asarray(texts, np.object_)[runs]
    found = np.empty(len(runs), np.int64)
    for text in sorted(set(text_of.tolist())):
        of_text = np.flatnonzero(text_of == text)
        clips = len(np.unique(runs[of_text]))
        if not text.strip():
            raise ValueError(
                f'{len(of_text)} labels are of clips without a text: shuffled = "within_text" needs one for each '
                'clip; say shuffled = "over_clips", or give the clips texts'
            )
        if clips < 2:
            raise ValueError(
                f"the {len(of_text)} labels of '{text}' are of one clip: there is no other of this text to exchange "
                'them with; add clips of it, leave it out, or say shuffled = "over_clips"'
            )
        found[of_text] = of_text[_of_other_clips(runs[of_text], rng)]
    return found


def _largest_clip(runs: NDArray[np.int64]) -> int:
    """Labels of the clip that has most."""
    return int(np.bincount(runs).max(initial=0)) if len(runs) else 0


def _of_other_clips(runs: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """For each label, one of another clip: each once, where no clip holds more than half of them."""
    # In random order clip by clip; moved on by the largest clip, each lands in another one.
    clip_order = rng.permutation(int(runs.max(initial=0)) + 1)
    order = np.lexsort((rng.random(len(runs)), clip_order[runs]))
    found = np.empty(len(runs), np.int64)
    found[order] = np.roll(order, _largest_clip(runs))
    for stuck in np.flatnonzero(runs[found] == runs).tolist():  # those of a clip that is more than half
        found[stuck] = rng.choice(np.flatnonzero(runs != runs[stuck]))
    return found


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


def held(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, steps, dim] without holes: the number of the step before, at the beginning of the step after; NaN is left where a dimension
    is known at no step."""
    found = values
    for order in (slice(None), slice(None, None, -1)):
        steps = np.arange(values.shape[1])[None, :, None]
        last = np.maximum.accumulate(np.where(np.isfinite(found[:, order]), steps, 0), axis=1)
        found = np.take_along_axis(found[:, order], last, axis=1)[:, order]
    return found


def _values(table: pa.Table, column: str, steps: int, holes: bool) -> NDArray[np.float32]:
    flat = column_array(table.column(column), np.float32)
    if steps < 1 or not flat.shape[1] or flat.shape[1] % steps:
        raise ValueError(f"tokens {steps}: labels of {flat.shape[1]} numbers do not divide into so many")
    if not holes and not np.isfinite(flat).all():
        raise ValueError("numbers that are not finite: the model that made them is broken")
    return flat.reshape(len(flat), steps, -1)


def tokens_of_latents(folder: Path) -> int:
    """Tokens of one latent, as _extract.json or the configuration of its model says. Raises ValueError where the folder holds
    no finished extraction, or neither says it."""
    summary = read_record(folder, EXTRACTED)
    if summary is None:
        raise ValueError(f"'{folder}' holds no finished extraction; make one with: giza extract --out {folder}")
    config = Path(str(summary.get("lam", ""))).expanduser() / "config.json"
    try:
        return int(str(summary["tokens"] if "tokens" in summary else json.loads(config.read_text("utf-8"))["tokens"]))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"'{folder}' does not say how many tokens a latent has, and {config} cannot be read; extract again"
        ) from error


def list_width(paths: Sequence[Path], column: str) -> int:
    """Length of the lists of a column, by its first row; 0 where there is no row."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            return len(next(file.iter_batches(batch_size=1, columns=[column])).column(0)[0].as_py())
    return 0
