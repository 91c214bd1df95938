"""The isolated worker: results come back; what dies, hangs or raises is told apart, and the next task goes on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from corpora.ingestion.worker import IsolatedWorker, TaskFailed, WorkerAborted, WorkerDied, WorkerTimeout

BEHAVIOUR = """
import ctypes, os, sys, time

def act(task, heartbeat):
    how = task["how"]
    if how == "segfault":
        ctypes.string_at(0)
    while how == "hang":
        time.sleep(60)
    if how == "slow":
        for _ in range(8):
            time.sleep(0.2)
            heartbeat()
    if how == "raise":
        raise RuntimeError("so it goes")
    if how == "noise":
        print("{\\"result\\": \\"printed\\"}")
        os.write(1, b"{\\"result\\": \\"written\\"}\\n")
    if how == "pid":
        return os.getpid()
    return {"echo": task["value"]}
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "odd_behaviour.py").write_text(BEHAVIOUR)
    monkeypatch.syspath_prepend(str(tmp_path))
    with IsolatedWorker("odd_behaviour:act", timeout_s=0.8) as worker:
        yield worker


def echoes(worker: IsolatedWorker) -> bool:
    return worker.call({"how": "echo", "value": [1, "ä"]}) == {"echo": [1, "ä"]}


def test_what_goes_wrong_is_told_apart_and_the_next_task_goes_on(worker):
    assert echoes(worker)
    with pytest.raises(WorkerDied, match="SIGSEGV"):
        worker.call({"how": "segfault"})
    assert echoes(worker)
    with pytest.raises(WorkerTimeout, match=r"0\.8 s"):
        worker.call({"how": "hang"})  # it never ends by itself
    assert echoes(worker)
    with pytest.raises(TaskFailed, match="RuntimeError: so it goes"):
        worker.call({"how": "raise"})
    assert echoes(worker)


def test_signs_of_life_extend_the_limit(worker):
    assert worker.call({"how": "slow", "value": 1}) == {"echo": 1}


def test_what_a_library_prints_is_not_a_result(worker):
    assert worker.call({"how": "noise", "value": 2}) == {"echo": 2}


def test_a_stopped_worker_stays_stopped(worker):
    assert echoes(worker)
    worker.abort()
    with pytest.raises(WorkerAborted):
        echoes(worker)


def test_the_worker_ends_when_its_parent_is_killed(tmp_path):
    (tmp_path / "odd_behaviour.py").write_text(BEHAVIOUR)
    note = tmp_path / "pid"
    program = f"""
import sys, pathlib
from corpora.ingestion.worker import IsolatedWorker
sys.path.insert(0, {str(tmp_path)!r})
worker = IsolatedWorker("odd_behaviour:act", timeout_s=60)
pathlib.Path({str(note)!r} + ".tmp").write_text(str(worker.call({{"how": "pid"}})))
pathlib.Path({str(note)!r} + ".tmp").rename({str(note)!r})
worker.call({{"how": "hang"}})
"""
    child = subprocess.Popen([sys.executable, "-c", program])
    wait_for(note.exists)
    child.kill()
    child.wait()
    wait_for(lambda: not Path(f"/proc/{note.read_text()}").exists())


def wait_for(condition, seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)
