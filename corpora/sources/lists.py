"""JSONL lists: one video, or one stretch of a video, a line, with its text, tier, embodiment and rate of recording."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpora.sources.source import File, Source, SourceDefaults, SourceKind, check_tier, register
from corpora.store.files import json_lines
from corpora.store.remote import at_hand, local, url_of

_FIELDS = {"path", "start", "end", "start_s", "end_s", "text", "tier", "embodiment", "fps"}


@register
class Lists(SourceKind):
    """Paths are relative to the list, times in seconds as a player counts them, which is as `ffmpeg -ss` does; where `fps` is
    given, as they were recorded, from the first frame."""

    rank = 50
    only_named = True

    def recognises(self, path: Path) -> bool:
        return path.suffix.lower() == ".jsonl" and not os.path.isdir(path)

    def root(self, path: Path) -> Path:
        """Its videos are named as if their folder were the input."""
        return path.parent

    def sources(self, path: Path, name: str, defaults: SourceDefaults) -> Iterator[Source]:
        """Raises ValueError for a line that is wrong, with its number."""
        for number, record in json_lines(path):
            yield _source(record, path.parent, name.rpartition("/")[0], f"{path} line {number}")


def _source(record: Any, folder: Path, prefix: str, where: str) -> Source:
    """`prefix`: what the names of videos in `folder` begin with."""
    if not isinstance(record, dict) or not isinstance(record.get("path"), str):
        raise ValueError(f'{where}: {str(record)[:80]} has no "path"; write {{"path": "video.mp4", ...}}')
    unknown = set(record) - _FIELDS
    if unknown:
        raise ValueError(f"{where}: unknown fields {sorted(unknown)}; known: {sorted(_FIELDS)}")
    start, end = (record.get(name, record.get(f"{name}_s")) for name in ("start", "end"))
    for label, value in (("start", start), ("end", end)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise ValueError(f"{where}: {label} {value!r} is no time; give seconds from the video's beginning")
    if end is not None and end <= (start or 0):
        raise ValueError(f"{where}: end {end} is not after start {start or 0}; give both in seconds")
    fps = record.get("fps") or 0.0
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 <= fps < math.inf:
        raise ValueError(f"{where}: fps {fps!r} is no rate; give frames a second as they were recorded")
    tier = str(record.get("tier") or "")
    check_tier(tier, where)
    path = Path(os.path.abspath(folder / os.path.expanduser(local(record["path"]))))
    if url_of(path):
        _looked_at(url_of(path.parent))
    name = "/".join((*filter(None, [prefix]), *path.relative_to(folder).parts)) if folder in path.parents else str(path)
    return Source(
        name=name,
        group=name,
        media=File.at(path),
        span_s=(float(start or 0.0), None if end is None else float(end)),
        fps=float(fps),
        text=str(record.get("text") or ""),
        tier=tier,
        embodiment=str(record.get("embodiment") or ""),
    )


@functools.lru_cache(maxsize=1024)
def _looked_at(url: str) -> None:
    """A list's videos are looked for folder by folder: the store is not asked once a line."""
    at_hand(url)
