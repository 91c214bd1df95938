"""Processes of their own, which a test may kill. They are forked from a server that imported once what takes ten seconds to
import, and inherit neither the test's patches nor its environment's changes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.evaluation import rollouts

_SERVER = multiprocessing.get_context("forkserver")
# the first brings an LLVM, MuJoCo's GL another: imported after that one it crashes
_SERVER.set_forkserver_preload(
    ["torch._dynamo", "vla.training", "jobs.training.trainer", "lapa.extraction.engine", "tests.builders.simulator"]
)


def fork_rollouts(patch: pytest.MonkeyPatch) -> None:
    """From now on, until `patch` is undone: what is spawned elsewhere, and imports Meta-World anew, is forked here."""
    patch.setattr(rollouts, "multiprocessing", SimpleNamespace(get_context=lambda kind: _SERVER))


def run_apart(target: Callable[..., Any], *args: Any, log: Path, timeout_s: float = 200) -> int:
    """The exit status of a process that calls `target`, a function of a module, and ends with what it returns if that is a
    number; minus the signal that killed it. What it prints is in the file `log`."""
    process = _SERVER.Process(target=_called, args=(target, args, log))
    process.start()
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"{target.__name__} took over {timeout_s:g} s; it said: {log.read_text()[-2000:]}")
    return process.exitcode


def _called(target: Callable[..., Any], args: tuple[Any, ...], log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = target(*args)
    raise SystemExit(status if isinstance(status, int) else 0)
