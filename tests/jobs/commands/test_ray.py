"""Ray: what it makes on a cluster is what one process makes, byte for byte, whatever is killed meanwhile."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.cluster_utils import Cluster

from corpora import cluster as cluster_module
from corpora.clips.corpus import Corpus
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.source import SourceDefaults
from corpora.store.files import available_cores
from jobs.benchmarks.extract import random_model
from jobs.cli import main
from jobs.commands.extract import ExtractConfig, run
from lapa.extraction.extract import write_latents
from lapa.recipes import RECIPES
from tests.builders.clusters import other_machine, ray_cluster, wait_until, workers_of
from tests.builders.corpora import corpus_files, write_corpus
from tests.builders.deadly import DEADLY_PART
from tests.builders.latents import parts
from tests.builders.videos import numbered_video, turn_clockwise

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:ray")
SETTINGS = IngestSettings(size=64, clip_s=1.0, camera_gap_s=0.2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster(2) as made:
        yield made


@pytest.fixture(scope="module")
def lam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lam") / "lam"
    random_model(RECIPES["debug"].model, folder, 0)
    return folder


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("long") / "corpus", [seed for seed in range(60) if seed != 3])


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(16):
        numbered_video(folder / f"{number:02d}.mp4", 40, seed=number)
    return folder


def extraction(lam: Path, corpus: Path, out: Path, **how: Any) -> ExtractConfig:
    """With one thread for the model, as workers have on a cluster: more would round otherwise."""
    common = {"gap_s": 0.5, "part_frames": 70, "batch_size": 8, "device": "cpu", "measure_s": 0.0}
    threads = {} if "engine" in how else {"workers": max(1, available_cores() - 1)}
    return ExtractConfig(lam=lam, corpus=corpus, out=out, **{**common, **threads, **how})


class Happening:
    """Counts what a job says is done, and once it has said so much, lets something happen."""

    def __init__(self, **happens: Callable[[], object]) -> None:
        """`after_4`: what happens when four are done."""
        self._happens = {int(name.removeprefix("after_")): what for name, what in happens.items()}
        self.told: list[int] = []
        self.total = 0

    def ingesting(self, phase: str, done: int, total: int, seconds: float) -> None:
        if phase == "decoding":
            self.extracting(done, total, 0)

    def extracting(self, done: int, total: int, pairs: int) -> None:
        self.told.append(done)
        self.total = total
        for after in [after for after in self._happens if after <= done]:
            self._happens.pop(after)()

    def expect(self) -> None:
        """All happened, and what was told rose from nothing to all there was."""
        assert not self._happens
        assert self.told == sorted(self.told) and self.told[0] == 0 and self.told[-1] == self.total


@pytest.mark.usefixtures("cluster")
def test_ray_ingests_the_same_bytes(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for seed, name in enumerate(("a.mp4", "b.mkv", "c.webm", "d.mp4")):
        how = {"codec": "libvpx-vp9"} if name.endswith("webm") else {}
        numbered_video(videos / name, 30, seed=seed % 3, **how)  # the last is a copy of the first
    (videos / "e.mp4").write_bytes(b"no video")
    turn_clockwise(numbered_video(videos / "f.mp4", 20, seed=4, audio=True), 1)
    numbered_video(videos / "g.mkv", 20, seed=5, times=np.cumsum([0.04, 0.08] * 10))
    shown = Happening()
    make_corpus([str(videos)], SETTINGS, SourceDefaults(), IngestRun(tmp_path / "alone", workers=2))
    make_corpus([str(videos)], SETTINGS, SourceDefaults(), IngestRun(tmp_path / "ray", "ray", None), shown.ingesting)
    assert corpus_files(tmp_path / "ray") == corpus_files(tmp_path / "alone")
    shown.expect()
    assert len(shown.told) == 8


@pytest.mark.usefixtures("cluster")
def test_ray_extracts_the_same_bytes(tiny_corpus: Path, lam: Path, tmp_path: Path) -> None:
    run(extraction(lam, tiny_corpus, tmp_path / "alone"))
    summary = run(extraction(lam, tiny_corpus, tmp_path / "ray", engine="ray", measure_s=0.1))
    assert run(extraction(lam, tiny_corpus, tmp_path / "ray", engine="ray"))["already_finished"]
    assert parts(tmp_path / "ray") == parts(tmp_path / "alone") and len(parts(tmp_path / "ray")) > 2
    assert summary["skipped_reasons"] == {"shorter_than_gap": 1} and summary["decode_pairs_per_s"] > 0
    assert not list((tmp_path / "ray").glob("*.tmp"))


@pytest.mark.usefixtures("cluster")
def test_ray_reads_and_writes_urls(
    tiny_corpus: Path, lam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers take the job's copies, wherever those of who started the cluster would be."""
    monkeypatch.setenv("GIZA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GIZA_MODULES", "tests.builders.stores")
    store = tmp_path / "store"
    shutil.copytree(tiny_corpus, store / "corpus"), shutil.copytree(lam, store / "lam")
    url = f"standin:/{store}"
    flags = ["--gap-s", "0.5", "--part-frames", "70", "--batch-size", "8", "--device", "cpu", "--measure-s", "0"]
    words = ["--lam", f"{url}/lam", "--corpus", f"{url}/corpus", "--out", f"{url}/latents", *flags]
    assert main(["extract", *words, "--engine", "ray"]) == 0
    run(extraction(lam, tiny_corpus, tmp_path / "alone"))
    assert parts(store / "latents") == parts(tmp_path / "alone")
    assert not list((store / "latents").rglob("*.tmp")) and (store / "latents" / "_extract.json").exists()


