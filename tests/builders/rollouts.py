"""Rollouts in threads of this process, where a test is not about their processes: each of those imports MuJoCo anew."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.evaluation import rollouts


class _Thread(threading.Thread):
    """As a process is started; its end of the pipe is its own, as that of a process would be."""

    def __init__(self, *, target: Any, args: tuple[Any, ...], daemon: bool) -> None:
        theirs, *rest = args
        super().__init__(target=target, args=(Connection(os.dup(theirs.fileno())), *rest), daemon=daemon)


def rollouts_in_threads(patch: pytest.MonkeyPatch) -> None:
    """From now on, until `patch` is undone."""
    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=_Thread)
    patch.setattr(rollouts, "multiprocessing", SimpleNamespace(get_context=lambda kind: context))
