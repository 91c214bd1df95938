"""One row of latents from elsewhere, whatever file it lay in: the one form in which all formats give theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
NO_GAP = "has no gap_s"
NAMES = {
    "video": ("video", "source"),
    "clip": ("clip", "clip_id"),
    "t_s": ("t_s",),
    "gap_s": ("gap_s",),
    "vector": ("vector", "latent"),
    "quantized": ("quantized",),
    "codes": ("codes",),
}
"""What a column may be called, the first in front."""


@dataclass(frozen=True, slots=True)
class Row:
    """A pair by its video (or clip) and time, and what was made of it."""

    where: str
    """In the file: "line 12"."""
    video: str
    """Path or name; empty where `clip` says more."""
    clip: str
    """clip_id of the corpus."""
    t_s: float
    """Time of the first frame in its video."""
    gap_s: float
    vector: Vector | None
    codes: NDArray[np.int64] | None
    quantized: Vector | None = None
    """The codes' own vectors, where they are told."""


class Bad(NamedTuple):
    """A row that is of no use."""

    where: str
    reason: str
    """The same text for the same kind of fault."""
    detail: str = ""


def row_of(where: str, record: Mapping[str, Any], gap_s: float) -> Row | Bad:
    """Of a record that has the columns of `NAMES`; `gap_s`: of rows that have none. What its numbers are worth is checked here,
    whether they go with other rows and with the corpus elsewhere."""
    found = {name: _first(record, known) for name, known in NAMES.items()}
    if not (found["video"] or found["clip"]):
        return Bad(where, "names neither a video nor a clip")
    if found["gap_s"] is None and not gap_s:
        return Bad(where, NO_GAP)
    times = {"t_s": found["t_s"], "gap_s": found["gap_s"] if found["gap_s"] is not None else gap_s}
    for name, value in times.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return Bad(where, f"has a {name} that is no number", str(value)[:40])
    if times["gap_s"] <= 0:
        return Bad(where, "has a gap_s that is not above 0", f"{times['gap_s']:g}")
    try:
        vector, quantized = _floats(found["vector"]), _floats(found["quantized"])
        codes = _codes(found["codes"])
    except (TypeError, ValueError) as error:
        return Bad(where, "has numbers that cannot be read", str(error)[:80])
    if vector is None and codes is None:
        return Bad(where, "has neither a vector nor codes")
    if any(part is not None and not np.isfinite(part).all() for part in (vector, quantized)):
        return Bad(where, "has a vector that is not finite")
    clip, video = str(found["clip"] or ""), str(found["video"] or "")
    return Row(where, video, clip, float(times["t_s"]), float(times["gap_s"]), vector, codes, quantized)


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _floats(value: Any) -> Vector | None:
    """Of a list of numbers, however nested; None where there is none."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"a vector of {array.dtype}")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is told
        flat = np.asarray(array, np.float32).ravel()
    return flat if len(flat) else None


def _codes(value: Any) -> NDArray[np.int64] | None:
    """Of whole numbers from 0; LAPA writes them as texts."""
    if value is None:
        return None
    array = np.asarray(value).ravel()
    if not len(array):
        return None
    numbers = array.astype(np.float64)
    if not (np.isfinite(numbers) & (numbers == np.floor(numbers)) & (numbers >= 0) & (numbers < 2**31)).all():
        raise ValueError(f"codes {array.tolist()[:4]} are no whole numbers from 0")
    return numbers.astype(np.int64)
