"""From staged sources to the corpus, in the order of the sources, so that the bytes do not depend on who staged what when.

It follows the staging: as far as all sources are staged, their clips go into shards. When a shard is closed, the rows up to
there are kept as a part, and the sources that lie wholly before it are removed from staging. Killed, it goes on behind the
last part. Behind a source that is to be tried again nothing is final: its clips may come in between.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import MANIFEST, SHARDS
from corpora.clips.manifest import ClipRow, ManifestWriter
from corpora.clips.shards import ShardWriter, shard_name
from corpora.clips.survey import Counts
from corpora.ingestion.settings import IngestSettings
from corpora.ingestion.staged import RETRY, StagedClip, read_sources, read_staged, staged_path
from corpora.sources.source import Source
from corpora.store.files import json_lines, put_in_place, read_json, write_json
from corpora.video.duplicates import Candidate, DuplicateIndex

PARTS = "parts"


@dataclass(frozen=True)
class Place:
    """How far an assembly has come for good."""

    parts: int = 0
    """Shards that are closed, each with its part."""
    sources: int = 0
    """All of whose rows are in them."""
    rows: int = 0
    """Of the source that follows."""

    @staticmethod
    def found(staging: Path, out: Path) -> Place:
        """The last one whose sources are still the first of those listed; nothing is changed."""
        place, digest, passed = Place(), hashlib.blake2b(digest_size=16), 0
        sources = read_sources(staging)
        while (record := read_json(_place_path(staging, place.parts))) is not None:
            reached = record["sources"] + (record["rows"] > 0)
            for source in itertools.islice(sources, reached - passed):
                digest.update(_line(source))
            passed = reached
            if record["digest"] != digest.hexdigest() or not (out / SHARDS / shard_name(place.parts)).exists():
                break
            place = Place(place.parts + 1, record["sources"], record["rows"])
        return place


class Assembly:
    """Writes shards and manifest. An exception leaves what a later one, begun at `Place.found`, goes on from."""

    def __init__(self, staging: Path, out: Path, settings: IngestSettings, place: Place) -> None:
        """What lies behind `place` is removed."""
        self.sources, self._skipped = place.sources, place.rows
        self._staging, self._out = staging, out
        self._index = DuplicateIndex(settings.duplicates)
        self._next: Source | None = None
        self._row = 0
        self._final = True
        _clear(staging / PARTS, out / SHARDS, place.parts)
        for record in self._records():
            if "embedding" in record:
                self._index.add(
                    _candidate(ClipRow.from_json(record["row"]), record["truth"]), _unpacked(record["embedding"])
                )
        self._waiting, self._given_back = read_sources(staging), read_sources(staging)
        self._digest = hashlib.blake2b(digest_size=16)
        for source in itertools.islice(self._waiting, self.sources):
            self._digest.update(_line(source))
        self._freed = 0
        self._give_back()
        self._shards = ShardWriter(out / SHARDS, settings.shard_mb, first=place.parts)
        self._part = place.parts
        self._rows = self._open_part.open("w", encoding="utf-8")

    def advance(self) -> None:
        """Adds the sources that come next, up to one that is not staged."""
        while (source := self._following()) is not None and (path := staged_path(self._staging, source)).exists():
            self._add_source(source, path, undecided=False)

    def complete(self) -> Iterator[int]:
        """Adds all that are left, those that are to be tried again, too; yields how many there are so far."""
        while (source := self._following()) is not None:
            path = staged_path(self._staging, source)
            undecided = not path.exists()
            self._final &= not undecided
            self._add_source(source, staged_path(self._staging, source, RETRY) if undecided else path, undecided)
            yield self.sources

    def _following(self) -> Source | None:
        self._next = self._next or next(self._waiting, None)
        return self._next

    def _add_source(self, source: Source, path: Path, undecided: bool) -> None:
        for self._row, clip in enumerate(read_staged(path)):
            if self._row >= self._skipped:
                self._add(clip, undecided)
        self._digest.update(_line(source))
        self._next, self._row, self._skipped = None, 0, 0
        self.sources += 1

    def finish(self) -> dict[str, Any]:
        """Writes the manifest, when all sources are added; returns the counts."""
        self._shards.close()
        self._rows.close()
        counts = Counts()
        counts.sources = self.sources
        with ManifestWriter(self._out / MANIFEST) as manifest:
            for record in self._records():
                row = ClipRow.from_json(record["row"])
                counts.retry.update([row.reason] if record["undecided"] else [])
                manifest.append(row)
                counts.add(row)
                if row.kept:
                    truth = record["truth"]
                    counts.add_truth(row, truth.get("truth_features", {}), truth.get("truth_note", ""))
        return counts.to_json()

    def __enter__(self) -> Assembly:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._rows.close()
        self._shards.__exit__(kind, error, trace)

    def _add(self, staged: StagedClip, undecided: bool) -> None:
        """Writes a clip unless an earlier one shows the same."""
        row = staged.row
        record: dict[str, Any] = {"undecided": undecided}
        if row.kept and staged.embedding is not None:
            truth = {name: value for name, value in staged.extra.items() if name.startswith("truth_")}
            candidate = _candidate(row, truth)
            twin = self._index.find(candidate, staged.embedding)
            if twin is not None:
                detail = f"of {twin[0]}, similarity {twin[1]:.3f}"
                row = dataclasses.replace(row, kept=False, reason="near_duplicate", detail=detail)
            else:
                self._index.add(candidate, staged.embedding)
                row = self._stored(staged)
                record |= {"truth": truth, "embedding": base64.b64encode(staged.embedding.tobytes()).decode()}
        self._rows.write(json.dumps({"row": dataclasses.asdict(row), **record}) + "\n")

    def _stored(self, staged: StagedClip) -> ClipRow:
        """Its row, with its place in the shards."""
        extra = {name: value for name, value in staged.extra.items() if not name.startswith("truth_")}
        members = {"mp4": staged.members["mp4"], "json": b"", "camera.npz": staged.members["camera.npz"]}
        if "truth.npz" in staged.members:
            members["truth.npz"] = staged.members["truth.npz"]
        shard, number = self._shards.place(members)
        if shard != shard_name(self._part) and self._final:
            self._close_part()
        row = dataclasses.replace(staged.row, shard=shard, index_in_shard=number)
        members["json"] = json.dumps({**dataclasses.asdict(row), **extra}).encode()
        self._shards.write(row.clip_id, members)
        return row

    def _close_part(self) -> None:
        """A shard is closed, and no clip of it will change."""
        self._rows.close()
        put_in_place(self._open_part, _part_path(self._staging, self._part))
        digest = self._digest.copy()
        if self._row and self._next is not None:
            digest.update(_line(self._next))
        place = {"sources": self.sources, "rows": self._row, "digest": digest.hexdigest()}
        write_json(_place_path(self._staging, self._part), place)
        self._part += 1
        self._rows = self._open_part.open("w", encoding="utf-8")
        self._give_back()

    def _give_back(self) -> None:
        for source in itertools.islice(self._given_back, self.sources - self._freed):
            staged_path(self._staging, source).unlink(missing_ok=True)
        self._freed = self.sources

    @property
    def _open_part(self) -> Path:
        return self._staging / PARTS / "open.jsonl"

    def _records(self) -> Iterator[dict[str, Any]]:
        """Of all rows so far, one in memory at a time."""
        for path in (*sorted((self._staging / PARTS).glob("[0-9]*.jsonl")), self._open_part):
            if path.exists():
                yield from (record for _, record in json_lines(path))


def _clear(parts: Path, shards: Path, number: int) -> None:
    """Leaves but the first `number` parts and shards."""
    parts.mkdir(parents=True, exist_ok=True)
    shards.mkdir(parents=True, exist_ok=True)
    kept = {f"{each:06d}{suffix}" for each in range(number) for suffix in (".jsonl", ".json")}
    kept |= {shard_name(each) for each in range(number)}
    for path in (*parts.iterdir(), *shards.iterdir()):
        if path.name not in kept:
            path.unlink() if not path.is_dir() else shutil.rmtree(path)


def _part_path(staging: Path, number: int) -> Path:
    return staging / PARTS / f"{number:06d}.jsonl"


def _place_path(staging: Path, number: int) -> Path:
    """Written after the part, which is whole where this is."""
    return staging / PARTS / f"{number:06d}.json"


def _line(source: Source) -> bytes:
    return json.dumps(source.to_json()).encode()


def _candidate(row: ClipRow, truth: dict[str, Any]) -> Candidate:
    return Candidate(row.clip_id, row.group, row.start_s, row.end_s, str(truth.get("truth_digest", "")))


def _unpacked(embedding: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(embedding), np.float32)
