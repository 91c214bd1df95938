"""From any video to clean clips: finds the sources, stages each on its own, and assembles the corpus in their order.

Killed at any moment and started again with the same settings, it goes on with the sources that are not staged yet, and
the corpus has the same bytes as that of an uninterrupted run. As shards are closed, what was staged for them is removed.
Sources that could not be looked at for reasons of the
machine are rows with a reason and are counted under "retry"; while there are any, staging is kept, and the same call takes
them up again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from corpora.clips.card import write_corpus_card
from corpora.clips.corpus import SUMMARY, Corpus
from corpora.clips.survey import CorpusSurvey, listed
from corpora.ingestion.assemble import Assembly, Place
from corpora.ingestion.pool import StagingJob, stage_locally
from corpora.ingestion.quicker import quicker_decoder
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.ingestion.staged import SOURCES, clear_unfinished, is_staged, read_sources, staged_path
from corpora.sources.discover import expand_inputs, find_sources
from corpora.sources.source import Source, SourceDefaults, check_tier
from corpora.store.files import as_utf8, available_cores, read_json, write_json, written_whole
from corpora.store.provenance import provenance
from corpora.store.remote import told
from corpora.store.run import Run

log = logging.getLogger(__name__)

SETTINGS = IngestSettings()
DEFAULTS = SourceDefaults()
FORMAT = 9
"""Raised when the same settings would give other bytes."""
STAGING = "staging"
DECODER = "decoder.json"
TIMING = "timing.json"
"""Apart from ingest.json, which holds nothing that differs from run to run."""

Progress = Callable[[str, int, int, float], None]
"""Called with (phase, sources done, sources in all, seconds of video seen in this run)."""


def silent(phase: str, done: int, total: int, seconds: float) -> None:
    """Shows nothing."""


def ingest(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: IngestSettings = SETTINGS,
    *,
    defaults: SourceDefaults = DEFAULTS,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    progress: Progress = silent,
) -> Corpus:
    """Makes a corpus of clean clips at `out`, or resumes it, or opens it where it is finished.

    `inputs`: video files, folders, globs, .jsonl lists, WebDataset tars, LeRobot datasets, and kinds that were registered.
    `defaults`: tier, embodiment and text of sources of which no list says otherwise. `workers`: processes that decode side
    by side; None: one for each core, of the cluster's with engine ray. Raises as `make_corpus`.
    """
    several = [inputs] if isinstance(inputs, str | Path) else inputs
    run = IngestRun(Path(out), engine, workers)
    make_corpus([os.fspath(each) for each in several], settings, defaults, run, progress)
    return Corpus(run.out)


def make_corpus(
    inputs: Sequence[str],
    settings: IngestSettings,
    defaults: SourceDefaults,
    run: IngestRun,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Makes the corpus `run.out` and returns its summary (ingest.json and timing.json together).

    What could not be looked at, and that nothing was kept, is logged as a warning.
    Does nothing where that corpus is already there and nothing of it is to be tried again. Raises FileNotFoundError for a
    missing input, ValueError where `run.out` holds something else, another ingest is writing there, or there is no video,
    and OSError where no source can be staged (no worker starts, the disk is full).
    """
    summary = _make_corpus(inputs, settings, defaults, run, progress)
    for remark in _remarks(summary, run.out):
        log.warning("%s", remark)
    return summary


def _remarks(summary: Mapping[str, Any], out: Path) -> list[str]:
    """Sentences for the terminal: what is to be tried again, whose ground truth is odd, and why nothing was kept."""
    found = []
    if summary["retry"]:
        found.append(
            f"{sum(summary['retry'].values())} of {summary['sources']} sources could not be looked at "
            f"({listed(summary['retry'])}): the manifest says why, and the same command takes them up again. If they will "
            f"never be there, remove {out / 'staging'}, which is kept for that"
        )
    noted = summary.get("truth_notes", {"clips": 0})
    if noted["clips"]:
        found.append(
            f"{noted['clips']} of {summary['clips']} clips lack ground truth that their dataset promises, or its rows and frames "
            f"disagree (the column `detail` of manifest.parquet tells of each), the first of them {noted['first']}"
        )
    if not summary["clips"]:
        found.append(CorpusSurvey.of(summary).nothing_kept)
    return found


