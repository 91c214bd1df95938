"""A corpus in which another agent acts, made of a corpus and its tracks, part by part, so that a killed job goes on.

OUT/ingest.json, manifest.parquet, shards/   a corpus as `giza ingest` leaves one, with the same clips and ids; a shard a part
    tracks/                                  where the new agent is, as `giza track` leaves it
    painting/part-000000.parquet             a row for each painted frame: what is drawn, and what is behind it
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.agent.cutouts import group_ends, progress_of
from corpora.agent.painting import Painted, Painter, Shown
from corpora.agent.settings import CrosspaintSettings
from corpora.agent.track import Progress, Track, Untracked
from corpora.agent.tracks import SUMMARY as TRACK_SUMMARY
from corpora.agent.tracks import Tracks, seen_of, track_table, write_clips
from corpora.clips.corpus import DAMAGE, MANIFEST, SHARDS, Corpus, StoredClip, identity_of
from corpora.clips.manifest import ClipRow, ManifestWriter
from corpora.clips.parts import (
    Part,
    PartKey,
    PartSummary,
    SkippedClip,
    finished_parts,
    part_paths,
    plan_parts,
    required,
    write_part,
)  # fmt: skip
from corpora.clips.shards import add_member, open_for_writing
from corpora.clips.survey import Counts
from corpora.store.files import digest_of, write_json, written_whole
from corpora.store.told import faults_told
from corpora.video.encode import encode_clip

log = logging.getLogger(__name__)

FORMAT = 3
"""Raised when the same settings would give other bytes; 1 had each cut-out's own depth, 2 rows without a scale."""
TRACKS, PAINTING = "tracks", "painting"
APART = 0.1
"""Of the mask: a part of it that is larger and lies apart from the agent's own may be another person's."""
FAR = 0.1
"""Of the image's side: cut-outs that are moved further are told, for the robot's demonstrations do not reach there."""
DAMAGED = "decode_error"
SCHEMA = required(
    clip_id=pa.string(),
    frame=pa.int32(),
    t_s=pa.float64(),
    **dict.fromkeys(("hidden_px", "before_px", "drawn_px", "apart_px"), pa.int32()),
    point=pa.bool_(),
    cutout=pa.string(),
    **dict.fromkeys(("shift_px", "scale"), pa.float32()),
)
"""hidden: of the old agent; before: of it, filled with what was seen there before, the rest being inpainted; drawn: of the new
agent, from `cutout` (clip and frame of the robot's corpus), moved by shift_px and `scale` times as large; apart: of the
mask, in other parts than the one at the point."""