@pytest.mark.usefixtures("cluster")
def test_where_the_model_runs_is_what_the_cluster_has_and_not_this_machine(
    tiny_corpus: Path, lam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = extraction(lam, tiny_corpus, tmp_path / "out", engine="ray", device="auto", part_frames=1000)
    assert run(config)["device"] == "cpu"
    with pytest.raises(ValueError, match="device 'cuda': no machine of the cluster has a GPU"):
        run(dataclasses.replace(config, device="cuda", out=tmp_path / "other"))


def shards(corpus: Path) -> dict[str, bytes]:
    return {name: data for name, data in corpus_files(corpus).items() if name.startswith("shards")}


@pytest.mark.slow  # two minutes: workers and a machine of the cluster are killed
def test_workers_and_machines_that_die_change_no_byte_of_a_corpus(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a video that ends every worker, and one that crashes its decoder: they alone are to be tried again."""
    monkeypatch.setattr(cluster_module, "LOOK_S", 1.0)
    make_corpus([str(videos)], SETTINGS, SourceDefaults(), IngestRun(tmp_path / "alone", workers=2))
    for name in ("deadly.mp4", "crashing.mp4"):
        shutil.copy(videos / "00.mp4", videos / name)
    with ray_cluster(3) as cluster:
        happening = Happening(
            after_3=lambda: workers_of(cluster)[0].kill(),
            after_5=lambda: workers_of(cluster)[0].children()[0].kill(),
            after_7=lambda: cluster.remove_node(cluster.list_all_nodes()[2], allow_graceful=False),
            after_10=lambda: workers_of(cluster)[0].kill(),
        )
        how = IngestRun(tmp_path / "ray", "ray", None, function="tests.builders.deadly:stage")
        summary = make_corpus([str(videos)], SETTINGS, SourceDefaults(), how, happening.ingesting)
        happening.expect()
        assert summary["retry"] == {"worker_died": 2}
        rows = [row for row in Corpus(tmp_path / "ray").rows() if row.reason != "worker_died"]
        assert rows == list(Corpus(tmp_path / "alone").rows()) and shards(tmp_path / "ray") == shards(
            tmp_path / "alone"
        )
        told = {row.source: row.detail for row in Corpus(tmp_path / "ray").rows() if row.reason == "worker_died"}
        assert "it ended 3 workers, the last so: " in told["deadly.mp4"] and "SIGSEGV" in told["crashing.mp4"]
        for name in ("deadly.mp4", "crashing.mp4"):
            (videos / name).unlink()
    again = IngestRun(tmp_path / "again", workers=2)
    assert make_corpus([str(videos)], SETTINGS, SourceDefaults(), again)["clips"] == summary["clips"]


@pytest.mark.slow  # two minutes, as above
def test_workers_and_machines_that_die_change_no_byte_of_latents(
    long_corpus: Path, lam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that ends every worker is told once the others are there, and made when it does so no more."""
    monkeypatch.setattr(cluster_module, "LOOK_S", 1.0)
    note = tmp_path / "deadly"
    note.write_text("2")
    monkeypatch.setenv(DEADLY_PART, str(note))
    monkeypatch.setenv("GIZA_MODULES", "tests.builders.deadly")
    write_latents(extraction(lam, long_corpus, tmp_path / "alone"), tmp_path / "alone")
    whole = parts(tmp_path / "alone")
    assert len(whole) > 20
    with ray_cluster(3) as cluster:
        happening = Happening(
            after_8=lambda: workers_of(cluster)[0].kill(),
            after_16=lambda: cluster.remove_node(cluster.list_all_nodes()[2], allow_graceful=False),
            after_24=lambda: workers_of(cluster)[0].kill(),
        )
        config = extraction(lam, long_corpus, tmp_path / "ray", engine="ray")
        with pytest.raises(OSError, match=r"1 of \d+ parts could not be made, the others are written; .*part-000002"):
            write_latents(config, config.out, progress=happening.extracting)
        assert {name: data for name, data in whole.items() if name != "part-000002.parquet"} == parts(config.out)
        assert happening.told == sorted(happening.told) and len(happening.told) == len(whole)
        note.unlink()
        resumed = Happening()
        write_latents(config, config.out, progress=resumed.extracting)
        assert len(resumed.told) == 2 and resumed.told[-1] == resumed.total
    assert parts(config.out) == whole
    assert not list(config.out.glob("*.tmp"))


def start(out: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.cli", *words, "--out", str(out), "--engine", "ray"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


INGEST = ("--size", "64", "--clip-s", "1", "--camera-gap-s", "0.2")
EXTRACT = ("--gap-s", "0.5", "--part-frames", "70", "--measure-s", "0", "--batch-size", "8", "--device", "cpu")


@pytest.mark.slow  # two minutes, and ten on a busy machine
@pytest.mark.timeout(1200)
def test_killed_itself_or_without_its_cluster_a_job_is_resumed(
    videos: Path, long_corpus: Path, lam: Path, tmp_path: Path
) -> None:
    """The command is killed, then the head of its cluster; a new one finishes both jobs."""
    make_corpus([str(videos)], SETTINGS, SourceDefaults(), IngestRun(tmp_path / "alone", workers=2))
    run(extraction(lam, long_corpus, tmp_path / "alone_latents"))
    corpus, latents = tmp_path / "ray", tmp_path / "ray_latents"
    ingest = ("ingest", str(videos), *INGEST)
    extract = ("extract", "--lam", str(lam), "--corpus", str(long_corpus), *EXTRACT)
    with ray_cluster(2) as cluster:
        for out, words, made in ((corpus, ingest, "staging/done/*/*.tar"), (latents, extract, "part-*.parquet")):
            job = start(out, *words)
            wait_until(lambda out=out, made=made: len(list(out.glob(made))) > 1, 120)
            job.kill()
            assert job.wait() == -signal.SIGKILL
            wait_until(lambda: not workers_of(cluster))
            assert not (out / "ingest.json").exists() and not (out / "_extract.json").exists()
        job, before = start(latents, *extract), len(parts(latents))
        wait_until(lambda: len(parts(latents)) > before + 1, 120)
        cluster.head_node.kill_gcs_server()
        cluster.head_node.kill_raylet()
        assert job.wait(120) not in (0, None)
        assert not (latents / "_extract.json").exists()
    with ray_cluster(2):
        assert start(corpus, *ingest).wait(300) == 0 and start(latents, *extract).wait(300) == 0
    assert corpus_files(corpus) == corpus_files(tmp_path / "alone")
    assert parts(latents) == parts(tmp_path / "alone_latents")


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["videos", "out", "lam"])
def test_a_folder_that_another_machine_does_not_see_is_named(
    hidden: str, videos: Path, tiny_corpus: Path, lam: Path, tmp_path: Path
) -> None:
    """The other machine is a raylet with a mount namespace of its own, in which the folder is empty."""
    out = tmp_path / "out"
    out.mkdir()
    folder = {"videos": videos, "out": out, "lam": lam}[hidden]
    refused = pytest.raises(FileNotFoundError, match=rf"does not see '{folder}.* as this machine does: .*\(NFS")
    with ray_cluster(0) as cluster, other_machine(cluster, folder), refused:
        if hidden == "videos":
            make_corpus([str(videos)], SETTINGS, SourceDefaults(), IngestRun(out, "ray", None))
        run(extraction(lam, tiny_corpus, out, engine="ray"))
