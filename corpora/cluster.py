"""Work on a Ray cluster: the one that runs is joined, or one is started here for as long as the work takes.

Items go to workers one by one and what they make of them comes back as it is done: what waits is no more than one item a
worker, however many there are. Only small things travel (a source, a part's number, a count); pixels and rows go through
folders that all machines share. A worker is a process that may be killed, with its machine if need be: its item goes to
another, and one that ends its worker again and again is given up alone.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import ray
from ray.exceptions import RayError, RayTaskError

from corpora.store.files import UNFINISHED, default_cache
from corpora.store.own_modules import VARIABLE, load_own_modules
from corpora.store.remote import url_of

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Workers that one item may end: the first two may have been victims of their machine."""
ANSWER_S = 5.0
"""Within which the head of a cluster must take a connection."""
LOOK_S = 5.0
"""Between two looks at which machines the cluster has."""
NO_MACHINE_S = 60.0
"""For which a cluster may be without any machine."""

TOLD = (VARIABLE, "GIZA_CACHE", "GIZA_REMOTE_GB")
"""Variables that workers have of the job: where copies of what lies behind URLs are, among them."""

Item = TypeVar("Item")
Found = TypeVar("Found")


@contextmanager
def joined(cores: int | None = None) -> Iterator[None]:
    """Connected to the cluster of RAY_ADDRESS, or to the one that `ray start` started on this machine; where there is none, to
    one of this machine's own with so many `cores` (None: all), which ends afterwards. A connection of the caller's stays.

    Raises ConnectionError where there is an address and no cluster answers there.
    """
    if ray.is_initialized():
        yield
        return
    address = _answering()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        else:
            ray.init(**quiet)  # resources are the cluster's own
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        said = _line(error)  # another version of Ray or Python is told so
        if "AuthToken" in f"{error} {error.__cause__}":
            said = (
                "it wants a token: set RAY_AUTH_MODE=token, and have its head's ~/.ray/auth_token on this machine, too"
            )
        raise ConnectionError(f"Ray at {address or 'this machine'}: {said}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _answering() -> str | None:
    """HOST:PORT of the cluster that Ray would join; None where there is none. Raises ConnectionError, or ValueError, where it
    does not answer: Ray itself would try for minutes."""
    from ray._private.services import canonicalize_bootstrap_address

    told = os.environ.get("RAY_ADDRESS", "")
    remedy = "set RAY_ADDRESS to HOST:PORT as `ray start --head` prints it, or unset it to work on this machine alone"
    if not told:
        remedy = "run `ray stop`, which forgets the cluster that ran on this machine"
    if "://" in told:
        raise ValueError(f"RAY_ADDRESS '{told}': this machine must be one of the cluster's; {remedy}")
    address: str | None = told
    try:
        if (address := canonicalize_bootstrap_address(cast(Any, None))) is None:
            return None
        host, _, port = address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S) as connection:
            connection.settimeout(ANSWER_S)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")  # as gRPC begins
            if connection.recv(9)[3:4] != b"\4":  # its settings; a port without a server may connect to itself
                raise OSError("what is there is no Ray")
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster answers at {told or address} ({_line(error)}): {remedy}") from error
    return address


@dataclass(frozen=True)
class Shared:
    """Folders that every worker must see as this machine does."""

    scratch: Path
    """In the folder that is written to, and of a name that no other has: for what is not whole yet. Removed in the end."""
    read: tuple[Path, ...]
    """With some of what is in folders: where a disk should be, there is an empty one without it."""

    def expect(self) -> None:
        """Called on a worker. Raises FileNotFoundError."""
        for path in (self.scratch, *self.read):
            if not path.exists():
                raise unseen(path.parent if path == self.scratch else path, socket.gethostname())


def unseen(path: str | Path, host: str) -> FileNotFoundError:
    """For a path that this machine has and machine `host` of the cluster has not."""
    if url_of(Path(path)):
        return FileNotFoundError(
            f"a worker on '{host}' does not see this machine's copy of '{path}': set GIZA_CACHE, which is '{default_cache()}', to a "
            "folder that all machines of the cluster share (NFS, for one); then run the same command again"
        )
    return FileNotFoundError(
        f"a worker on '{host}' does not see '{path}' as this machine does: give every machine of the cluster the same folders "
        "under the same paths (NFS, for one), or take it out of the cluster; then run the same command again"
    )


@contextmanager
def shared(out: Path, *read: Path) -> Iterator[Shared]:
    """`out`: a folder that is written to, here and by the workers; `read`: what they read."""
    with tempfile.TemporaryDirectory(
        dir=out.absolute(), prefix="shared-", suffix=UNFINISHED, ignore_cleanup_errors=True
    ) as scratch:
        inside = (path for folder in read if folder.is_dir() for path in sorted(folder.iterdir())[:20])
        yield Shared(Path(scratch), tuple(path.absolute() for path in (*read, *inside)))


