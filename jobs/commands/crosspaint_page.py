"""Before and after, side by side, as a self-contained page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.agent.crosspaint import PAINTING, SCHEMA, Crosspaint
from corpora.clips.corpus import DAMAGE, SHARDS, decode_clip, iterate_shard
from corpora.clips.manifest import ClipRow
from corpora.clips.parts import part_paths
from corpora.store.provenance import provenance
from lapa.reporting.page import provenance_rows
from lapa.reporting.page import write_page as write_any_page

TEMPLATE = Path(__file__).with_name("crosspaint.html.j2")
MOMENTS = (0.1, 0.35, 0.65, 0.9)
"""Of a clip's painted frames."""


@dataclass(frozen=True)
class ShownClip:
    """One clip on the page."""

    row: ClipRow
    pairs: list[list[NDArray[np.uint8]]]
    """Before and after, for each moment."""
    times_s: list[float]
    before_share: float
    """Of what was hidden, what was filled with what had been seen before."""
    shift_px: float
    """Median; NaN where nothing was cut out."""
    furthest: bool
    """Chosen because its cut-outs were moved the furthest; the others are taken evenly."""


def write_page(path: Path, painting: Crosspaint, found: dict[str, Any], count: int) -> None:
    """Writes the page of a painting that is done."""
    write_any_page(
        path,
        TEMPLATE,
        painting=found,
        corpus=str(painting.corpus.folder),
        size=painting.corpus.clips[0].size,
        clips=shown_clips(painting, count),
        made=provenance_rows(provenance(), settings=json.dumps(painting.config["settings"]["crosspaint"])),
    )


def shown_clips(painting: Crosspaint, count: int) -> list[ShownClip]:
    """At most `count` of the painted clips, in their order."""
    tables = [pq.read_table(path) for path in part_paths(painting.out / PAINTING)]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    names = np.array(table["clip_id"].to_pylist(), object)
    painted = list(dict.fromkeys(names.tolist()))
    shifts = {}
    for name in painted:
        mine = table.filter(pa.array(names == name))
        moved = mine["shift_px"].to_numpy()[[bool(cut) for cut in mine["cutout"].to_pylist()]]
        shifts[name] = float(np.median(moved)) if len(moved) else np.nan
    far = sorted((name for name in painted if np.isfinite(shifts[name])), key=lambda name: -shifts[name])[: count // 4]
    rest = [name for name in painted if name not in far]
    even = np.linspace(0, len(rest) - 1, min(count - len(far), len(rest))).round().astype(int)
    chosen = {*far, *(rest[place] for place in even)}
    places = {row.clip_id: row for row in painting.corpus.clips}
    found = []
    for name in (name for name in painted if name in chosen):
        mine = table.filter(pa.array(names == name))
        seen = np.flatnonzero(mine["hidden_px"].to_numpy() > 0)
        wanted = sorted({int(seen[round(moment * (len(seen) - 1))]) for moment in MOMENTS})
        try:
            old = next(painting.corpus.stored([name])).frames(wanted)
            new = _painted_frames(painting, name, wanted)
        except DAMAGE:  # the row says so
            continue
        hidden, before = int(mine["hidden_px"].to_numpy().sum()), int(mine["before_px"].to_numpy().sum())
        times = mine["t_s"].to_numpy()[wanted].tolist()
        pairs = [list(pair) for pair in zip(old, new, strict=True)]
        found.append(ShownClip(places[name], pairs, times, before / max(1, hidden), shifts[name], name in far))
    return found


def _painted_frames(painting: Crosspaint, name: str, wanted: list[int]) -> NDArray[np.uint8]:
    for path in sorted((painting.out / SHARDS).glob("*.tar")):
        for _, members in iterate_shard(path, [name], {"mp4"}):
            return decode_clip(members["mp4"], wanted)
    raise KeyError(name)
