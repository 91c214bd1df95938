"""A worker process that may die or hang: tasks go in and results come out as lines of JSON.

FFmpeg can crash or never return on a damaged file. The worker runs in a process of its own; a task that shows no sign
of life for the time limit is ended with it, and the next task gets a fresh one.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

START_S = 120.0
"""Within which a worker must have imported its libraries."""

Heartbeat = Callable[[], None]
Task = dict[str, Any]


class WorkerDied(Exception):
    """The process ended in the middle of a task."""


class WorkerTimeout(Exception):
    """No sign of life for the time limit; the process was killed."""


class WorkerAborted(Exception):
    """Stopped by the caller's own program."""


class WorkerNotStarted(OSError):
    """The process ended or hung before it took a task; the message holds what it wrote to its standard error."""


class TaskFailed(Exception):
    """The function raised; the message names the exception."""


class IsolatedWorker:
    """One worker process for one caller (not to be shared by threads). Started when first needed."""

    def __init__(self, function: str, timeout_s: float) -> None:
        """`function`: "package.module:name" of a callable (task, heartbeat) -> result, all JSON."""
        self._function = function
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._aborted = False

    def call(self, task: Task) -> Any:
        """The result of the function. Raises WorkerDied, WorkerTimeout, TaskFailed or the function's OSError; the worker
        remains usable. Raises WorkerNotStarted where it never was."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        while True:
            reply = self._reply()
            if "result" in reply:
                return reply["result"]
            if "errno" in reply:
                raise OSError(reply["errno"], reply["error"])
            if "error" in reply:
                raise TaskFailed(reply["error"])

    def abort(self) -> None:
        """From another thread: the call that runs, and every later one, raises WorkerAborted."""
        self._aborted = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        process, self._process, self._pending = self._process, None, b""
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a task that was still being handed over
                    pipe.close()

    def __enter__(self) -> IsolatedWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._aborted:
            raise WorkerAborted
        if self._process is None or self._process.poll() is not None:
            self.close()
            path = os.pathsep.join(entry for entry in sys.path if entry)
            with tempfile.TemporaryFile() as said:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "corpora.ingestion.worker", self._function, str(self._timeout_s)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    start_new_session=True,  # a signal to the caller's group must not look like a crash of a decoder
                    env={**os.environ, "PYTHONPATH": path},
                )
                try:
                    self._reply(max(START_S, self._timeout_s))  # imports are no part of a task's time
                except (WorkerDied, WorkerTimeout) as error:
                    said.seek(0)
                    lines = said.read().decode(errors="replace").strip()[-2000:]
                    raise WorkerNotStarted(
                        f"a worker cannot start: {error}; it wrote:\n{lines or 'nothing'}"
                    ) from error
        return self._process

    def _reply(self, limit_s: float | None = None) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        limit_s = self._timeout_s if limit_s is None else limit_s
        deadline = time.monotonic() + limit_s
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self.close()
                raise WorkerTimeout(f"no sign of life for {limit_s:g} s")
            received = os.read(descriptor, 65536)
            if not received:
                raise self._died()
            self._pending += received
        line, _, self._pending = self._pending.partition(b"\n")
        return dict(json.loads(line))

    def _died(self) -> Exception:
        if self._aborted:
            return WorkerAborted()
        assert self._process is not None
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = 0
        self.close()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return WorkerDied(f"the worker process ended with {how}")


def serve(function: str, timeout_s: float) -> None:
    """Runs in the worker: tasks from standard input until it closes."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # the caller decides; this process ends when the caller is gone
    module, _, name = function.partition(":")
    results = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not be taken for a result
    threading.Thread(target=_follow_parent, args=(os.getppid(),), daemon=True).start()
    callee = getattr(importlib.import_module(module), name)
    for stream in (1, 2):  # the caller listens for as long as this can fail to start
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)

    def send(message: dict[str, Any]) -> None:
        os.write(results, json.dumps(message).encode() + b"\n")

    def heartbeat() -> None:
        # Should the caller be gone and this process be stuck in native code, the alarm's default action ends it.
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout_s + 5)
        send({"alive": True})

    send({"alive": True})
    for line in sys.stdin.buffer:
        heartbeat()
        try:
            reply = {"result": callee(json.loads(line), heartbeat)}
        except OSError as error:
            reply = {"errno": error.errno or 0, "error": error.strerror or str(error)}
        except Exception as error:  # the boundary of the process: whatever it was, the caller decides
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(reply)


def _follow_parent(parent: int) -> None:
    """Ends this process soon after its parent was killed."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]))
