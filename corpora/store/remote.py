"""Folders and files behind a URL (s3://, gs://, hf://datasets/..., whatever fsspec knows), read through a bounded local copy.

s3://bucket/corpus  ->  $GIZA_CACHE/remote/s3/bucket/corpus

A copy has all of the folder's files by name, size and time, so that whatever walks folders works as ever. Small files are
fetched at once. Videos and tars are fetched when they are opened (`here`), and of those the ones that were longest not opened
make room once they take more than $GIZA_REMOTE_GB (100). One that is not here has no permissions: whoever opened it without
`here` would be refused, not shown zeros.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from corpora.store.files import UNFINISHED, default_cache, stamp_of, written_whole

STATE = ".giza-remote.json"
"""In a copy's folder: name -> `Known`."""
WRITER = ".giza-writer.json"
"""In the store: who writes there, and when it last did."""
LATER = frozenset([".tar", ".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"])
"""Suffixes of files that are fetched when they are opened."""
FETCHED_AT_ONCE = 16
"""Files that are fetched side by side."""
JUST_OPENED_S = 60.0
"""A file that was asked for within this time may not be open yet: it makes no room."""
EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs"}
"""Scheme -> the extra of giza with the package that fsspec needs for it; hf:// needs none."""
_URL = re.compile(r"([a-z][a-z0-9+]+):/+(.+)", re.DOTALL)  # Path("s3://a") is "s3:/a"


def root() -> Path:
    """Where the copies lie."""
    return default_cache().resolve() / "remote"


def url_in(value: str | Path) -> str:
    """The URL that a flag's value is, also after it was made a Path; "" where it names a file or folder of this machine.

    Of the hub's only data is read so (hf://datasets/..., hf://buckets/...): a model is fetched by whoever loads it.
    """
    found = _URL.fullmatch(str(value))
    if not found or (found[1] == "hf" and found[2].split("/")[0] not in ("datasets", "buckets")):
        return ""
    return f"{found[1]}://{found[2].rstrip('/')}"


def copy_of(url: str) -> Path:
    """Where the copy of a URL lies, whether or not anything of it is there yet. Raises ValueError for one with ".." in it."""
    scheme, _, rest = url.partition("://")
    parts = [part for part in rest.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"'{url}': a URL with '..' in it; name the folder itself")
    return root().joinpath(scheme, *parts)


def url_of(path: Path) -> str:
    """The URL of what lies in a copy; "" for any other path."""
    try:
        scheme, *parts = Path(path).relative_to(root()).parts
    except ValueError:  # not within it, or it itself
        return ""
    return f"{scheme}://{'/'.join(parts)}"


def local(path: str) -> str:
    """The place in a copy of what was named by its URL; any other path as it is. The store is not asked."""
    url = url_in(path)
    return str(copy_of(url)) if url else path


def told(text: object) -> str:
    """A text for people, in which copies are called by their URLs."""
    return re.sub(re.escape(f"{root()}/") + r"([a-z][a-z0-9+]+)/", r"\1://", str(text))


@dataclass(frozen=True)
class Stored:
    """What a store says of a file."""

    path: str
    """In the store, with the bucket."""
    size: int
    mtime_ns: int
    """0 where it does not say."""
    token: str
    """Other bytes have another; of a store without digests its time stands for them."""


@dataclass(frozen=True)
class Known:
    """A file when copy and store were last the same."""

    token: str
    stamp: tuple[int, int]
    """Size and modification time (ns) of the copy."""


