"""From any video to clean clips: finds the sources, stages each on its own, and assembles the corpus in their order.

Killed at any moment and started again with the same settings, it goes on with the sources that are not staged yet, and
the corpus has the same bytes as that of an uninterrupted run.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from corpora.clips.corpus import SUMMARY
from corpora.ingestion.assemble import assemble
from corpora.ingestion.pool import STAGE_FUNCTION, StagingJob, stage_locally
from corpora.ingestion.settings import IngestSettings
from corpora.ingestion.stage import clear_temporary, staged_path
from corpora.sources.discover import expand_inputs, find_sources
from corpora.sources.source import Source, SourceDefaults, check_tier
from corpora.store.files import write_json

FORMAT = 2
"""Raised when the same settings would give other bytes."""
STAGING = "staging"
TIMING = "timing.json"
"""Apart from ingest.json, which holds nothing that differs from run to run."""

Progress = Callable[[str, int, int, float], None]
"""Told (phase, sources done, sources in all, seconds of video seen in this run)."""


def silent(phase: str, done: int, total: int, seconds: float) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class IngestRun:
    """Where and how fast a corpus is made; none of it changes its bytes."""

    out: Path
    engine: Literal["local", "ray"] = "local"
    workers: int = 1
    file_timeout_s: float = 120.0
    seed: int = 0
    function: str = STAGE_FUNCTION

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers {self.workers}: must be at least 1")
        if self.file_timeout_s <= 0:
            raise ValueError(f"file_timeout_s {self.file_timeout_s}: must be above 0 seconds; try 120")
        if self.engine not in ("local", "ray"):
            raise ValueError(f"engine '{self.engine}': must be 'local' or 'ray'")


def ingest(
    inputs: Sequence[str],
    settings: IngestSettings,
    defaults: SourceDefaults,
    run: IngestRun,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Makes the corpus `run.out` and returns its summary (ingest.json and timing.json together).

    Does nothing where that corpus is already there. Raises FileNotFoundError for a missing input, and ValueError where
    `run.out` holds something else, another ingest is writing there, or there is no video.
    """
    check_tier(defaults.tier, "--tier")
    paths = expand_inputs(inputs)
    out = run.out.expanduser().absolute()
    header = _header(paths, settings, defaults, run.seed)
    staging = out / STAGING
    _check_out(out, header)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with _only_one(out):
        staging.mkdir(exist_ok=True)
        if not (staging / SUMMARY).exists():
            write_json(staging / SUMMARY, header)
        clear_temporary(staging)
        progress("finding sources", 0, 0, 0.0)
        total, digest, skipped = _list_sources(inputs, defaults, staging, out)
        header |= {"sources_digest": digest, "files_skipped": skipped}
        finished = _finished(out, header)
        if finished is not None:
            shutil.rmtree(staging)
            return finished
        if total == 0:
            shutil.rmtree(staging)
            raise ValueError(
                f"no video in {', '.join(inputs)} (files of other kinds: {skipped or 'none'}); "
                "give video files, folders, .tar or .jsonl files or LeRobot datasets"
            )
        job = StagingJob(staging, settings, run.file_timeout_s, run.seed, run.function)
        staged, seconds = _stage_all(job, run, total, progress)
        staged_at = time.monotonic()
        done = Counter[str]()

        def count() -> None:
            done["sources"] += 1
            progress("writing shards", done["sources"], total, seconds)

        summary = assemble(_read_sources(staging), staging, out, settings, header, count)
        ended = time.monotonic()
        timing = {
            "engine": run.engine,
            "workers": run.workers,
            "sources_staged": staged,
            "video_hours": round(seconds / 3600, 6),
            "wall_s": round(ended - began, 3),
            "staging_s": round(staged_at - began, 3),
            "assembly_s": round(ended - staged_at, 3),
            "video_hours_per_hour": round(seconds / max(ended - began, 1e-9), 3),
        }
        write_json(out / TIMING, timing)
        shutil.rmtree(staging)
    return {**summary, **timing}


