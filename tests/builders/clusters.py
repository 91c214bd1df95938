"""A Ray cluster on loopback, a raylet for each machine, and what its workers are given to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from corpora.cluster import joined, machines

STORE_BYTES = 80 << 20
"""About the least that Ray takes."""


@contextmanager
def ray_cluster(count: int) -> Iterator[Cluster]:
    """So many machines of one core each, or none but a head without a core; RAY_ADDRESS names it, and nothing else on this
    machine finds it."""
    short = tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    )  # as names of sockets are
    with short as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")  # a process keeps the mode that it was in first
        patch.setenv("RAY_worker_niceness", "0")  # on a busy machine the tests would take ten times as long
        patch.delenv("RAY_ADDRESS", raising=False)
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=min(1, count), object_store_memory=STORE_BYTES, include_dashboard=False)
            for _ in range(count - 1):
                cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
            cluster.wait_for_nodes()
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield cluster
        finally:
            cluster.shutdown()


@contextmanager
def other_machine(cluster: Cluster, hidden: Path) -> Iterator[None]:
    """One of one core more, that sees this one's files but for those of a folder."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount (root)")
    start = (
        f"mount -t tmpfs none '{hidden}' && exec '{sys.executable}' -m ray.scripts.scripts start --block --num-cpus 1"
    )
    words = f"{start} --address {cluster.address} --object-store-memory {STORE_BYTES}"
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with joined():
            wait_until(lambda: (1, 0) in machines())
        yield
    finally:
        for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            each.kill()
        process.wait()


def workers_of(cluster: Cluster, name: str = "_Worker") -> list[psutil.Process]:
    """Processes of the cluster's actors."""
    raylets = [process.process.pid for node in cluster.list_all_nodes() for process in node.all_processes["raylet"]]
    below = [child for pid in raylets for child in psutil.Process(pid).children()]
    return [process for process in below if name in _words(process)]


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


def wait_until(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What is true in the end."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.05)
    return found


class Worker:
    """Returns each item after `item_s` seconds, and the process it was in; "kill" ends that, and "raise" is refused."""

    def __init__(self, item_s: float = 0.0) -> None:
        self._item_s = item_s

    def __call__(self, item: Any) -> tuple[Any, int]:
        if item == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "raise":
            raise ValueError("of the item's own")
        time.sleep(self._item_s)
        return item, os.getpid()