class Store:
    """The file system behind a URL. Every OSError that it raises has a number: the machine's trouble, not the data's.

    Raises ValueError for a scheme that fsspec does not know, and for one whose package is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._fs, self.path = fsspec.url_to_fs(url)
        except ImportError as error:
            scheme = url.partition("://")[0]
            wanted = f"pip install 'giza[{EXTRAS[scheme]}]'" if scheme in EXTRAS else error
            raise ValueError(f"'{url}': what reads {scheme}:// is not installed; {wanted}") from error
        except ValueError as error:
            raise ValueError(f"'{url}': {error}; known: s3, gs, hf, https and what else fsspec has") from error

    def list(self) -> dict[str, Stored]:
        """Name below the URL -> file, {} where there is nothing; of a file, "" -> it."""
        found = self._tried(lambda: self._fs.find(self.path, detail=True))
        base = self.path.rstrip("/")
        files = {path: facts for path, facts in found.items() if facts.get("type", "file") == "file"}
        return {_below(path, base): _stored(path, facts) for path, facts in files.items() if not path.endswith(WRITER)}

    def fetch(self, stored: str, path: Path) -> None:
        """A file, whole. Raises FileNotFoundError where it is gone."""
        self._tried(lambda: self._fs.get_file(stored, str(path)))

    def send(self, path: Path, name: str) -> Stored:
        """Puts a file of this machine below the URL."""
        there = f"{self.path.rstrip('/')}/{name}"
        self._tried(lambda: self._fs.put_file(str(path), there))
        return self._info(there)

    def read(self, name: str) -> bytes | None:
        """A small file, None where there is none."""
        try:
            return bytes(self._tried(lambda: self._fs.cat_file(f"{self.path.rstrip('/')}/{name}")))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """A small file."""
        self._tried(lambda: self._fs.pipe_file(f"{self.path.rstrip('/')}/{name}", data))

    def remove(self, name: str) -> None:
        """A file, where it is there."""
        with suppress(FileNotFoundError):
            self._tried(lambda: self._fs.rm_file(f"{self.path.rstrip('/')}/{name}"))

    def _info(self, stored: str) -> Stored:
        self._fs.invalidate_cache(stored.rpartition("/")[0])
        return _stored(stored, self._tried(lambda: self._fs.info(stored)))

    def _tried(self, call: Callable[[], Any]) -> Any:
        """Raises OSError with a number for whatever a store's package raises: each has errors of its own."""
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise OSError(errno.EIO, f"{self.url}: {type(error).__name__}: {str(error).split(chr(10))[0]}") from error


def _below(path: str, base: str) -> str:
    return path[len(base) :].lstrip("/") if path.startswith(base) else path


def _stored(path: str, facts: Mapping[str, Any]) -> Stored:
    times = (facts.get(name) for name in ("LastModified", "mtime", "updated", "last_modified", "created"))
    time_ = next((value for value in times if value), 0)
    if isinstance(time_, str):
        from datetime import datetime

        time_ = datetime.fromisoformat(time_)
    seconds = time_.timestamp() if hasattr(time_, "timestamp") else float(time_)
    names = ("ETag", "etag", "md5Hash", "sha256", "blob_id", "crc32c", "md5")
    digest = next((str(facts[name]) for name in names if facts.get(name)), "")
    size = int(facts.get("size") or 0)
    return Stored(path, size, round(seconds * 1e6) * 1000, f"{size} {digest or seconds}")


def at_hand(value: str | Path, *, made_here: bool = False) -> Path:
    """The local copy of a URL, brought up to date; any other path as it is.

    made_here: a job's output, which may not be there yet, and whose copy may be ahead of the store (the machine was killed): it
    stays so, unless another machine has gone on meanwhile. Raises FileNotFoundError where there is nothing, OSError where the
    store cannot be reached, and ValueError as `Store`.
    """
    url = url_in(value)
    if not url:
        return Path(value)
    store, copy = Store(url), copy_of(url)
    with _alone(copy):
        found = store.list()
        if not found and not made_here:
            raise FileNotFoundError(f"'{url}': there is nothing there")
        if found.keys() == {""}:
            _bring(store, {copy.name: found[""]}, copy.parent, keep={path.name for path in files_in(copy.parent)})
        else:
            _bring(store, found, copy, keep=set(), ahead=made_here)
    return copy


