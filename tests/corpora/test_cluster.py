"""A Ray cluster: joined or started, worked through without piling up, and outlived by the work when workers are killed."""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private.internal_api import memory_summary
from ray.cluster_utils import Cluster

from corpora import cluster as cluster_module
from corpora.cluster import joined, machines, shared, work_through
from corpora.store.remote import copy_of
from jobs import cli
from tests.builders.clusters import Worker, ray_cluster, wait_until, workers_of

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster(2) as made:
        yield made


def lost(item: Any, reason: str) -> tuple[Any, str]:
    return item, reason


def work(items: Iterable[Any], folder: Path, item_s: float = 0.0, **how: Any) -> Iterator[tuple[Any, Any]]:
    with joined(), shared(folder) as folders:
        yield from work_through(functools.partial(Worker, item_s), items, folders, lost=lost, **how)


def test_a_cluster_is_joined_as_it_is_and_else_one_is_started_for_the_work(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with joined(7):
        assert machines() == [(1, 0), (1, 0)]
        with joined(7):  # the caller's connection
            pass
        assert ray.is_initialized()
    assert not ray.is_initialized()
    monkeypatch.delenv("RAY_ADDRESS")  # as for whoever ran `ray start` on this machine
    with joined(7):
        assert machines() == [(1, 0), (1, 0)]
    monkeypatch.setenv("RAY_TMPDIR", os.environ["RAY_TMPDIR"] + "/other")
    with joined(3):
        assert [cores for cores, _ in machines()] == [3]
    assert not ray.is_initialized()


@pytest.mark.parametrize("port", ["closed", "silent", "no number", "client"])
def test_where_no_cluster_answers_one_line_says_what_to_do(
    port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = socket.create_server(("", 0))  # Ray makes the address of this machine of 127.0.0.1
    number = server.getsockname()[1]
    if port == "closed":
        server.close()
    address = {"no number": "127.0.0.1:ray", "client": "ray://127.0.0.1:1"}.get(port, f"127.0.0.1:{number}")
    monkeypatch.setenv("RAY_ADDRESS", address)
    (tmp_path / "a.mp4").write_bytes(b"no video")
    began = time.monotonic()
    status = cli.main(["ingest", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "out"), "--engine", "ray"])
    assert status in (1, 2) and time.monotonic() - began < 20
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("giza ingest: ") and address in said and "set RAY_ADDRESS to HOST:PORT" in said
    server.close()


def test_items_are_drawn_as_workers_come_free_and_nothing_piles_up(cluster: Cluster, tmp_path: Path) -> None:
    check_streaming(400, tmp_path)


@pytest.mark.slow  # minutes on a busy machine
@pytest.mark.timeout(1500)
def test_twenty_thousand_items_take_no_more_memory_than_few(cluster: Cluster, tmp_path: Path) -> None:
    check_streaming(20_000, tmp_path)


def check_streaming(count: int, folder: Path) -> None:
    drawn, done, most, memory = 0, [], 0, []

    def items() -> Iterator[str]:
        nonlocal drawn
        for number in range(count):
            drawn += 1
            yield f"{number:06d}" + 200 * "."  # as long as a path

    began = time.monotonic()
    for number, (item, found) in enumerate(work(items(), folder)):
        assert found[0] == item
        done.append(int(item[:6]))
        most = max(most, drawn - len(done))
        if number % (count // 10) == count // 20:
            memory.append(psutil.Process().memory_info().rss / 2**20)
            kept = memory_summary(stats_only=True)
            assert "Plasma memory usage 0 MiB, 0 objects" in kept, kept
    print(f"{count} items, {count / (time.monotonic() - began):.0f}/s, at most {most} waiting, {memory} MiB")
    assert sorted(done) == list(range(count))
    assert most <= 6  # one at each of two workers, two that wait for them, and what comes back at once
    assert memory[-1] - memory[1] < 20


def test_what_ends_its_worker_each_time_is_given_up_alone(cluster: Cluster, tmp_path: Path) -> None:
    items = [0, 1, "kill", *range(2, 9)]
    found = dict(work(items, tmp_path))
    assert set(found) == set(items)
    assert "it ended 3 workers, the last so: " in found["kill"][1]
    assert {item: value[0] for item, value in found.items()} == {item: item for item in items}


def test_what_the_function_raises_is_raised_here(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^of the item's own$"):
        list(work([0, "raise", *range(1000)], tmp_path))
    wait_until(lambda: not workers_of(cluster))  # none goes on


def test_each_item_in_a_process_of_its_own(cluster: Cluster, tmp_path: Path) -> None:
    pids = [found[1] for _, found in work(range(3), tmp_path, fresh=True)]
    assert len(set(pids)) == 3
    assert len({found[1] for _, found in work(range(5), tmp_path, most=1)}) == 1


def test_a_folder_that_workers_do_not_see_is_named(cluster: Cluster, tmp_path: Path) -> None:
    refused = pytest.raises(FileNotFoundError, match=rf"does not see '{tmp_path}/gone'.*same paths \(NFS")
    with joined(), shared(tmp_path, tmp_path / "gone") as folders, refused:
        list(work_through(Worker, [0], folders, lost=lost))


def test_a_copy_that_workers_do_not_see_is_named_by_its_url(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIZA_CACHE", str(tmp_path / "cache"))
    refused = pytest.raises(
        FileNotFoundError, match=rf"copy of '.*remote/s3/b/gone': set GIZA_CACHE, .*'{tmp_path}/cache'"
    )
    with joined(), shared(tmp_path, copy_of("s3://b/gone")) as folders, refused:
        list(work_through(Worker, [0], folders, lost=lost))


@pytest.mark.slow  # a machine is added, another is taken away: each takes Ray ten seconds
def test_machines_may_go_and_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "LOOK_S", 1.0)
    with ray_cluster(2) as cluster:
        done: list[int] = []
        second = cluster.list_all_nodes()[1]
        for item, found in work(range(300), tmp_path, item_s=0.2):
            assert found[0] == item
            done.append(item)
            if len(done) == 10:  # the process alone
                workers_of(cluster)[0].kill()
            if len(done) == 30:
                cluster.remove_node(second, allow_graceful=False)
            if len(done) == 60:
                cluster.add_node(num_cpus=1)
            if len(done) > 120 and len(workers_of(cluster)) == 2:
                break
        else:
            pytest.fail("the new machine was not used")
        assert len(set(done)) == len(done)


@pytest.mark.slow  # as long as a cluster may be without machines
def test_without_machines_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "LOOK_S", 1.0)
    monkeypatch.setattr(cluster_module, "NO_MACHINE_S", 5.0)
    with ray_cluster(0) as cluster:
        node, began = cluster.add_node(num_cpus=1), time.monotonic()
        going = work(range(300), tmp_path, item_s=0.2)
        assert [next(going)[0] for _ in range(5)] == list(range(5))
        cluster.remove_node(node, allow_graceful=False)
        with pytest.raises(OSError, match="has had no machine with 1 cores and 0 GPUs for 5 s"):
            list(going)
        assert time.monotonic() - began < 100
