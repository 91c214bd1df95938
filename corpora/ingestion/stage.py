"""One source from file to staged clips: everything that can be done without looking at other sources.

Staging it again gives the same bytes. What the bytes of the file say is final; what the machine did is not.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.clips.manifest import ClipRow
from corpora.episodes.truth import cut_truth, truth_digest
from corpora.ingestion.known import Known, known_of
from corpora.ingestion.settings import IngestSettings
from corpora.ingestion.staged import TEMPORARY, StagedWriter, fault_row, short_digest
from corpora.ingestion.windows import Window, camera_of, cut_windows
from corpora.ingestion.worker import Heartbeat
from corpora.sources.source import UNREACHABLE, Source
from corpora.store.decode import decode
from corpora.store.files import stamp_of
from corpora.video.camera import median_motion
from corpora.video.decode import DecodingReport, FrameSampler, read_frames
from corpora.video.duplicates import embed_clip
from corpora.video.encode import encode_clip, pack_arrays
from corpora.video.probe import Unusable, VideoFacts, describe, probe
from corpora.video.quality import MEASURE_SIDE
from corpora.video.seek import Disagreement, read_with_decord, unsuited
from corpora.video.shots import label_shots

MIN_FRAMES = 4
"""A window with fewer frames shows no motion, however long it lasts."""
TRUNCATED_S = 0.5
"""A loss at the end that is shorter is no fault."""
HASHED_AT_ONCE = 1 << 24
"""Bytes between two signs of life."""
NO_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What only the output can be at fault for: every source would fail alike."""


