"""Files that are there whole or not at all, digests of what is in them, and where what can be made again lies."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UMASK = os.umask(0)
os.umask(_UMASK)
READ_AT_ONCE = 8 << 20
"""Bytes."""
UNFINISHED = ".tmp"
"""Suffix of a file that is being written; what a killed process left of it may be removed."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """The name to write to; renamed to `path` at the end, and removed where the writing fails.

    File and folder are on the disk before this returns, so that a crash of the machine leaves the old file or the new.
    """
    temporary = path.with_name(path.name + UNFINISHED)
    try:
        yield temporary
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As `written_whole`, in a folder that is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        yield temporary


def put_in_place(temporary: Path, path: Path) -> None:
    """Renames what was written to its name, the bytes first on the disk and then the name.

    Whoever may read the user's files may read it, also where a library made it for the user alone.
    """
    temporary.chmod(temporary.stat().st_mode | 0o666 & ~_UMASK)
    _to_disk(temporary)
    os.replace(temporary, path)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_utf8(text: str) -> str:
    """`text`, with half characters, as file names of another encoding leave them, written as escapes ("caf\\udce9")."""
    return text.encode("utf-8", "backslashreplace").decode()


def text_of(value: Any) -> str:
    """What JSON or Parquet has in a text's place, as `as_utf8` has it: null is ""."""
    return "" if value is None else as_utf8(str(value))


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, value) of each line that is not blank, one in memory at a time. A line ends at \\n alone: texts may hold
    whatever else ends a line (U+2028). Raises ValueError for a line that is no JSON."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path} line {number}: not JSON ({error}); write one object a line") from error
                yield number, value


def write_text(path: Path, text: str) -> None:
    """UTF-8, whole, as `as_utf8` has it."""
    with written_whole(path) as temporary:
        temporary.write_bytes(as_utf8(text).encode())


def write_json(path: Path, value: Any) -> None:
    """`value` as `plain` has it, whole."""
    write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The record of a file; None where there is none. Raises ValueError where it holds something else."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:  # no JSON, no UTF-8
        raise ValueError(f"{path}: damaged ({error}); remove it") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: no record of giza; remove it")
    return value


def plain(value: Any) -> Any:
    """As JSON has it: arrays and NumPy's numbers as Python's, paths as text, what is not finite as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def digest_of(*parts: str | bytes) -> str:
    """32 hexadecimal digits; ("ab", "c") and ("a", "bc") have different ones."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


def digest_file(digest: hashlib.blake2b, path: Path) -> None:
    """Adds all bytes of a file, some at a time."""
    with path.open("rb") as file:
        while block := file.read(READ_AT_ONCE):
            digest.update(block)


def stamp_of(path: Path) -> tuple[int, int]:
    """(size, modification time in ns); zeros where the file cannot be looked at."""
    try:
        facts = path.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def machine_trouble(error: BaseException) -> bool:
    """Whether the machine (a disk, a mount, a permission, the memory) and not a file's bytes made a reader fail, so that the
    same file may be read next time: never to be recorded as a verdict on it.

    The readers of Parquet, tar and zip raise OSError without a number for damaged bytes. A file that is not there is the
    data's own fault. Not for FFmpeg's errors, which have numbers for both: see `read_through`.
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.ENOTDIR)


def read_through(path: Path) -> None:
    """Raises OSError where the machine cannot give all of its bytes, which FFmpeg takes for damage."""
    with path.open("rb") as file:  # of a copy of a URL it is here: FFmpeg has just had it
        while file.read(1 << 24):
            pass


def default_cache() -> Path:
    """$GIZA_CACHE, or ~/.cache/giza."""
    return Path(os.environ.get("GIZA_CACHE") or "~/.cache/giza").expanduser()


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in megabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
