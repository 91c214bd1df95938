"""A local copy of what lies behind a URL: small files at once, large ones as they are opened, room given back; and an output
that reaches the store whatever happens to the machine. The store is a real S3 server."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry

from corpora.store import remote, upload
from corpora.store.files import read_through
from corpora.store.remote import at_hand, copy_of, here, local, make_room, told, url_in, url_of
from corpora.store.run import Run
from corpora.store.upload import send, uploaded
from tests.builders.s3 import s3_server
from tests.builders.stores import stand_in


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIZA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(bucket: str, request: pytest.FixtureRequest) -> str:
    """URL of a folder of this test alone, with a small file and a large one."""
    url = f"{bucket}/{request.node.name}"
    put(url, "facts.json", b"{}")
    put(url, "shards/clips-000000.tar", b"t" * 1000)
    return url


def put(url: str, name: str, data: bytes) -> None:
    store = fsspec.filesystem("s3")
    store.pipe_file(f"{url}/{name}", data)
    store.invalidate_cache()


def names(url: str) -> set[str]:
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    return {path.split("/", 2)[2] for path in store.find(url)}


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIZA_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(upload.socket, "gethostname", lambda: "other")


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("s3://b/a", "s3://b/a"),
        (Path("s3://b/a/"), "s3://b/a"),
        ("hf://datasets/o/n", "hf://datasets/o/n"),
        ("hf://owner/model", ""),  # fetched by whoever loads the model
        ("a/b", ""),
        ("C:/videos", ""),
    ],
)
def test_which_values_are_urls(value: str | Path, url: str) -> None:
    assert url_in(value) == url


def test_a_copy_and_its_url_name_each_other() -> None:
    copy = copy_of("s3://b/a.tar")
    assert url_of(copy) == "s3://b/a.tar" and local("s3://b/a.tar") == str(copy) and local("x") == "x"
    assert told(f"'{copy}' is no corpus") == "'s3://b/a.tar' is no corpus"
    assert url_of(Path("/elsewhere")) == ""
    with pytest.raises(ValueError, match=r"'\.\.' in it"):
        copy_of("s3://b/../../etc")


def test_large_files_are_fetched_when_they_are_opened(folder: str) -> None:
    copy = at_hand(folder)
    tar = copy / "shards" / "clips-000000.tar"
    assert (copy / "facts.json").read_bytes() == b"{}"
    stamp = tar.stat()
    assert stamp.st_size == 1000 and not stamp.st_mode & 0o777 and on_disk(tar) == 0
    assert here(tar).read_bytes() == b"t" * 1000
    assert (tar.stat().st_size, tar.stat().st_mtime_ns) == (
        1000,
        stamp.st_mtime_ns,
    )  # the stamps by which files are known
    read_through(tar)


def test_a_copy_follows_its_store(folder: str) -> None:
    copy = at_hand(folder)
    tar = here(copy / "shards" / "clips-000000.tar")
    put(folder, "facts.json", b"[]")
    put(folder, "shards/clips-000000.tar", b"u" * 1000)
    put(folder, "new.txt", b"new")
    fsspec.filesystem("s3").rm_file(f"{folder}/facts.json")
    at_hand(folder)
    assert here(tar).read_bytes() == b"u" * 1000 and (copy / "new.txt").exists() and not (copy / "facts.json").exists()


def test_what_is_unchanged_is_not_fetched_again(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here(at_hand(folder) / "shards" / "clips-000000.tar")
    monkeypatch.setattr(remote.Store, "fetch", lambda *_: pytest.fail("fetched again"))
    assert here(at_hand(folder) / "shards" / "clips-000000.tar").exists()


def test_what_was_longest_not_opened_makes_room(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 6):
        put(folder, f"shards/clips-{number:06d}.tar", bytes([number]) * 100_000)
    copy = at_hand(folder)
    tars = [here(copy / "shards" / f"clips-{number:06d}.tar") for number in range(1, 6)]
    own = copy / "shards" / "clips-000009.tar"
    own.write_bytes(b"not sent yet" * 10_000)
    for age, path in enumerate([own, *tars]):
        os.utime(path, ns=(time.time_ns() - (100 - age) * 10**10, path.stat().st_mtime_ns))
    monkeypatch.setenv("GIZA_REMOTE_GB", str(420_000 / 1e9))
    with tars[0].open("rb") as opened:
        make_room()
        assert opened.read() == bytes([1]) * 100_000  # an open file keeps its bytes
    held = [on_disk(path) > 0 for path in tars]
    assert held == [False, False, True, True, True] and on_disk(own) > 0
    assert here(tars[0]).read_bytes() == bytes([1]) * 100_000  # and comes back


def test_a_url_with_nothing_behind_it_and_one_that_cannot_be_reached(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=f"'{bucket}/nowhere': there is nothing there"):
        at_hand(f"{bucket}/nowhere")
    with pytest.raises(ValueError, match="'nosuch://a/b'"):
        at_hand("nosuch://a/b")
    with pytest.raises(OSError) as refused:
        at_hand("s3://nosuchbucket/a")
    assert isinstance(refused.value, FileNotFoundError) or refused.value.errno  # the machine's trouble, not the data's


@pytest.mark.parametrize(("url", "package", "extra"), [("gs://b/a", "gcsfs", "gs"), ("s3://b/a", "s3fs", "s3")])
def test_a_package_that_lacks_is_named(url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_registry, url[:2], raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ValueError, match=rf"'{url}': what reads {url[:2]}:// is not installed; pip install 'giza\[{extra}\]'"
    ):
        at_hand(url)


def test_what_is_kept_as_commits_is_sent_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub takes some hundred commits an hour, and each file that is sent, a sign of life among them, is one."""
    stand_in(monkeypatch, "hf", tmp_path / "store")
    waits: list[float] = []

    class Ended(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return True

    for url in ("hf://datasets/me/some", "hf://buckets/me/some"):
        upload._send_at_times(remote.Store(url), tmp_path, Ended())
    assert waits == [600, 30]


def test_an_output_grows_in_the_store_and_ends_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{bucket}/grows"
    monkeypatch.setattr(upload, "EVERY_S", 0.05)
    copy = at_hand(url, made_here=True)
    run = Run(copy, {"seed": 0})
    with run.claim():
        (copy / "part-000000.parquet").write_bytes(b"0")
        (copy / "half.tmp").write_bytes(b"?")
        until = time.monotonic() + 20
        while "part-000000.parquet" not in names(url):
            assert time.monotonic() < until, "nothing was sent"
            time.sleep(0.05)
        (copy / "half.tmp").unlink()
        (copy / "part-000000.parquet").unlink()
        (copy / "part-000001.parquet").write_bytes(b"1")
        run.finish({"rows": 1})
    assert names(url) == {"settings.json", "run.json", "part-000001.parquet"}


def test_another_machine_goes_on_where_one_died(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{bucket}/died"
    copy = at_hand(url, made_here=True)
    (copy / "a.txt").write_bytes(b"a")
    (copy / "staged.txt").write_bytes(b"s")
    send(remote.Store(url), copy)
    (copy / "b.txt").write_bytes(b"not sent: the machine died")
    (copy / "staged.txt").unlink()
    ahead = at_hand(url, made_here=True)  # the same machine, once it is up again, is ahead of the store
    assert (ahead / "b.txt").exists() and not (ahead / "staged.txt").exists()

    with monkeypatch.context() as patch:
        another_machine(patch, tmp_path)
        other = at_hand(url, made_here=True)
        assert (other / "a.txt").read_bytes() == b"a" and not (other / "b.txt").exists()
        (other / "c.txt").write_bytes(b"c")
        send(remote.Store(url), other)
    back = at_hand(url, made_here=True)
    assert (back / "c.txt").exists() and not (back / "b.txt").exists()  # the other's run, not a mixture of two


def test_two_machines_cannot_write_to_one_output(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{bucket}/both"
    with Run(at_hand(url, made_here=True), {"seed": 0}).claim(), monkeypatch.context() as patch:
        another_machine(patch, tmp_path)
        with (
            pytest.raises(ValueError, match=f"another process is writing to '{url}'"),
            Run(at_hand(url, made_here=True), {"seed": 0}).claim(),
        ):
            pass
        patch.setattr(upload, "SILENT_S", 0.0)  # one that was not heard of for long is dead
        with uploaded(copy_of(url)):
            pass


def test_what_cannot_be_sent_is_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{bucket}/unsent"
    copy = at_hand(url, made_here=True)

    def refuse(*_: object) -> None:
        raise OSError(28, "no space there")

    monkeypatch.setattr(remote.Store, "send", refuse)
    with pytest.raises(OSError, match="no space there"), uploaded(copy):
        (copy / "a.txt").write_bytes(b"a")