@contextmanager
def _alone(copy: Path) -> Iterator[None]:
    """Processes that read the same fetch it once."""
    lock = root() / ".locks" / (re.sub(r"[^\w.-]", "_", str(copy.relative_to(root())))[-200:] + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield


def _bring(store: Store, found: Mapping[str, Stored], folder: Path, keep: set[str], ahead: bool = False) -> None:
    """Makes `folder` hold what was `found`; where anything of it is new, what else lies there goes, but for what to `keep`.
    ahead: what lacks there was removed on purpose."""
    folder.mkdir(parents=True, exist_ok=True)
    known = read_state(folder)
    new = {
        name: stored
        for name, stored in found.items()
        if name not in known or known[name].token != stored.token or not (ahead or (folder / name).exists())
    }
    gone = {name for name in known if name not in found} - keep
    if new or gone:
        names = {str(path.relative_to(folder)) for path in files_in(folder)}
        for name in names - found.keys() - keep - {STATE}:
            (folder / name).unlink(missing_ok=True)
    later = {name for name in new if Path(name).suffix.lower() in LATER}
    for name in later:
        _stand_in(folder / name, new[name].size, new[name].mtime_ns)
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        for future in [pool.submit(_fetch, store, new[name], folder / name) for name in new.keys() - later]:
            future.result()
    if new or gone:
        fetched = {name: Known(stored.token, stamp_of(folder / name)) for name, stored in new.items()}
        write_state(folder, {name: facts for name, facts in known.items() if name not in gone} | fetched)


def read_state(folder: Path) -> dict[str, Known]:
    """See `STATE`; {} where it lacks or is damaged: then everything is looked at again."""
    try:
        found = json.loads((folder / STATE).read_text("utf-8"))
        return {name: Known(token, (size, mtime_ns)) for name, (token, size, mtime_ns) in found.items()}
    except (OSError, ValueError):
        return {}


def write_state(folder: Path, state: Mapping[str, Known]) -> None:
    """See `STATE`."""
    record = {name: [known.token, *known.stamp] for name, known in state.items()}
    with written_whole(folder / STATE) as temporary:
        temporary.write_text(json.dumps(record, indent=0), "utf-8")


def here(path: str | os.PathLike[str]) -> Path:
    """The path, after its bytes were fetched where it lies in a copy and they are not here. To be called by whoever opens a
    video or a tar, at once before. Raises OSError where the store cannot be reached."""
    path = Path(path)
    if not path.is_relative_to(root()):
        return path
    if not path.exists():  # the copy of another machine of the cluster has it
        at_hand(url_of(path))
    if is_here(path):
        return path
    facts = path.stat()
    store = Store(url_of(path))
    _fetch(store, Stored(store.path, facts.st_size, facts.st_mtime_ns, ""), path)
    _make_room_at_times(facts.st_size)
    return path


def is_here(path: Path) -> bool:
    """Whether a file's bytes are; if so, it was used just now. Raises FileNotFoundError without the file."""
    facts = path.stat()
    if not facts.st_mode & 0o777:
        return False
    if path.suffix.lower() in LATER:
        os.utime(path, ns=(time.time_ns(), facts.st_mtime_ns))
    return True


def _fetch(store: Store, stored: Stored, path: Path) -> None:
    temporary = root() / ".fetching" / uuid.uuid4().hex
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        store.fetch(stored.path, temporary)
        if temporary.stat().st_size != stored.size:
            raise OSError(errno.EIO, f"{url_of(path)}: changed while it was read; run the same command again")
        os.utime(temporary, ns=(time.time_ns(), stored.mtime_ns))
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _stand_in(path: Path, size: int, mtime_ns: int) -> None:
    """In a file's place: its name, size and time, no bytes, no permissions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
    temporary.touch()
    os.truncate(temporary, size)
    os.utime(temporary, ns=(time.time_ns(), mtime_ns))
    temporary.chmod(0)
    os.replace(temporary, path)


def _make_room_at_times(fetched: int) -> None:
    """Looks through the copies each time a fiftieth of the bound was fetched by this process."""
    _fetched[0] += fetched
    if _fetched[0] > _bound() / 50:
        _fetched[0] = 0
        make_room()


_fetched = [0]


def _bound() -> float:
    """Bytes."""
    return float(os.environ.get("GIZA_REMOTE_GB") or 100) * 1e9


def make_room() -> None:
    """Gives back the space of the videos and tars that were longest not opened, where all of them take more than the bound.

    What was made here and not sent yet stays. An open file keeps its bytes."""
    bound = _bound()
    held = [(path, path.stat()) for path in files_in(root()) if path.suffix.lower() in LATER]
    held = [(path, facts) for path, facts in held if facts.st_mode & 0o777]
    total = sum(facts.st_size for _, facts in held)
    states: dict[Path, dict[str, Known]] = {}
    for path, facts in sorted(held, key=lambda each: each[1].st_atime_ns):
        if total <= bound or time.time() - facts.st_atime_ns / 1e9 < JUST_OPENED_S:
            return
        if _is_in_store(path, states):
            _stand_in(path, facts.st_size, facts.st_mtime_ns)
            total -= facts.st_size


def _is_in_store(path: Path, states: dict[Path, dict[str, Known]]) -> bool:
    """Whether a copy's file is there as it is here. `states`: of the folders that were looked at."""
    for folder in path.parents:
        if folder == root():
            break
        if folder not in states:
            states[folder] = read_state(folder)
        known = states[folder].get(str(path.relative_to(folder)))
        if known is not None:
            return known.stamp == stamp_of(path)
    return False


def files_in(folder: Path) -> Iterator[Path]:
    """All files below it."""
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names)