class NotNow(Exception):
    """A source that cannot be looked at for reasons of the machine, which say nothing of the video."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def stage_source(task: dict[str, Any], heartbeat: Heartbeat) -> dict[str, Any]:
    """Runs in the isolated worker. task: source, settings, staging, seed; returns counts of rows and seconds, or
    {"retry": reason, "detail": text}. Raises OSError where the output cannot be written."""
    source = Source.from_json(task["source"])
    settings = decode(IngestSettings, task["settings"], what="settings of ingest")
    cv2.setNumThreads(1)  # sources are worked on side by side
    cv2.setRNGSeed(int(task["seed"]))
    try:
        with StagedWriter(Path(task["staging"]), source) as writer:
            _Stager(source, settings, writer, heartbeat).run()
    except NotNow as trouble:
        return {"retry": trouble.reason, "detail": trouble.detail}
    return {"rows": len(writer.rows), "seconds": sum(row.seconds for row in writer.rows)}


@dataclass(frozen=True)
class _Stager:
    """Makes the rows of one source, and adds them to its writer."""

    source: Source
    settings: IngestSettings
    writer: StagedWriter
    heartbeat: Heartbeat
    report: DecodingReport = field(default_factory=DecodingReport)

    def run(self) -> None:
        """Raises NotNow where the machine and not the file is at fault."""
        try:
            try:
                self._stage()
            except Unusable as fault:
                self.writer.start_again()
                self.writer.add(fault_row(self.source, fault.reason, fault.detail))
                self.report.first_error = fault.reason
            if not self.source.fault:
                self._check_unchanged()
        except OSError as error:
            if error.errno in NO_OUTPUT:
                raise
            reason = "missing_file" if isinstance(error, FileNotFoundError) else UNREACHABLE
            raise NotNow(reason, describe(error)) from error

    def _check_unchanged(self) -> None:
        """Raises NotNow where the file is not the one that was listed, and OSError where it cannot be looked at. Where something
        was wrong with it all of it is read, for FFmpeg takes a disk that fails for the end or the damage of a file."""
        media = self.source.media
        facts = os.stat(media.path)
        if any(media.stamp) and media.stamp != (facts.st_size, facts.st_mtime_ns):
            raise NotNow("changed", "the file has changed since it was listed")
        if self.report.first_error:
            with media.opened(self.writer.staging / TEMPORARY) as path:
                _hash(path, self.heartbeat)

    def _stage(self) -> None:
        source, settings = self.source, self.settings
        if source.fault == UNREACHABLE:
            raise NotNow(source.fault, source.fault_detail)
        if source.fault:
            raise Unusable(source.fault, source.fault_detail)
        with source.media.opened(self.writer.staging / TEMPORARY) as path:
            content_hash = _content_hash(str(path), stamp_of(path), self.heartbeat)
            facts = _probed(str(path), stamp_of(path), self.heartbeat)
            facts = facts.recorded_at(source.fps) if source.fps else facts
            self.heartbeat()
            known = known_of(source, facts)
            width, height = facts.shown_size
            common = dataclasses.replace(
                fault_row(known.source, "", ""),
                content_hash=content_hash,
                width=width,
                height=height,
                size=settings.size,
                codec=facts.codec,
            )
            note = unsuited(facts, settings.decoder, known.source.start_s, known.source.end_s)
            if not note:
                try:
                    self._add_rows(known, path, facts, dataclasses.replace(common, decoder="decord"))
                    return
                except Disagreement as difference:
                    note = difference.note
                    self.writer.start_again()
            self._add_rows(known, path, facts, dataclasses.replace(common, decoder="pyav", decoder_note=note))

    def _add_rows(self, known: Known, path: Path, facts: VideoFacts, common: ClipRow) -> None:
        """`common`: what all rows have."""
        source, settings, report = known.source, self.settings, self.report
        available = min(source.end_s, facts.duration_s) - source.start_s
        offset = source.start_s - source.origin_s
        width, height = common.width, common.height
        if min(width, height) < settings.quality.min_side:
            end_s, detail = offset + max(0.0, available), f"{width} x {height} pixels"
            self.writer.add(_named(common, source, offset, end_s, "too_small", detail))
            return
        if source.start_s > float(facts.times[-1]):
            raise Unusable("no_frames", f"starts at {source.start_s:g} s, the video is {facts.duration_s:g} s long")

        last_s = offset
        for window in self._windows(source, path, facts, common.decoder):
            row, members, extra = _finish(window, known, settings, common, report)
            if members:
                extra["frame_index"] = known.frame_index(window.t_s, facts, report).tolist()
            self.writer.add(row, members, extra)
            last_s = row.end_s
        if not self.writer.rows:
            reason = "decode_error" if report.first_error else "no_frames"
            raise Unusable(reason, report.first_error or "nothing decodes")
        # What the header promised and the file did not give.
        promised = min(source.end_s, facts.duration_s + facts.missing_s) - source.origin_s
        if promised - last_s > max(TRUNCATED_S, 2 * facts.interval_s):
            lacking = f"it ends at {last_s:.2f} s of {promised:.2f} s"
            detail = "; ".join(filter(None, (lacking, report.first_error)))
            report.tell(lacking)
            self.writer.add(_named(common, source, last_s, promised, "truncated", detail))
        for left in known.left_out:
            self.writer.add(_named(common, source, left.start_s, left.end_s, "of_no_row", left.detail))

    def _windows(self, source: Source, path: Path, facts: VideoFacts, decoder: str) -> Iterator[Window]:
        settings = self.settings
        side = max(settings.size, MEASURE_SIDE)
        sampler = FrameSampler(facts, settings.max_fps)
        if decoder == "decord":
            frames = read_with_decord(path, facts, side=side, sampler=sampler)
        else:
            span = {"start_s": source.start_s, "end_s": source.end_s}
            frames = read_frames(path, facts, side=side, sampler=sampler, report=self.report, **span)
        timed = ((t_s - source.origin_s, rgb) for t_s, rgb in _beating(frames, self.heartbeat))
        known_s = facts.duration_s if facts.times_exact else math.inf
        end_s = min(source.end_s, known_s)
        searched = settings.shots
        if source.selector and not searched.episodes:  # an episode of a robot dataset
            searched = dataclasses.replace(searched, change=math.inf)
        shots = label_shots(timed, searched, [t_s - source.origin_s for t_s in facts.breaks])
        return cut_windows(shots, settings, end_s - source.origin_s)


@functools.lru_cache(maxsize=1024)
def _content_hash(path: str, stamp: tuple[int, int], heartbeat: Heartbeat) -> str:
    """Remembered, because the lines of a list and the episodes of a dataset share files."""
    return _hash(Path(path), heartbeat)


@functools.lru_cache(maxsize=16)
def _probed(path: str, stamp: tuple[int, int], heartbeat: Heartbeat) -> VideoFacts:
    """Likewise: of as many files as an episode may have cameras."""
    return probe(path, heartbeat)


def _hash(path: Path, heartbeat: Heartbeat) -> str:
    """BLAKE2b (128 bits, hex) of the file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(HASHED_AT_ONCE):
            digest.update(block)
            heartbeat()
    return digest.hexdigest()


