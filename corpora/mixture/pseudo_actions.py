"""Pseudo-actions of `giza label` on disk: chunks of a robot's actions that were read off video without actions, by an inverse
dynamics model, from a track, or as a hand moved.

    FOLDER/_label.json            which robot, how many steps, what was measured; written last
           part-000000.parquet    clip_id, t_s, action (the chunk from there on, raw, flattened), steps
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from corpora.clips.parts import list_column, read_footer, read_record, required, write_rows
from corpora.mixture.labels import EmbodimentFacts

SUMMARY = "_label.json"
BY_IMAGES, BY_TRACKS, BY_HANDS = "inverse-dynamics", "track", "hand"
"""What made them, as _label.json and a pyramid file say it."""
SCHEMA = required(clip_id=pa.string(), t_s=pa.float64(), action=pa.list_(pa.float32()), steps=pa.int32())
"""One row a frame that has another a horizon later. action: [steps x dimensions], step after step, in the robot's units; NaN, of
hands alone, is what is not known."""


@dataclass(frozen=True)
class PseudoActionFacts:
    """What _label.json says of the chunks."""

    embodiment: str
    """Whose actions they are."""
    robot: EmbodimentFacts
    """With the action space of that embodiment, fitted on the episodes that the model was trained on; of its cameras the
    first is the one that the model saw."""
    horizon: int
    """Steps of a chunk."""
    corpus: str
    """Identity of the corpus that was labelled."""
    by: str = BY_IMAGES
    unknown: tuple[str, ...] = ()
    """Dimensions of the action of which the chunks tell nothing: a policy's loss leaves them out."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """[Da]: dimensions of which they tell."""
        return np.array([name not in self.unknown for name in self.robot.action_names], np.bool_)


def read_facts(folder: str | Path) -> PseudoActionFacts:
    """Raises ValueError where the folder holds no finished labels."""
    path = Path(folder).expanduser() / SUMMARY
    values = read_record(path.parent, SUMMARY)
    if values is None:
        raise ValueError(f"'{folder}' holds no finished pseudo-actions; make them with: giza label --out {folder}")
    try:
        robot = EmbodimentFacts(
            cameras=tuple(values["cameras"]),
            step_s=float(values["step_s"]),
            action_names=tuple(values["action_names"]),
            codec=dict(values["codec"]),
            from_origin=values.get("by") == BY_HANDS,
        )
        return PseudoActionFacts(
            str(values["embodiment"]),
            robot,
            int(values["horizon"]),
            str(values["corpus_identity"]),
            str(values.get("by", BY_IMAGES)),
            tuple(values.get("unknown", ())),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}); label the corpus again") from error


@dataclass(frozen=True)
class ClipLabels:
    """The chunks of one clip; N of them."""

    clip_id: str
    t_s: NDArray[np.float64]
    """[N], source time of the frame that a chunk begins at."""
    action: NDArray[np.float32]
    """[N, H, Da], raw."""


def write_labels(path: Path, clips: Sequence[ClipLabels], key: Mapping[str, Any]) -> None:
    """One Parquet part, under its name once it is whole; `key` (what decides the rows) is kept in its schema."""
    chunks = [clip.action.reshape(len(clip.action), -1) for clip in clips]
    flat = np.concatenate(chunks) if chunks else np.zeros((0, 0), np.float32)
    steps = [clip.action.shape[1] for clip in clips for _ in clip.t_s]
    columns = {
        "clip_id": [clip.clip_id for clip in clips for _ in clip.t_s],
        "t_s": np.concatenate([np.zeros(0), *(clip.t_s for clip in clips)]),
        "action": list_column(flat.astype(np.float32)),
        "steps": np.asarray(steps, np.int32),
    }
    write_rows(path, pa.table(columns, schema=SCHEMA), json.dumps(dict(key)))


def labels_on_disk(path: Path, key: Mapping[str, Any]) -> int | None:
    """Rows of a part that is there; None where there is none. Raises ValueError for one that is damaged, or of another
    model, corpus or setting than `key` says."""
    if not path.is_file():
        return None
    footer = read_footer(path)
    if differing := [name for name in key if footer.record.get(name) != key[name]]:
        raise ValueError(
            f"{path} holds other labels ({', '.join(differing)} differ); choose another --out, or remove it"
        )
    return footer.rows


def chunks_at(
    frames_s: NDArray[np.float64], t_s: NDArray[np.float64], action: NDArray[np.float32], horizon: int, step_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Times [N] of those frames whose chunk ends within the episode, and the chunks [N, horizon, D]: step k is the action
    of the row (at `t_s`, each lasting until the next) that contains the frame's time + k `step_s`. Raises ValueError for a
    frame that the episode does not have."""
    lasts = float(np.median(np.diff(t_s))) if len(t_s) > 1 else 0.0
    if len(frames_s) and np.abs(t_s[:, None] - frames_s).min(0).max() > 0.5 * lasts:
        raise ValueError(f"frames at {frames_s[0]:.3f} to {frames_s[-1]:.3f} s: the episode has no rows at these times")
    whole = frames_s[frames_s + horizon * step_s <= t_s[-1] + lasts + 1e-6]
    wanted = whole[:, None] + np.arange(horizon) * step_s
    rows = np.searchsorted(t_s, wanted + 1e-3 * step_s, side="right") - 1
    return whole, action[rows.clip(0)]