@dataclass(frozen=True)
class Crosspaint:
    """A corpus that is being painted."""

    corpus: Corpus
    tracks: Tracks
    painter: Painter
    settings: CrosspaintSettings
    config: dict[str, Any]
    """"config" of the new ingest.json, all that decides the bytes."""
    out: Path
    part_frames: int

    @property
    def key(self) -> PartKey:
        return PartKey(
            digest_of(json.dumps(self.config, sort_keys=True)), self.corpus.identity, self.part_frames, FORMAT
        )

    def run(self, progress: Progress) -> dict[str, Any]:
        """Paints the parts that are missing, and writes manifest and tracks; returns what ingest.json says beside the
        config, with "painting": what was painted, and why the rest was not.

        Raises ValueError where `out` holds parts of something else.
        """
        plan = plan_parts(self.corpus.clips, self.part_frames)
        for folder in (SHARDS, TRACKS, PAINTING):
            (self.out / folder).mkdir(exist_ok=True)
        done = finished_parts(self.out / PAINTING, plan, self.key)
        clips = 0
        for part in plan:
            if part.index not in done:
                done[part.index] = self._paint_part(part)
            clips += len(part.rows)
            painted = sum(found.clips for found in done.values())
            progress(clips, len(self.corpus.clips), f"painting: {painted} clips painted")
        skipped = {each["clip_id"]: each for found in done.values() for each in found.skipped}
        for fate in ("left out", "kept as they are"):
            those = [each for each in skipped.values() if self.left_out(each["reason"]) == (fate == "left out")]
            if those:
                told = faults_told(
                    (f"clip {each['clip_id']} of '{each['source']}'", f"{each['reason']}: {each['detail']}")
                    for each in those
                )
                log.warning("clips that are not painted and %s: %s", fate, told)
        return self._finish(plan, skipped)

    def left_out(self, reason: str) -> bool:
        """Whether a clip that is not painted for this reason is no part of the new corpus."""
        return reason == DAMAGED or self.settings.untracked == "drop"

    def _paint_part(self, part: Part) -> PartSummary:
        """The shard first, and the rows of how it was painted last: where they are, all is."""
        stored, painted = [], []
        skipped: list[SkippedClip] = []
        ends = group_ends(self.corpus.clips)
        for clip in self.corpus.stored([row.clip_id for row in part.rows]):
            try:
                members, found, track = self._paint_clip(clip, ends)
            except Untracked as fault:
                skipped.append(SkippedClip(clip.row, fault.reason, fault.detail))
                if not self.left_out(fault.reason):
                    stored.append((clip.row, dict(clip.members)))
                continue
            stored.append((clip.row, members))
            painted.append((clip.row, clip.t_s, found, track))
        if stored:
            self._write_shard(part, stored)
        tracks = track_table([(row, t_s, track) for row, t_s, _, track in painted])
        write_part(self.out / TRACKS, part, self.key, tracks, skipped)
        return write_part(self.out / PAINTING, part, self.key, _table(painted), skipped)

    def _paint_clip(
        self, clip: StoredClip, ends: dict[str, tuple[float, float]]
    ) -> tuple[dict[str, bytes], Painted, Track]:
        """Raises Untracked where it cannot be painted."""
        row, known = clip.row, self.tracks.clips[clip.row.clip_id]
        if row.clip_id not in self.tracks:
            raise Untracked("no_track", f"{known.reason}: {known.detail}".strip(": "))
        if known.seen_share < self.settings.min_seen or not known.seen:
            share = f"{known.seen} of {known.frames} frames, {known.seen_share:.0%}"
            raise Untracked("seen_too_little", f"the agent is seen in {share}; --min-seen {self.settings.min_seen:g}")
        try:
            frames, t_s = clip.frames(), clip.t_s
        except DAMAGE as error:
            raise Untracked(DAMAGED, f"{type(error).__name__}: {error}") from error
        track = self.tracks[row.clip_id]
        self.painter.begin()
        shown = Shown(t_s, progress_of(row, t_s, ends), row.text)
        try:
            painted = self.painter.paint(frames, track, shown)
        except ValueError as error:
            raise Untracked("track_size", str(error)) from error
        made = self.corpus.summary.get("config", {}).get("settings", {})
        mp4 = encode_clip(
            list(painted.frames), t_s - t_s[0], crf=int(made.get("crf", 16)), gop=int(made.get("gop", 16))
        )
        return {**clip.members, "mp4": mp4}, painted, carried(track, painted)

    def _write_shard(self, part: Part, clips: list[tuple[ClipRow, dict[str, bytes]]]) -> None:
        name = _shard_name(part)
        with written_whole(self.out / SHARDS / name) as temporary, open_for_writing(temporary) as tar:
            for index, (row, members) in enumerate(clips):
                placed = dataclasses.replace(row, shard=name, index_in_shard=index)
                facts = json.loads(members["json"]) | dataclasses.asdict(placed)
                for suffix, data in {**members, "json": json.dumps(facts).encode()}.items():
                    add_member(tar, f"{row.clip_id}.{suffix}", data)

    def _finish(self, plan: list[Part], skipped: dict[str, dict[str, str]]) -> dict[str, Any]:
        out = {name for name, each in skipped.items() if self.left_out(each["reason"])}
        places = {
            row.clip_id: (_shard_name(part), index)
            for part in plan
            for index, row in enumerate(row for row in part.rows if row.clip_id not in out)
        }
        counts = Counts()
        with ManifestWriter(self.out / MANIFEST) as manifest:
            for row in self.corpus.rows():
                if row.clip_id in places and row.kept:
                    shard, index = places[row.clip_id]
                    row = dataclasses.replace(row, shard=shard, index_in_shard=index)
                elif row.kept:
                    why = skipped[row.clip_id]
                    row = dataclasses.replace(
                        row, kept=False, reason=why["reason"], detail=why["detail"], shard="", index_in_shard=-1
                    )
                manifest.append(row)
                counts.add(row)
        counts.sources = int(self.corpus.summary.get("sources", 0))
        counts.truth_features = self.corpus.truth_features
        noted = self.corpus.summary.get("truth_notes", {"clips": 0, "first": ""})
        counts.noted, counts.note = noted["clips"], noted["first"]
        kept = [row for row in self.corpus.clips if row.clip_id in places]
        self._finish_tracks(kept, skipped)
        return {
            **counts.to_json(),
            "files_skipped": {},
            "painting": {
                "agent": self.painter.agent.name,
                "clips": len(self.corpus.clips),
                "painted_clips": len(self.corpus.clips) - len(skipped),
                "kept_as_they_are": len(skipped) - len(out),
                "left_out": len(out),
                "reasons": dict(Counter(each["reason"] for each in skipped.values())),
                **_measured(self.out / PAINTING, self.corpus.clips[0].size),
                "skipped": list(skipped.values())[:100],
            },
        }

    def _finish_tracks(self, kept: list[ClipRow], skipped: dict[str, dict[str, str]]) -> None:
        lost = {name: (each["reason"], each["detail"]) for name, each in skipped.items()}
        summary = {
            "source": f"crosspaint: {self.painter.agent.name}",
            "corpus": str(self.out),
            "corpus_identity": identity_of(self.config, [row.clip_id for row in kept]),
            "size": self.corpus.clips[0].size,
            "fit": self.corpus.fit,
            **seen_of(write_clips(self.out / TRACKS, kept, lost)),
        }
        write_json(self.out / TRACKS / TRACK_SUMMARY, summary)