def _beating(
    frames: Iterator[tuple[float, NDArray[np.uint8]]], heartbeat: Heartbeat
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Reports life for each further second of video: one frame a minute is no life."""
    reported_s = -math.inf
    for t_s, rgb in frames:
        if t_s - reported_s >= 1.0:
            heartbeat()
            reported_s = t_s
        yield t_s, rgb


def _named(common: ClipRow, source: Source, start_s: float, end_s: float, reason: str, detail: str) -> ClipRow:
    clip_id = short_digest(common.content_hash, source.selector, f"{start_s:.6f}", f"{end_s:.6f}")
    return dataclasses.replace(
        common, clip_id=clip_id, start_s=start_s, end_s=end_s, kept=not reason, reason=reason, detail=detail
    )


def _finish(
    window: Window,
    known: Known,
    settings: IngestSettings,
    common: ClipRow,
    report: DecodingReport,
) -> tuple[ClipRow, dict[str, bytes], dict[str, Any]]:
    """The row of a window and, where it is fit, what is stored of it."""
    length = window.end_s - window.start_s
    reason, detail = window.quality.reason(settings.quality)
    if length < settings.min_clip_s - 1e-3:
        reason, detail = "too_short", f"{length:.3f} s < {settings.min_clip_s:g} s"
    elif len(window.frames) < MIN_FRAMES:
        reason, detail = "too_short", f"{len(window.frames)} frames in {length:.3f} s"
    damage = f"{report.lost} frames lost so far: {report.first_error}" if report.lost else report.first_error
    truth = {} if known.truth is None else cut_truth(known.truth, window.start_s, window.end_s)
    blank = known.truth is not None and not len(truth["t_s"])
    absent = f"no ground truth: no row between {window.start_s:.2f} and {window.end_s:.2f} s" if blank else ""
    truth_note = "; ".join(filter(None, (known.note, absent)))
    detail = "; ".join(filter(None, (detail, damage, truth_note)))
    steps = len(window.t_s) - 1
    span = float(window.t_s[-1] - window.t_s[0])
    row = dataclasses.replace(
        _named(common, known.source, window.start_s, window.end_s, reason, detail),
        fps=steps / span if span > 0 else 0.0,
        frames=len(window.frames),
        shot=window.shot,
        luma_mean=window.quality.luma_mean,
        blur=window.quality.blur,
        motion=window.quality.motion,
    )
    if reason:
        return row, {}, {}
    camera = camera_of(window, settings.camera_gap_s)
    inliers = camera["inlier_ratio"]
    dx, dy, rotation, scale = median_motion(list(camera["h"][inliers > 0]), common.width / common.height)
    row = dataclasses.replace(
        row,
        camera_dx=dx,
        camera_dy=dy,
        camera_rot_deg=rotation,
        camera_scale=scale,
        camera_inliers=float(np.median(inliers)) if len(inliers) else 0.0,
    )
    relative = [float(t) - window.start_s for t in window.t_s]
    members = {
        "mp4": encode_clip(list(window.frames), relative, crf=settings.crf, gop=settings.gop),
        "camera.npz": pack_arrays(camera),
        "embedding": embed_clip(window.frames, window.t_s).tobytes(),
    }
    codec = {"codec": "h264", "pixel_format": "yuv420p", "crf": settings.crf, "gop": settings.gop, "b_frames": 0}
    extra: dict[str, Any] = {
        "t_s": [float(t) for t in window.t_s],
        "codec facts": {**codec, "size": settings.size},
        "truth_note": truth_note,
    }
    if known.truth is not None and not blank:
        members["truth.npz"] = pack_arrays(truth)
        extra["truth_digest"] = truth_digest(truth)
        extra["truth_features"] = {name: values.shape[1] for name, values in truth.items() if name != "t_s"}
    return row, members, extra