def _header(paths: Sequence[Path], settings: IngestSettings, defaults: SourceDefaults, seed: int) -> dict[str, Any]:
    config = {
        "format": FORMAT,
        "inputs": [str(path) for path in paths],
        "settings": settings.to_json(),
        "defaults": {**dataclasses.asdict(defaults), "cameras": list(defaults.cameras)},
        "seed": seed,
    }
    text = json.dumps(config, sort_keys=True)
    return {"config": config, "fingerprint": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def _check_out(out: Path, header: dict[str, Any]) -> None:
    """ValueError unless `out` is new, empty, or belongs to this very ingest."""
    if out.is_file():
        raise ValueError(f"--out {out} is a file; name a folder")
    for path in (out / SUMMARY, out / STAGING / SUMMARY):
        if not path.exists():
            continue
        there = json.loads(path.read_text("utf-8"))
        if there.get("fingerprint") != header["fingerprint"]:
            differing = ", ".join(_differences(there.get("config", {}), header["config"])) or "format"
            raise ValueError(
                f"--out {out} holds a corpus made with other settings ({differing}); choose another --out, or "
                "remove it to start anew"
            )
        return
    if out.is_dir() and any(entry.name not in (STAGING, LOCK) for entry in out.iterdir()):
        raise ValueError(f"--out {out} holds other files and is no corpus; name a new or empty folder")


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(set(there) | set(here)):
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}: {old!r} there, {new!r} now"


def _finished(out: Path, header: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of the corpus if it is already complete; ValueError where its sources have changed since."""
    path = out / SUMMARY
    if not path.exists():
        return None
    there = dict(json.loads(path.read_text("utf-8")))
    if there.get("sources_digest") != header["sources_digest"]:
        raise ValueError(
            f"--out {out} is a finished corpus, but its inputs have changed since; choose another --out, or "
            "remove it to start anew"
        )
    timing = out / TIMING
    return {**there, **(json.loads(timing.read_text("utf-8")) if timing.exists() else {}), "already_finished": True}


LOCK = ".lock"


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Two runs must not write one corpus; the lock goes with the process, however it ends."""
    path = out / LOCK
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"--out {out}: another ingest is writing there; wait for it or choose another --out"
            ) from None
        yield
        path.unlink(missing_ok=True)


def _list_sources(
    inputs: Sequence[str], defaults: SourceDefaults, staging: Path, out: Path
) -> tuple[int, str, dict[str, int]]:
    """Writes the list of sources (one line each, never all in memory); returns their number, their digest, and the
    numbers of files that are no video, by suffix."""
    skipped: Counter[str] = Counter()
    digest = hashlib.blake2b(digest_size=16)
    total = 0
    temporary = staging / "sources.jsonl.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        for source in find_sources(inputs, defaults, skipped=skipped, exclude=out):
            line = json.dumps(source.to_json())
            file.write(line + "\n")
            digest.update(line.encode())
            total += 1
    os.replace(temporary, staging / "sources.jsonl")
    return total, digest.hexdigest(), dict(sorted(skipped.items()))


def _read_sources(staging: Path) -> Iterator[Source]:
    with (staging / "sources.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield Source.from_json(json.loads(line))


def _stage_all(job: StagingJob, run: IngestRun, total: int, progress: Progress) -> tuple[int, float]:
    """Stages what is not staged yet; returns the number of sources staged now and their seconds of video."""
    waiting = sum(not staged_path(job.staging, source).exists() for source in _read_sources(job.staging))
    pending = (source for source in _read_sources(job.staging) if not staged_path(job.staging, source).exists())
    staged, seconds = 0, 0.0
    progress("decoding", total - waiting, total, 0.0)
    if waiting == 0:
        return 0, 0.0
    if run.engine == "ray":
        from corpora.ingestion.ray_engine import stage_on_ray

        outcomes = stage_on_ray(job, pending, run.workers)
    else:
        outcomes = stage_locally(job, pending, min(run.workers, waiting))
    for outcome in outcomes:
        staged += 1
        seconds += outcome["seconds"]
        progress("decoding", min(total, total - waiting + staged), total, seconds)
    return staged, seconds