def machines() -> list[tuple[int, int]]:
    """(cores, GPUs) of each machine of the cluster, other jobs' share in them."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in alive]


def work_through(
    make: Callable[[], Callable[[Item], Found]],
    items: Iterable[Item],
    folders: Shared,
    *,
    lost: Callable[[Item, str], Found],
    most: int | None = None,
    cores: int = 1,
    gpus: int = 0,
    fresh: bool = False,
) -> Iterator[tuple[Item, Found]]:
    """Each item and what became of it, as they end; `items` is drawn from as workers come free.

    `make`: makes, in each worker, the function that items go through. `lost`: stands in, here, for an item that ended its
    worker `ATTEMPTS` times, of which the last time is told. `most`: workers; by default as many as there is room for, with
    `cores` and `gpus` each, also on machines that come later. `fresh`: each item gets a worker of its own. Raises what the
    function raises, and OSError where no worker starts or the cluster has lost its machines.
    """
    pool = _Pool(make, folders, most, cores, gpus, fresh)
    try:
        yield from pool.work(iter(items), lost)
    finally:
        pool.end()


@dataclass
class _Task(Generic[Item]):
    item: Item
    deaths: int = 0


class _Worker:
    """An actor."""

    def start(self, make: Callable[[], Callable[[Any], Any]], folders: Shared, told: dict[str, str]) -> None:
        for name in TOLD:  # the worker's own are those of who started the cluster
            os.environ.pop(name, None)
        os.environ |= told
        folders.expect()
        load_own_modules()
        self._function = make()

    def work(self, item: Any) -> Any:
        return self._function(item)


class _Pool:
    """Actors that start (task None), work (their task), or wait."""

    def __init__(self, make: Any, folders: Shared, most: int | None, cores: int, gpus: int, fresh: bool) -> None:
        self._actor: Any = ray.remote(num_cpus=cores, num_gpus=gpus, max_restarts=0)(_Worker)
        self._start = (make, folders, {name: os.environ[name] for name in TOLD if name in os.environ})
        self._most, self._needs, self._fresh = sys.maxsize if most is None else most, (cores, gpus), fresh
        self._busy: dict[Any, tuple[Any, _Task[Any] | None]] = {}
        """Reference to what comes -> who makes it of what."""
        self._idle: list[Any] = []
        self._again: deque[_Task[Any]] = deque()
        self._room, self._looked, self._had_room = 0, -LOOK_S, time.monotonic()
        self._failed_starts = 0
        self._moved, self._waited = time.monotonic(), False

    def work(self, items: Iterator[Any], lost: Callable[[Any, str], Any]) -> Iterator[tuple[Any, Any]]:
        ahead: deque[Any] = deque()
        while True:
            self._look()
            ahead.extend(itertools.islice(items, max(0, max(1, self._room) - len(ahead))))
            working = sum(task is not None for _, task in self._busy.values())
            if not working and not ahead and not self._again:
                return
            wanted = min(self._room, working + len(ahead) + len(self._again))
            for _ in range(wanted - len(self._busy) - len(self._idle)):
                actor = self._actor.remote()
                self._busy[actor.start.remote(*self._start)] = actor, None
            while self._idle and (ahead or self._again):
                task = self._again.popleft() if self._again else _Task(ahead.popleft())
                actor = self._idle.pop()
                self._busy[actor.work.remote(task.item)] = actor, task
            if not self._busy:
                time.sleep(min(1.0, LOOK_S))
                continue
            for reference in ray.wait(list(self._busy), timeout=LOOK_S)[0]:
                yield from self._take(reference, lost)

    def _look(self) -> None:
        """Counts the room there is. Raises OSError where there has been none for long."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        room = (min(has // need for has, need in zip(each, self._needs, strict=True) if need) for each in machines())
        self._room, self._looked = min(sum(room), self._most), now
        if self._busy and all(task is None for _, task in self._busy.values()) and now - self._moved > NO_MACHINE_S:
            if not self._waited:
                log.warning("no worker has started for %g s: have other jobs all of the Ray cluster?", NO_MACHINE_S)
            self._waited = True
        if self._room:
            self._had_room = now
        elif now - self._had_room > NO_MACHINE_S:
            needs = "{} cores and {} GPUs".format(*self._needs)
            raise OSError(f"the Ray cluster has had no machine with {needs} for {NO_MACHINE_S:g} s")

    def _take(self, reference: Any, lost: Callable[[Any, str], Any]) -> Iterator[tuple[Any, Any]]:
        """What came of one reference: nothing, or an item that is done."""
        actor, task = self._busy.pop(reference)
        try:
            found = ray.get(reference)
        except RayTaskError as error:  # the function's own
            raise error.cause if isinstance(error.cause, Exception) else OSError(_line(error)) from None
        except RayError as error:
            ray.kill(actor)  # where it is only out of reach
            if task is None:
                self._failed_starts += 1
                if self._failed_starts > ATTEMPTS * max(1, self._room):
                    raise OSError(f"no worker starts on the Ray cluster: {_line(error)}") from error
                return
            task.deaths += 1
            if task.deaths < ATTEMPTS:
                self._again.append(task)
                return
            yield task.item, lost(task.item, f"it ended {ATTEMPTS} workers, the last so: {_line(error)}")
            return
        self._moved = time.monotonic()
        if task is None:
            self._failed_starts = 0
        if task is not None and self._fresh:
            ray.kill(actor)
        else:
            self._idle.append(actor)
        if task is not None:
            yield task.item, found

    def end(self) -> None:
        """Ends all actors, whatever they are at."""
        for actor in (*self._idle, *(actor for actor, _ in self._busy.values())):
            ray.kill(actor)


def _line(error: BaseException) -> str:
    """What it says, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else f"{text[:200]} ... {text[-300:]}"  # a traceback has its error at the end
