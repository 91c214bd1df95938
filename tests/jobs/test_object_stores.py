"""Jobs that read and write URLs give, on a real S3 server, what they give on a disk; also where the machine dies half-way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from corpora.clips.corpus import Corpus
from corpora.store.remote import STATE, WRITER, copy_of
from jobs.cli import main
from lapa import Latents, load
from tests.builders.corpora import corpus_files
from tests.builders.datasets import lerobot_v2
from tests.builders.s3 import s3_server
from tests.builders.stores import stand_in
from tests.builders.videos import numbered_video

FLAGS = ["--size", "64", "--clip-s", "1", "--camera-gap-s", "0.2", "--shard-mb", "0.1", "--workers", "2"]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def videos(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files, a damaged one, a list and a robot dataset; also at `bucket`/videos."""
    folder = tmp_path_factory.mktemp("in") / "videos"
    folder.mkdir()
    for seed in range(6):
        numbered_video(folder / f"{seed}.mp4", 40, seed=seed)
    (folder / "damaged.mp4").write_bytes(b"no video")
    (folder / "some.jsonl").write_text('{"path": "1.mp4", "end": 2}\n{"path": "2.mp4"}\n')
    lerobot_v2(folder / "arm")
    fsspec.filesystem("s3").put(f"{folder}/", f"{bucket}/videos/", recursive=True)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIZA_CACHE", str(tmp_path / "cache"))


def down(url: str, folder: Path) -> Path:
    store = fsspec.url_to_fs(url)[0]
    store.invalidate_cache()
    store.get(f"{url}/", f"{folder}/", recursive=True)
    return folder


def rows(folder: Path) -> list[dict[str, object]]:
    return pq.read_table(folder / "manifest.parquet").to_pylist()


def shards(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in corpus_files(folder).items() if name.startswith("shards/")}


@pytest.mark.parametrize("what", ["", "/some.jsonl", "/[1-3].mp4", "/arm"])
def test_ingest_from_a_url_to_a_url(videos: Path, bucket: str, what: str, tmp_path: Path) -> None:
    url = f"{bucket}/corpus{len(what)}"
    assert main(["ingest", f"{bucket}/videos{what}", "--out", url, *FLAGS]) == 0
    assert main(["ingest", f"{videos}{what}", "--out", str(tmp_path / "here"), *FLAGS]) == 0
    there = down(url, tmp_path / "there")
    assert rows(there) == rows(tmp_path / "here") and shards(there) == shards(tmp_path / "here")
    assert not {path.name for path in there.rglob("*")} & {"staging", ".lock", STATE}
    assert json.loads((there / "ingest.json").read_text())["config"]["inputs"] != [f"{videos}{what}"]
    assert str(tmp_path) not in (there / "ingest.json").read_text()  # no place of this machine


DIES = """
import itertools, os, signal, sys
from corpora.ingestion.assemble import Assembly
from corpora.store import upload
from corpora.store.remote import Store, url_of
from jobs.cli import main

advance, times = Assembly.advance, itertools.count(1)

def advance_or_die(self):
    if next(times) == 3:  # of eleven sources, two or three are staged
        upload.send(Store(url_of(self._out)), self._out)
        os.kill(os.getpid(), signal.SIGKILL)
    advance(self)

Assembly.advance = advance_or_die
sys.exit(main())
"""


