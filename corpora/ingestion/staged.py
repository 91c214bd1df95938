"""Staging: what was made of each source, on its own, until the corpus is assembled.

A tar under the source's key, written to a temporary name and moved into place: a source is staged whole or not at all.
Beside those that are done lie those that are to be tried again, with what went wrong this time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.clips.manifest import ClipRow
from corpora.clips.shards import add_member, open_for_writing
from corpora.sources.source import Source
from corpora.store.files import as_utf8, json_lines, put_in_place
from corpora.store.remote import here

ROWS = "rows.jsonl"
SOURCES = "sources.jsonl"
DONE = "done"
RETRY = "retry"
TEMPORARY = "tmp"


@dataclass(frozen=True)
class StagedClip:
    """A candidate as it lies in staging."""

    row: ClipRow
    extra: dict[str, Any]
    """t_s, frame_index, codec facts and the dimensions of the ground truth; empty for dropped rows."""
    members: dict[str, bytes]
    embedding: NDArray[np.float32] | None


def read_sources(staging: Path) -> Iterator[Source]:
    """All that are listed, in order, one in memory at a time."""
    for _, record in json_lines(staging / SOURCES):
        yield Source.from_json(record)


def staged_path(staging: Path, source: Source, state: str = DONE) -> Path:
    """Two levels, so that no folder holds a million files. `state`: DONE or RETRY."""
    key = source.key
    return staging / state / key[:2] / f"{key}.tar"


def is_staged(staging: Path, source: Source) -> bool:
    """Whether a source's tar is there and whole; one that is not (the machine crashed, the disk was full) is removed."""
    path = staged_path(staging, source)
    if not path.exists():
        return False
    here(path)
    try:
        with tarfile.open(path, "r:") as tar:
            rows = tar.extractfile(ROWS)  # the last that is written
            if rows is not None and rows.read():
                return True
    except (tarfile.TarError, KeyError, OSError):
        pass
    path.unlink()
    return False


def stage_fault(source: Source, staging: Path, reason: str, detail: str, state: str = DONE) -> None:
    """Records a source that cannot be used, for good or this time."""
    with StagedWriter(staging, source, state) as writer:
        writer.add(fault_row(source, reason, detail))


def fault_row(source: Source, reason: str, detail: str) -> ClipRow:
    """The one row of a source of which nothing was used."""
    start = source.start_s - source.origin_s
    end = start if math.isinf(source.end_s) else source.end_s - source.origin_s
    return ClipRow(
        clip_id=short_digest("fault", source.name, source.selector, f"{start:.6f}", reason),
        source=source.name,
        group=source.group,
        start_s=start,
        end_s=end,
        tier=source.tier,
        embodiment=source.embodiment,
        text=source.text,
        reason=reason,
        detail=as_utf8(detail),
    )


def short_digest(*parts: str) -> str:
    """16 hex digits."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def read_staged(path: Path) -> Iterator[StagedClip]:
    """What was staged for one source, in order, one clip in memory at a time."""
    with tarfile.open(here(path), "r:") as tar:
        infos = {info.name: info for info in tar.getmembers()}

        def data(name: str) -> bytes:
            file = tar.extractfile(infos[name])
            assert file is not None
            return file.read()

        for line in data(ROWS).split(b"\n"):
            record = json.loads(line)
            row = ClipRow.from_json(record["row"])
            names = record["members"]
            members = {name: data(f"{row.clip_id}.{name}") for name in names}
            raw = members.pop("embedding", None)
            yield StagedClip(row, record["extra"], members, None if raw is None else np.frombuffer(raw, np.float32))


class StagedWriter:
    """The tar being written; an exception leaves nothing of it."""

    def __init__(self, staging: Path, source: Source, state: str = DONE) -> None:
        self._final = staged_path(staging, source, state)
        self.staging = staging

    def __enter__(self) -> StagedWriter:
        descriptor, name = tempfile.mkstemp(dir=self.staging / TEMPORARY, suffix=".tar")
        os.close(descriptor)
        self._temporary = Path(name)
        self._begin()
        return self

    def start_again(self) -> None:
        """Forgets what was added."""
        self._tar.close()
        self._begin()

    def _begin(self) -> None:
        self._tar = open_for_writing(self._temporary)
        self.rows: list[ClipRow] = []
        """What was added."""
        self._lines: list[str] = []

    def add(self, row: ClipRow, members: dict[str, bytes] | None = None, extra: dict[str, Any] | None = None) -> None:
        members = members or {}
        for suffix, data in members.items():
            add_member(self._tar, f"{row.clip_id}.{suffix}", data)
        record = {"row": dataclasses.asdict(row), "members": list(members), "extra": extra or {}}
        self._lines.append(json.dumps(record))
        self.rows.append(row)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            add_member(self._tar, ROWS, "\n".join(self._lines).encode())
            self._tar.close()
            self._final.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(self._temporary, self._final)
        else:
            with contextlib.suppress(OSError):  # on a full disk the end of a tar cannot be written either
                self._tar.close()
            self._temporary.unlink(missing_ok=True)


def clear_unfinished(staging: Path) -> None:
    """Removes what a killed run left half written, and what an earlier one could not do; makes the folder anew."""
    for folder in (staging / TEMPORARY, staging / RETRY):
        shutil.rmtree(folder, ignore_errors=True)
    (staging / TEMPORARY).mkdir(parents=True, exist_ok=True)