def carried(track: Track, painted: Painted) -> Track:
    """The track of what was painted: the point as it was, the mask of the new agent (of nobody: where the old one was), depth
    and position of a cut-out where it is one."""
    if all(stamp is None for stamp in painted.stamps):
        return track
    cut = np.array([stamp is not None and bool(stamp.cutout) for stamp in painted.stamps])
    depth, position = track.depth_m.copy(), track.position_m.copy()
    if cut.any():
        depth[:], position[:] = np.nan, np.nan
        for frame in np.flatnonzero(cut).tolist():
            stamp = painted.stamps[frame]
            assert stamp is not None
            depth[frame], position[frame] = stamp.depth_m, stamp.position_m
    return dataclasses.replace(track, mask=painted.mask, depth_m=depth, position_m=position)


def _shard_name(part: Part) -> str:
    return f"clips-{part.index:06d}.tar"


def _table(painted: Iterable[tuple[ClipRow, NDArray[np.float64], Painted, Track]]) -> pa.Table:
    rows = []
    for row, t_s, found, track in painted:
        drawn, point = found.mask.sum((1, 2)), np.asarray(np.isfinite(track.point_px).all(1))
        for frame, stamp in enumerate(found.stamps):
            rows.append(
                {
                    "clip_id": row.clip_id,
                    "frame": frame,
                    "t_s": float(t_s[frame]),
                    "hidden_px": int(found.hidden[frame].sum()),
                    "before_px": int(found.before[frame].sum()),
                    "drawn_px": int(drawn[frame]),
                    "apart_px": apart(found.hidden[frame], track.point_px[frame]),
                    "point": bool(point[frame]),
                    "cutout": "" if stamp is None else stamp.cutout,
                    "shift_px": 0.0 if stamp is None else stamp.shift_px,
                    "scale": 1.0 if stamp is None else stamp.scale,
                }
            )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def apart(mask: NDArray[np.bool_], point_px: NDArray[np.floating]) -> int:
    """Pixels of the mask in parts that do not hold the point (or the pixel nearest to it) and are larger than `APART`."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    if count < 3 or not np.isfinite(point_px).all():
        return 0
    rows, columns = np.nonzero(mask)
    own = int(np.hypot(columns - point_px[0], rows - point_px[1]).argmin())
    sizes = np.bincount(labels[mask], minlength=count)
    sizes[labels[rows[own], columns[own]]] = 0
    return int(sizes[sizes > APART * mask.sum()].sum())


def _measured(folder: Path, size: int) -> dict[str, Any]:
    """Of all painted frames, `size` pixels wide."""
    table = pa.concat_tables([SCHEMA.empty_table(), *(pq.read_table(path) for path in part_paths(folder))])
    column = {name: table[name].to_numpy() for name in SCHEMA.names if name not in ("clip_id", "cutout")}
    cut = np.array([bool(name) for name in table["cutout"].to_pylist()], bool)
    hidden = column["hidden_px"]
    seen = np.asarray(hidden > 0)
    total, shift, scale = max(1, int(hidden.sum())), column["shift_px"][cut], column["scale"][cut]
    return {
        "frames": len(hidden),
        "frames_with_agent": int(seen.sum()),
        "frames_without_point": int((seen & ~column["point"]).sum()),
        "frames_with_parts_apart": int((column["apart_px"] > 0).sum()),
        "background_seen_before": float(column["before_px"].sum() / total),
        "background_inpainted": float(1 - column["before_px"].sum() / total),
        "frames_far": int((shift > FAR * size).sum()),
        "cutouts": len({name for name in table["cutout"].to_pylist() if name}),
        "shift_px": {"median": float(np.median(shift)), "p95": float(np.quantile(shift, 0.95))} if len(shift) else {},
        "scale": {"least": float(scale.min()), "median": float(np.median(scale)), "most": float(scale.max())}
        if len(scale)
        else {},
    }
