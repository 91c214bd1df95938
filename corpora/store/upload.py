"""A job's output behind a URL: made in its local copy as any other, sent as it grows, so that a machine that dies loses half a
minute and another one goes on.

Files are sent in the order in which they were written, whole ones only, and what was removed is removed last: at every moment
the store holds what a kill would have left on a disk.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corpora.store.files import UNFINISHED, stamp_of
from corpora.store.remote import STATE, WRITER, Known, Store, files_in, make_room, read_state, told, url_of, write_state

log = logging.getLogger(__name__)

EVERY_S = 30.0
SILENT_S = 4 * EVERY_S
"""A writer that was not heard of for so long is dead."""
COMMITS, SLOWER = "hf://datasets/", 20
"""Where each file that is sent is a commit, of which the hub takes so many an hour, all is done so many times more rarely."""
NOT_SENT = (STATE, WRITER, ".lock")


@contextmanager
def uploaded(folder: Path) -> Iterator[None]:
    """While a job writes to `folder`: sends what is new every half minute (ten minutes where files are commits), and all of it at
    the end, also where the job fails. Does nothing for a folder that stands for no URL.

    Raises ValueError where another machine writes there, and OSError where the last files cannot be sent.
    """
    url = url_of(folder)
    if not url:
        yield
        return
    store = Store(url)
    _claim(store)
    ended = threading.Event()
    sender = threading.Thread(target=_send_at_times, args=(store, folder, ended), daemon=True)
    sender.start()
    try:
        yield
    finally:
        ended.set()
        sender.join()
        send(store, folder)
        store.remove(WRITER)


def _claim(store: Store) -> None:
    there = store.read(WRITER)
    if there is not None:
        other = json.loads(there)
        silent_s = time.time() - other["time"]
        mine = (other["host"], other["pid"]) == (socket.gethostname(), os.getpid())
        if not mine and silent_s < SILENT_S * _slower(store) and not _dead(other["host"], other["pid"]):
            raise ValueError(
                f"another process is writing to '{store.url}' ({other['host']}, {silent_s:.0f} s ago): wait for it, or "
                "give another --out"
            )
    _tell_alive(store)


def _slower(store: Store) -> int:
    return SLOWER if store.url.startswith(COMMITS) else 1


def _dead(host: str, pid: int) -> bool:
    """Whether a process was of this machine and is no more."""
    return host == socket.gethostname() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists()


def _tell_alive(store: Store) -> None:
    record = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    store.write(WRITER, json.dumps(record).encode())


def _send_at_times(store: Store, folder: Path, ended: threading.Event) -> None:
    while not ended.wait(EVERY_S * _slower(store)):
        try:
            _tell_alive(store)
            send(store, folder)
            make_room()
        except OSError as error:
            log.warning("%s; what was not sent is sent with what comes next", told(error))


def send(store: Store, folder: Path) -> int:
    """Makes the store hold what `folder` does, and returns how many files were sent. Raises OSError where it cannot."""
    known = read_state(folder)
    found = {str(path.relative_to(folder)): stamp_of(path) for path in files_in(folder) if _to_send(path, folder)}
    new = [name for name, stamp in found.items() if name not in known or known[name].stamp != stamp]
    sent = 0
    try:
        for name in sorted(new, key=lambda name: found[name][1]):
            try:
                known[name] = Known(store.send(folder / name, name).token, found[name])
            except FileNotFoundError:
                if (folder / name).exists():
                    raise
                continue  # removed meanwhile
            sent += 1
        for name in sorted(known.keys() - found.keys()):
            store.remove(name)
            del known[name]
    finally:
        write_state(folder, known)
    return sent


def _to_send(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return path.name not in NOT_SENT and not any(part.endswith(UNFINISHED) or part == UNFINISHED[1:] for part in parts)
