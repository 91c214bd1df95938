"""Staging as a Ray Data pipeline: the same function on every machine of a cluster that shares the folders."""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import ray

from corpora.ingestion.pool import StagingJob
from corpora.sources.source import Source

BATCH = 4096
"""Sources handed to one pipeline: what is known of them at a time, however large the corpus."""


class _Stage:
    """A Ray actor: one isolated worker, to which sources go one after another."""

    def __init__(self, job: StagingJob) -> None:
        self._job, self._worker = job, job.new_worker()

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        sources = [Source.from_json(source) for source in json.loads(row["sources"])]
        return [self._job.run(self._worker, source) for source in sources]


def by_file(sources: Sequence[Source], workers: int) -> list[list[Source]]:
    """Stretches of one file together, for one worker, which reads through it once; but no more than each one's share."""
    files: dict[str, list[Source]] = {}
    for source in sources:
        files.setdefault(source.media.path, []).append(source)
    most = math.ceil(len(sources) / workers)
    return [group[start : start + most] for group in files.values() for start in range(0, len(group), most)]


def stage_on_ray(job: StagingJob, sources: Iterator[Source], workers: int) -> Iterator[dict[str, Any]]:
    """As `stage_locally`, on the cluster Ray is connected to (started on this machine where there is none).

    `workers` actors of one CPU each; the folders of sources and output must be visible under the same paths everywhere.
    """
    if not ray.is_initialized():
        ray.init(num_cpus=workers, include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the job has its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    available = max(1, int(ray.cluster_resources().get("CPU", 1)))
    workers = min(workers, available)
    while batch := list(itertools.islice(sources, BATCH)):
        rows = [{"sources": json.dumps([source.to_json() for source in group])} for group in by_file(batch, workers)]
        # Small blocks, so that outcomes (and with them the progress) come while the batch is under way.
        blocks = min(len(rows), 8 * workers)
        staged = ray.data.from_items(rows, override_num_blocks=blocks).flat_map(
            cast(Any, _Stage),
            fn_constructor_args=(job,),
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
        )
        yield from staged.iter_rows()