def test_a_machine_that_dies_and_another_that_goes_on(videos: Path, bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/killed"
    words = [f"{bucket}/videos", "--out", url, *FLAGS]
    store, sent = fsspec.filesystem("s3"), 0
    for number in range(2):
        machine = os.environ | {"GIZA_CACHE": str(tmp_path / f"machine{number}")}
        died = subprocess.run([sys.executable, "-c", DIES, "ingest", *words], env=machine, stderr=subprocess.DEVNULL)
        assert died.returncode == -signal.SIGKILL
        store.invalidate_cache()
        before, sent = sent, len(store.find(f"{url}/staging"))
        assert sent > before and not store.exists(f"{url}/ingest.json")
    assert main(["ingest", *words]) == 0
    assert main(["ingest", str(videos), "--out", str(tmp_path / "here"), *FLAGS]) == 0
    there = down(url, tmp_path / "there")
    assert rows(there) == rows(tmp_path / "here") and shards(there) == shards(tmp_path / "here")
    assert not (there / "staging").exists()


@pytest.mark.parametrize(
    "store_url",
    [
        "s3",
        "hf://datasets/me/some",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("gs://bucket", "hf://buckets/me/some")),
    ],
)
def test_latents_of_a_corpus_behind_a_url(
    store_url: str, bucket: str, tiny_corpus: Path, tiny_lam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the server; and of Google's and the hub's, on stand-ins that tell of files what those do."""
    if store_url != "s3":
        bucket = store_url
        stand_in(monkeypatch, bucket[:2], tmp_path / "store")
    store = fsspec.url_to_fs(bucket)[0]
    store.put(f"{tiny_corpus}/", f"{bucket}/tiny/", recursive=True)
    store.put(f"{tiny_lam}/", f"{bucket}/lam/", recursive=True)
    words = ["--gap-s", "0.4", "--device", "cpu"]
    assert (
        main(["extract", "--lam", f"{bucket}/lam", "--corpus", f"{bucket}/tiny", "--out", f"{bucket}/z", *words]) == 0
    )
    assert (
        main(["extract", "--lam", str(tiny_lam), "--corpus", str(tiny_corpus), "--out", str(tmp_path / "z"), *words])
        == 0
    )
    there = down(f"{bucket}/z", tmp_path / "there")
    parts = sorted(path.name for path in there.glob("part-*.parquet"))
    assert parts and parts == sorted(path.name for path in (tmp_path / "z").glob("part-*.parquet"))
    for name in parts:
        assert pq.read_table(there / name).equals(pq.read_table(tmp_path / "z" / name))
    assert Corpus(f"{bucket}/tiny").identity == Corpus(tiny_corpus).identity
    assert Latents(f"{bucket}/z").parts[0].name == parts[0] and load(f"{bucket}/lam").config == load(tiny_lam).config
    assert not {path.name for path in there.rglob("*")} & {".lock", STATE, WRITER}
    copied = copy_of(f"{bucket}/z")
    shutil.rmtree(copied)  # another machine finds it finished
    assert (
        main(["extract", "--lam", f"{bucket}/lam", "--corpus", f"{bucket}/tiny", "--out", f"{bucket}/z", *words]) == 0
    )


def test_what_is_wrong_is_told_with_the_url(bucket: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["extract", "--lam", f"{bucket}/nothing", "--corpus", f"{bucket}/nothing", "--out", f"{bucket}/z2"]
    assert main(words) == 2
    assert capsys.readouterr().err == f"giza extract: '{bucket}/nothing': there is nothing there\n"
    fsspec.filesystem("s3").pipe_file(f"{bucket}/nocorpus/a.txt", b"a")
    assert main(["train-lam", "--corpus", f"{bucket}/nocorpus", "--out", f"{bucket}/lam2", "--recipe", "debug"]) == 2
    error = capsys.readouterr().err
    assert f"'{bucket}/nocorpus' is not a corpus" in error and str(tmp_path) not in error


def test_training_goes_on_on_another_machine_from_a_pyramid_behind_a_url(
    videos: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = '[[dataset]]\nname = "arm"\ntier = "robot"\nlabel = "actions"\nembodiment = "arm"\ndataset = "arm"\n'
    (videos / "pyramid.toml").write_text(table)
    fsspec.filesystem("s3").pipe_file(f"{bucket}/videos/pyramid.toml", table.encode())
    words = ["--recipe", "debug", "--training.val-every-steps", "2", "--training.workers", "0", "--seed", "3"]
    for steps, machine in ((2, "one"), (4, "other")):
        monkeypatch.setenv("GIZA_CACHE", str(tmp_path / machine))
        run = ["pretrain", "--pyramid", f"{bucket}/videos/pyramid.toml", "--out", f"{bucket}/policy"]
        assert main([*run, *words, "--training.steps", str(steps)]) == 0
    there = down(f"{bucket}/policy", tmp_path / "there")
    run = ["pretrain", "--pyramid", str(videos / "pyramid.toml"), "--out", str(tmp_path / "here")]
    assert main([*run, *words, "--training.steps", "2"]) == 0 and main([*run, *words, "--training.steps", "4"]) == 0
    assert json.loads((there / "run.json").read_text())["steps"] == 4
    assert (there / "model.safetensors").read_bytes() == (tmp_path / "here" / "model.safetensors").read_bytes()
