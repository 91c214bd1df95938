"""Processes of their own, which a test may kill. They are forked from a server that imported once what takes ten seconds to
import, and inherit neither the test's patches nor its environment's changes."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
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
    process = _SERVER.Process(target=_called, args=(target, args, log, {}))
    process.start()
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"{target.__name__} took over {timeout_s:g} s; it said: {log.read_text()[-2000:]}")
    return process.exitcode


def run_ranks(
    target: Callable[..., Any], *args: Any, ranks: int, folder: Path, by: str = "torchrun", timeout_s: float = 140
) -> list[int]:
    """As `run_apart`, of so many processes that train together, started as torchrun or srun would. What they print is in
    FOLDER/RANK.log; one that takes longer than the others by `timeout_s` is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [folder / f"{rank}.log" for rank in range(ranks)]
    processes = [
        _SERVER.Process(target=_called, args=(target, args, log, _told(rank, ranks, port, by)))
        for rank, log in enumerate(logs)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + timeout_s
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    late = [rank for rank, process in enumerate(processes) if process.exitcode is None]
    for rank in late:
        processes[rank].kill()
        processes[rank].join()
    if late:
        raise TimeoutError(f"ranks {late} took over {timeout_s:g} s; they said: {logs[late[0]].read_text()[-2000:]}")
    return [process.exitcode or 0 for process in processes]


def _told(rank: int, ranks: int, port: int, by: str) -> dict[str, str]:
    """What a process finds in its environment."""
    told: dict[str, Any] = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if by == "torchrun":
        told |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
        told |= {"TORCHELASTIC_RUN_ID": "test"}
    else:
        told |= {
            "SLURM_PROCID": rank,
            "SLURM_LOCALID": rank,
            "SLURM_NTASKS": ranks,
            "SLURM_NNODES": 1,
            "SLURM_NODEID": 0,
        }
        told |= {"SLURM_STEP_ID": 0, "SLURM_JOB_ID": 7, "SLURM_JOB_NAME": "test", "SLURM_NTASKS_PER_NODE": ranks}
    return {name: str(value) for name, value in told.items()}


def _called(target: Callable[..., Any], args: tuple[Any, ...], log: Path, told: dict[str, str]) -> None:
    os.environ.update(told)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = target(*args)
    raise SystemExit(status if isinstance(status, int) else 0)
