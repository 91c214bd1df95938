"""Staging on a Ray cluster: the same function on every machine."""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpora.cluster import joined, shared, unseen, work_through
from corpora.ingestion.pool import StagingJob
from corpora.ingestion.staged import TEMPORARY
from corpora.sources.source import Source


class _Stage:
    """One isolated worker, to which sources go one after another."""

    def __init__(self, job: StagingJob) -> None:
        self._job, self._worker = job, job.new_worker()

    def __call__(self, source: Source) -> dict[str, Any]:
        return {**self._job.run(self._worker, source), "host": socket.gethostname()}


def stage_on_ray(job: StagingJob, sources: Iterator[Source], workers: int | None) -> Iterator[dict[str, Any]]:
    """As `stage_locally`, by `workers` of one core each (None: as many as the cluster has cores). The folders of sources and
    output must be visible under the same paths everywhere; FileNotFoundError names the one that is not."""

    def lost(source: Source, reason: str) -> dict[str, Any]:
        return job.to_retry(source, "worker_died", reason)

    with joined(workers), shared(job.staging / TEMPORARY) as folders:
        for source, outcome in work_through(functools.partial(_Stage, job), sources, folders, lost=lost, most=workers):
            if outcome["retry"] == "missing_file" and Path(source.media.path).exists():
                raise unseen(source.media.path, outcome["host"])
            yield outcome
