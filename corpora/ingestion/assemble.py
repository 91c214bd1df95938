"""From staged sources to the corpus: one sequential pass in the order of the sources, so that the bytes do not
depend on who staged what when."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from corpora.clips.corpus import MANIFEST, SHARDS
from corpora.clips.manifest import ClipRow, ManifestWriter
from corpora.clips.shards import ShardWriter
from corpora.clips.survey import Counts
from corpora.ingestion.settings import IngestSettings
from corpora.ingestion.staged import RETRY, StagedClip, read_staged, staged_path
from corpora.sources.source import Source
from corpora.video.duplicates import Candidate, DuplicateIndex


def assemble(
    sources: Iterable[Source],
    staging: Path,
    out: Path,
    settings: IngestSettings,
    on_source: Callable[[], None],
) -> dict[str, Any]:
    """Writes shards and manifest; returns the counts.

    Killed on the way it is simply done again: nothing in staging is changed.
    """
    shutil.rmtree(out / SHARDS, ignore_errors=True)
    index = DuplicateIndex(settings.duplicates)
    counts = Counts()
    with ManifestWriter(out / MANIFEST) as manifest, ShardWriter(out / SHARDS, settings.shard_mb) as writer:
        for source in sources:
            counts.sources += 1
            path = staged_path(staging, source)
            undecided = not path.exists()
            for staged in read_staged(staged_path(staging, source, RETRY) if undecided else path):
                row = _place(staged, writer, index)
                counts.retry.update([row.reason] if undecided else [])
                manifest.append(row)
                counts.add(row)
                if row.kept:
                    counts.add_truth(row, staged.extra.get("truth_features", {}), staged.extra.get("truth_note", ""))
            on_source()
    return counts.to_json()


def _place(staged: StagedClip, writer: ShardWriter, index: DuplicateIndex) -> ClipRow:
    """Writes a clip unless an earlier one shows the same."""
    row = staged.row
    if not row.kept or staged.embedding is None:
        return row
    digest = str(staged.extra.get("truth_digest", ""))
    candidate = Candidate(row.clip_id, row.group, row.start_s, row.end_s, digest)
    twin = index.find(candidate, staged.embedding)
    if twin is not None:
        detail = f"of {twin[0]}, similarity {twin[1]:.3f}"
        return dataclasses.replace(row, kept=False, reason="near_duplicate", detail=detail)
    index.add(candidate, staged.embedding)
    extra = {name: value for name, value in staged.extra.items() if not name.startswith("truth_")}
    members = {"mp4": staged.members["mp4"], "json": b"", "camera.npz": staged.members["camera.npz"]}
    if "truth.npz" in staged.members:
        members["truth.npz"] = staged.members["truth.npz"]
    shard, number = writer.place(members)
    row = dataclasses.replace(row, shard=shard, index_in_shard=number)
    members["json"] = json.dumps({**dataclasses.asdict(row), **extra}).encode()
    writer.write(row.clip_id, members)
    return row
