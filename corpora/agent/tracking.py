"""Tracks of all clips of a corpus, part by part, so that a killed job goes on where it was."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError

from corpora.agent import files, hands, sam2
from corpora.agent.settings import TrackSettings
from corpora.agent.source import SOURCES, TrackSource
from corpora.agent.track import Progress, Untracked
from corpora.agent.tracks import FORMAT, seen_of, track_table, write_clips
from corpora.clips.corpus import DAMAGE, Corpus
from corpora.clips.parts import Part, PartKey, PartSummary, SkippedClip, finished_parts, plan_parts, write_part
from corpora.store.files import machine_trouble
from corpora.store.told import faults_told
from corpora.store.unread import expect_read

log = logging.getLogger(__name__)

_ABSENT = ("no_hand", "no_agent")
"""Reasons that say what a clip shows, and nothing of how it was tracked."""
BUILT_IN = (files.TrackFiles, hands.HandTracks, sam2.Sam2Mask)
"""Importing them makes them known."""


def open_source(settings: TrackSettings, corpus: Corpus) -> TrackSource:
    """Raises ValueError for a name that no source has, for settings that this one does not read, and as its constructor."""
    if settings.source not in SOURCES:
        raise ValueError(f"--source '{settings.source}': must be one of {', '.join(sorted(SOURCES))}")
    expect_read(settings, "source", SOURCES)
    return SOURCES[settings.source](settings, corpus)


def track_corpus(
    corpus: Corpus, source: TrackSource, out: Path, *, part_frames: int, progress: Progress
) -> dict[str, Any]:
    """Writes the parts that are missing, and _clips.parquet; what _track.json says of them.

    A clip of which nothing is found, or that does not decode, is left out with its reason. Raises ValueError where `out`
    holds tracks of another source or corpus, OSError where the machine cannot read a track now.
    """
    key = PartKey(source.identity, corpus.identity, part_frames, FORMAT)
    plan = plan_parts(corpus.clips, part_frames)
    done = finished_parts(out, plan, key)
    clips = 0
    for part in plan:
        if part.index not in done:
            done[part.index] = _track_part(corpus, source, out, part, key)
        clips += len(part.rows)
        progress(
            clips, len(corpus.clips), f"tracking: {sum(found.clips for found in done.values())} clips with an agent"
        )
    skipped = {each["clip_id"]: (each["reason"], each["detail"]) for found in done.values() for each in found.skipped}
    lacking = [row for row in corpus.clips if row.clip_id in skipped and skipped[row.clip_id][0] not in _ABSENT]
    if lacking:
        told = faults_told(
            (f"clip {row.clip_id} of '{row.source}'", ": ".join(skipped[row.clip_id])) for row in lacking
        )
        log.warning("clips without a track: %s", told)
    table = write_clips(out, corpus.clips, skipped)
    known = [clip for clip in table if clip.seen]
    return {
        **seen_of(table),
        "confidence": float(np.average([clip.confidence for clip in known], weights=[c.seen for c in known]))
        if known
        else 0.0,
        "reasons": dict(Counter(clip.reason for clip in table if clip.reason)),
        "folders": _by_folder([(clip.source, clip.frames, clip.seen) for clip in table]),
        "parts": len(plan),
    }


def _track_part(corpus: Corpus, source: TrackSource, out: Path, part: Part, key: PartKey) -> PartSummary:
    found, skipped = [], []
    for stored in corpus.stored([row.clip_id for row in part.rows]):
        row = stored.row
        try:
            found.append((row, stored.t_s, source.track(stored.decoded())))
        except Untracked as fault:
            skipped.append(SkippedClip(row, fault.reason, fault.detail))
        except DAMAGE as error:
            if machine_trouble(error) and not isinstance(error, FFmpegError):
                raise
            skipped.append(SkippedClip(row, "decode_error", f"{type(error).__name__}: {error}"))
    return write_part(out, part, key, track_table(found), skipped)


def _by_folder(clips: list[tuple[str, int, int]]) -> dict[str, dict[str, float]]:
    """First folder of the sources -> clips, frames, share seen."""
    folders: dict[str, list[tuple[int, int]]] = {}
    for source, frames, seen in clips:
        folders.setdefault(source.partition("/")[0] if "/" in source else "", []).append((frames, seen))
    return {
        name: {
            "clips": len(found),
            "frames": sum(frames for frames, _ in found),
            "seen_share": sum(seen for _, seen in found) / max(1, sum(frames for frames, _ in found)),
        }
        for name, found in sorted(folders.items())
    }