def _make_corpus(
    inputs: Sequence[str], settings: IngestSettings, defaults: SourceDefaults, run: IngestRun, progress: Progress
) -> dict[str, Any]:
    check_tier(defaults.tier, "--tier")
    paths = expand_inputs(inputs)
    out = run.out.expanduser().absolute()
    config = {
        "format": FORMAT,
        "inputs": [as_utf8(told(path)) for path in paths],
        "settings": dataclasses.asdict(settings),
        "defaults": _given(defaults),
        "seed": run.seed,
    }
    staging = out / STAGING
    folder = Run(
        out,
        config,
        summary=SUMMARY,
        record=f"{STAGING}/{SUMMARY}",
        inside="config",
        alone=True,
        formats={"format": FORMAT},
    )
    began = time.monotonic()
    progress("finding sources", 0, 0, 0.0)
    finished = folder.finished
    retried = finished is not None and bool(finished["retry"]) and staging.is_dir()
    if finished is not None and not retried:
        if finished["sources_digest"] != _list_sources(inputs, defaults, out)[1]:
            raise ValueError(
                f"--out {out} is a finished corpus, but its inputs have changed since; choose another --out, or "
                "remove it to start anew"
            )
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed after its last file
        return {**finished, **(read_json(out / TIMING) or {})}
    with folder.claim():
        clear_unfinished(staging)
        with written_whole(staging / SOURCES) as listed, listed.open("w", encoding="utf-8") as file:
            total, digest, skipped = _list_sources(inputs, defaults, out, file)
        if total == 0:
            shutil.rmtree(staging)
            raise ValueError(
                f"no video in {', '.join(inputs)} (files of other kinds: {skipped or 'none'}); "
                "give video files, folders, .tar or .jsonl files or LeRobot datasets"
            )
        decoder = _decoder(staging, settings)
        chosen = dataclasses.replace(settings, decoder=decoder["chosen"])
        job = StagingJob(staging, chosen, run.file_timeout_s, run.seed, run.function)
        place = Place.found(staging, out)
        with contextlib.ExitStack() as opened:
            # where the corpus is there but for what was to be tried again, it stays until something of that is staged
            assembly = opened.enter_context(Assembly(staging, out, settings, place)) if finished is None else None
            follow = assembly.advance if assembly is not None else lambda: None
            staged, seconds = _stage_all(job, run, total, place.sources, progress, follow)
            if finished is not None and not staged and finished["sources_digest"] == digest:
                return {**finished, **(read_json(out / TIMING) or {})}  # what could not be looked at still cannot
            staged_at = time.monotonic()
            if assembly is None:
                (out / SUMMARY).unlink(missing_ok=True)
                assembly = opened.enter_context(Assembly(staging, out, settings, place))
            progress("writing shards", assembly.sources, total, seconds)
            for sources in assembly.complete():
                progress("writing shards", sources, total, seconds)
            counts = assembly.finish()
        ended = time.monotonic()
        timing: dict[str, Any] = {
            "engine": run.engine,
            "workers": run.workers or (available_cores() if run.engine == "local" else None),
            "sources_staged": staged,
            "video_hours": round(seconds / 3600, 6),
            "wall_s": round(ended - began, 3),
            "staging_s": round(staged_at - began, 3),
            "assembly_s": round(ended - staged_at, 3),
            "video_hours_per_hour": round(seconds / max(ended - began, 1e-9), 3),
            "decoder_cpu_s": decoder["cpu_s"],
            "provenance": provenance(),
        }
        write_json(out / TIMING, timing)
        text = json.dumps(config, sort_keys=True)
        header = {
            "config": config,
            "fingerprint": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
            "sources_digest": digest,
            "files_skipped": skipped,
            "decoder": decoder["chosen"],
        }
        write_corpus_card(out, {**header, **counts})
        summary = folder.finish({**header, **counts}, traced=False)
        if not counts["retry"]:
            shutil.rmtree(staging)
    return {**summary, **timing}


def _decoder(staging: Path, settings: IngestSettings) -> dict[str, Any]:
    """See `quicker_decoder`; what an ingest has begun with it goes on with, wherever that is."""
    if settings.decoder != "auto":
        return {"chosen": settings.decoder, "cpu_s": {}}
    begun = read_json(staging / DECODER)
    if begun is None:
        begun = quicker_decoder()
        write_json(staging / DECODER, begun)
    return begun


def _given(defaults: SourceDefaults) -> dict[str, Any]:
    """As corpora record it; without a rate, as they did before there was one."""
    given = {**dataclasses.asdict(defaults), "cameras": list(defaults.cameras)}
    return {name: value for name, value in given.items() if name != "fps" or value}


def _list_sources(
    inputs: Sequence[str], defaults: SourceDefaults, out: Path, file: TextIO | None = None
) -> tuple[int, str, dict[str, int]]:
    """Writes the list of sources to `file` (one line each, never all in memory); returns their number, their digest, and
    the numbers of files that are no video, by suffix."""
    skipped: Counter[str] = Counter()
    digest = hashlib.blake2b(digest_size=16)
    total = 0
    for source in find_sources(inputs, defaults, skipped=skipped, exclude=out):
        line = json.dumps(source.to_json())
        if file is not None:
            file.write(line + "\n")
        digest.update(line.encode())
        total += 1
    return total, digest.hexdigest(), dict(sorted(skipped.items()))


def _stage_all(
    job: StagingJob, run: IngestRun, total: int, assembled: int, progress: Progress, follow: Callable[[], None]
) -> tuple[int, float]:
    """Stages what is not staged yet but for the first `assembled`; returns the number of sources staged now for good and their
    seconds of video. `follow` is called now and then."""
    waiting = sum(not is_staged(job.staging, source) for source in _behind(job.staging, assembled))
    pending = (source for source in _behind(job.staging, assembled) if not staged_path(job.staging, source).exists())
    done, staged, seconds = total - waiting, 0, 0.0
    progress("decoding", done, total, 0.0)
    if waiting == 0:
        return 0, 0.0
    if run.engine == "ray":
        from corpora.ingestion.ray_engine import stage_on_ray

        outcomes = stage_on_ray(job, pending, run.workers)
    else:
        outcomes = stage_locally(job, pending, min(run.workers or available_cores(), waiting))
    for outcome in outcomes:
        done += 1
        staged += not outcome["retry"]
        seconds += outcome["seconds"]
        progress("decoding", min(total, done), total, seconds)
        follow()
    return staged, seconds


def _behind(staging: Path, assembled: int) -> Iterator[Source]:
    return itertools.islice(read_sources(staging), assembled, None)
