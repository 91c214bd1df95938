"""Staging a source safely: in an isolated worker, with whatever goes wrong recorded so that the source is tried again."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from corpora.ingestion.settings import STAGE_FUNCTION, IngestSettings
from corpora.ingestion.staged import RETRY, stage_fault
from corpora.ingestion.worker import IsolatedWorker, TaskFailed, WorkerAborted, WorkerDied, WorkerTimeout
from corpora.sources.source import Source

log = logging.getLogger(__name__)

AHEAD = 256
"""Sources that are looked through for those of one file."""
ATTEMPTS = 2
"""A worker that dies may have been a victim of the machine; the same file gets one more."""


@dataclass(frozen=True)
class StagingJob:
    """How the sources of one ingest are staged; the same on every machine."""

    staging: Path
    settings: IngestSettings
    file_timeout_s: float
    """Without a further second of video for this long, a file is given up."""
    seed: int
    function: str = STAGE_FUNCTION

    def new_worker(self) -> IsolatedWorker:
        return IsolatedWorker(self.function, self.file_timeout_s)

    def run(self, worker: IsolatedWorker, source: Source) -> dict[str, Any]:
        """Stages one source; returns {"rows": int, "seconds": float, "retry": reason}, the last of a source that is to be
        tried again. Raises OSError where no source can be staged: no worker starts, the output is full."""
        task = {
            "source": source.to_json(),
            "settings": dataclasses.asdict(self.settings),
            "staging": str(self.staging),
            "seed": self.seed,
        }
        outcome: dict[str, Any] = {}
        for _ in range(ATTEMPTS):
            try:
                outcome = dict(worker.call(task))
                break
            except WorkerDied as error:
                outcome = {"retry": "worker_died", "detail": str(error)}
            except WorkerTimeout as error:
                outcome = {"retry": "timeout", "detail": str(error)}
                break
            except TaskFailed as error:
                outcome = {"retry": "failed", "detail": str(error)}
                log.warning("%s: %s", source.name, error)  # no known fault of a video: perhaps one of this program
                break
        if "retry" in outcome:
            return self.to_retry(source, outcome["retry"], outcome["detail"])
        return {"rows": 1, "seconds": 0.0, "retry": "", **outcome}

    def to_retry(self, source: Source, reason: str, detail: str) -> dict[str, Any]:
        """Records a source that is to be tried again; returns as `run`."""
        stage_fault(source, self.staging, reason, detail, RETRY)
        return {"rows": 1, "seconds": 0.0, "retry": reason}


class Turns:
    """Hands sources to workers so that stretches of one file go to one of them, which reads through it once (see `stage._probed`):
    another takes one only where nothing else is left. Looks ahead so far as `AHEAD`, for the files of several cameras take
    turns. May be shared by threads."""

    def __init__(self, sources: Iterator[Source]) -> None:
        self._sources = sources
        self._ahead: list[Source] = []
        self._files: dict[int, str] = {}
        """Of each worker, that of its last source."""
        self._lock = threading.Lock()

    def take(self, worker: int) -> Source | None:
        """The next one for this worker; None: there are no more."""
        with self._lock:
            self._ahead += itertools.islice(self._sources, AHEAD - len(self._ahead))
            own = self._files.pop(worker, None)
            taken = set(self._files.values())
            paths = [source.media.path for source in self._ahead]
            ranks = [0 if path == own else 1 if path not in taken else 2 for path in paths]
            if not ranks:
                return None
            source = self._ahead.pop(ranks.index(min(ranks)))
            self._files[worker] = source.media.path
            return source


def stage_locally(job: StagingJob, sources: Iterator[Source], workers: int) -> Iterator[dict[str, Any]]:
    """Stages sources with `workers` processes, yielding each outcome as it comes; `sources` is drawn from as needed."""
    turns = Turns(sources)
    done: Queue[dict[str, Any] | Exception | None] = Queue(maxsize=4 * workers)
    stop = threading.Event()
    processes = [job.new_worker() for _ in range(workers)]

    def work(number: int, worker: IsolatedWorker) -> None:
        try:
            with worker:
                while not stop.is_set():
                    source = turns.take(number)
                    if source is None:
                        break
                    done.put(job.run(worker, source))
            done.put(None)
        except WorkerAborted:
            done.put(None)  # interrupted: the next run stages this source again
        except Exception as error:  # handed to the caller's thread, which raises it
            done.put(error)

    threads = [threading.Thread(target=work, args=each, daemon=True) for each in enumerate(processes)]
    for thread in threads:
        thread.start()
    running = workers
    try:
        while running:
            outcome = done.get()
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is None:
                running -= 1
            else:
                yield outcome
    finally:
        stop.set()
        for worker in processes:
            worker.abort()
        for thread in threads:
            while thread.is_alive():
                while not done.empty():
                    done.get()
                thread.join(0.05)
