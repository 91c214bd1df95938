"""Workers of ingest that outlive one ingest: a process of their own each, whose imports, most of a small ingest's time, are
paid once."""

from __future__ import annotations

import os
import subprocess
from collections import defaultdict
from typing import Any

from corpora.ingestion.settings import STAGE_FUNCTION
from corpora.ingestion.worker import IsolatedWorker

_IDLE: dict[object, list[subprocess.Popen[bytes]]] = defaultdict(list)
"""Time limit and settings of the environment -> processes that wait for a source."""


class WarmWorker(IsolatedWorker):
    """Takes a process that waits, and leaves it waiting where no call was broken off. A test's own function gets a new one."""

    @property
    def _kind(self) -> object:
        told = {name: value for name, value in os.environ.items() if name.startswith(("GIZA_", "AWS_"))}
        return self._timeout_s, tuple(sorted(told.items()))

    def _running(self) -> subprocess.Popen[bytes]:
        idle = _IDLE[self._kind]
        if self._function == STAGE_FUNCTION and self._process is None and not self._aborted and idle:
            self._process = idle.pop()
        return super()._running()

    def __exit__(self, kind: Any, *rest: object) -> None:
        if kind is None and not self._aborted and self._function == STAGE_FUNCTION and self._process is not None:
            _IDLE[self._kind].append(self._process)
            self._process = None
        self.close()


def end_idle_workers() -> None:
    for processes in _IDLE.values():
        while processes:
            worker = WarmWorker(STAGE_FUNCTION, 0.0)
            worker._process = processes.pop()
            worker.close()
