"""Killed at any moment and started again: the same bytes; finished: nothing to do; other settings: refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.ingestion.assemble import Assembly, Place
from corpora.ingestion.pipeline import Progress, make_corpus, silent
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.ingestion.stage import stage_source
from corpora.sources.source import SourceDefaults
from corpora.store import run as store_run
from corpora.store.run import LOCK
from tests.builders.datasets import lerobot_v2
from tests.builders.videos import numbered_video

FLAGS = ["--size", "64", "--clip-s", "1", "--camera-gap-s", "0.2", "--shard-mb", "0.1", "--workers", "2"]
SETTINGS = IngestSettings(size=64, clip_s=1.0, camera_gap_s=0.2, shard_mb=0.1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("in") / "v"
    folder.mkdir()
    for seed in range(6):
        numbered_video(folder / f"{seed}.mp4", 40, seed=seed % 4)  # the last two are copies of the first
    (folder / "empty.mp4").write_bytes(b"")
    lerobot_v2(folder / "arm")
    return folder


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory) -> Path:
    """What an uninterrupted run writes."""
    out = tmp_path_factory.mktemp("out") / "whole"
    run(videos, out)
    return out


@pytest.fixture
def own_videos(videos, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(videos, tmp_path / "own"))


@pytest.fixture
def finished(whole, tmp_path) -> Path:
    """A copy of the finished corpus that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "finished"))


def contents(root: Path) -> dict[str, bytes]:
    """Of a corpus: neither how long it took, nor the lock that a run killed after its last word leaves."""
    left_out = ("timing.json", ".lock")
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in left_out)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def staged_in(out: Path) -> list[Path]:
    return sorted((out / "staging").rglob("done/*/*.tar"))


def start(videos: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "jobs.cli", "ingest", str(videos), "--out", str(out), *FLAGS]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def check_kills(videos: Path, whole: Path, out: Path, kills: int, seed: int) -> None:
    """Kills `kills` runs of one ingest at random moments; then lets it finish. One that finishes before its kill is
    compared at once, and started anew."""
    expected = contents(whole)
    seconds = json.loads((whole / "timing.json").read_text())["wall_s"]
    rng = np.random.default_rng(seed)
    parts = 0
    for _ in range(kills):
        (out / LOCK).unlink(missing_ok=True)  # of the run that was killed before
        process = start(videos, out)
        while process.poll() is None and not (out / LOCK).exists():  # its imports take as long as the machine is busy
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.0) * seconds)
        process.kill()
        if process.wait() == 0:
            assert contents(out) == expected
            shutil.rmtree(out)
        parts += out.is_dir() and not (out / "ingest.json").exists()
    assert parts, "no kill came in the middle"
    assert start(videos, out).wait() == 0
    assert contents(out) == expected


def test_killed_and_started_again_it_writes_the_same_bytes(videos, whole, tmp_path):
    check_kills(videos, whole, tmp_path / "killed", kills=4, seed=0)


@pytest.mark.slow
def test_twenty_kills_change_nothing(videos, whole, tmp_path):
    check_kills(videos, whole, tmp_path / "killed", kills=20, seed=1)


def run(videos: Path, out: Path, settings: IngestSettings = SETTINGS, progress: Progress = silent, **how) -> dict:
    return make_corpus([str(videos)], settings, SourceDefaults(), IngestRun(out, **how), progress)


class Stop(Exception):
    pass


@pytest.mark.parametrize("when", ["decoding", "writing shards"])
@pytest.mark.parametrize("sources", [1, 11])
def test_stopped_within_a_phase_it_goes_on_from_there(videos, whole, tmp_path, when, sources):
    def stop(phase: str, done: int, total: int, seconds: float) -> None:
        if phase == when and done >= sources:
            raise Stop

    out = tmp_path / "stopped"
    with pytest.raises(Stop):
        make_corpus([str(videos)], SETTINGS, SourceDefaults(), IngestRun(out), stop)
    with pytest.raises(ValueError, match="its ingest has not finished"):
        Corpus(out)
    staged_before = len(staged_in(out)) + Place.found(out / "staging", out).sources
    summary = run(videos, out, workers=2)
    assert summary["sources_staged"] == summary["sources"] - staged_before
    assert contents(out) == contents(whole)
    assert not (out / "staging").exists()


def test_what_was_staged_is_removed_as_shards_are_closed(videos, tmp_path):
    """No more is left at any time than what lies behind the last shard, and what a worker is ahead."""
    out, left = tmp_path / "c", []

    def watch(phase: str, done: int, total: int, seconds: float) -> None:
        if phase == "decoding":
            left.append(len(staged_in(out)))

    run(videos, out, dataclasses.replace(SETTINGS, shard_mb=0.02), progress=watch)
    assert len(left) == 12
    assert max(left[:6]) <= 3  # what comes then is near-duplicates, which close no shard


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("lost", ["nothing", "the place", "the part"])
def test_killed_about_the_closing_of_a_shard_it_goes_on_from_there(videos, whole, tmp_path, shards, lost):
    """Whatever of shard, rows and place is on the disk already."""
    closed, out = Assembly._close_part, tmp_path / "c"

    def kill(assembly: Assembly) -> None:
        number = assembly._part
        if number + 1 < shards:
            closed(assembly)
            return
        if lost != "the part":
            assembly._give_back = lambda: None
            closed(assembly)
        if lost == "the place":
            (out / "staging" / "parts" / f"{number:06d}.json").unlink()
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Assembly, "_close_part", kill)
        with pytest.raises(Stop):
            run(videos, out)
    assert Place.found(out / "staging", out).parts == shards - (lost != "nothing")
    summary = run(videos, out)
    assert summary["sources"] == 11
    assert contents(out) == contents(whole)


def test_sources_that_come_in_between_are_put_in_between(own_videos, tmp_path):
    """Shards that were closed before then hold other clips than they should: they are written anew."""
    out = tmp_path / "c"
    with pytest.raises(Stop):
        make_corpus([str(own_videos)], SETTINGS, SourceDefaults(), IngestRun(out), stop_after_shards(out, 2))
    assert Place.found(out / "staging", out).sources > 0
    numbered_video(own_videos / "0a.mp4", 30, seed=50)
    run(own_videos, out)
    run(own_videos, tmp_path / "anew")
    assert contents(out) == contents(tmp_path / "anew")


def test_shards_behind_a_source_that_is_tried_again_are_not_final(own_videos, tmp_path):
    first, out = own_videos / "1.mp4", tmp_path / "c"
    function = "tests.corpora.ingestion.test_ingest_resume:stage_but_one"
    os.environ["NOT_NOW"] = first.name
    try:
        summary = run(own_videos, out, function=function)
    finally:
        del os.environ["NOT_NOW"]
    assert summary["retry"] == {"unreachable": 1}
    assert Place.found(out / "staging", out).sources <= 3  # arm comes before
    assert len(Corpus(out).clips)
    assert run(own_videos, out)["sources_staged"] == 1
    run(own_videos, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def stage_but_one(task: dict, heartbeat) -> dict:
    if task["source"]["path"].endswith("/" + os.environ.get("NOT_NOW", "nothing")):
        return {"retry": "unreachable", "detail": "as asked"}
    return stage_source(task, heartbeat)


def stop_after_shards(out: Path, count: int):
    def stop(phase: str, done: int, total: int, seconds: float) -> None:
        if len(list((out / "staging" / "parts").glob("0*.json"))) >= count:
            raise Stop

    return stop


def test_a_finished_corpus_is_left_alone(videos, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert run(videos, finished, workers=2)["already_finished"]
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_a_run_killed_after_its_last_file_needs_no_more_than_tidying(videos, whole, finished):
    (finished / "staging" / "tmp").mkdir(parents=True)
    record = json.loads((finished / "ingest.json").read_text())["config"]
    (finished / "staging" / "ingest.json").write_text(json.dumps(record))
    assert run(videos, finished)["already_finished"]
    assert contents(finished) == contents(whole)


@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_are_refused(videos, finished, complete):
    if not complete:
        (finished / "staging").mkdir()
        record = json.loads((finished / "ingest.json").read_text())["config"]
        (finished / "staging" / "ingest.json").write_text(json.dumps(record))
        (finished / "ingest.json").unlink()
    with pytest.raises(
        ValueError, match=r"with other settings \(settings.size 64 there and 96 here\).*give another --out"
    ):
        run(videos, finished, IngestSettings(size=96, clip_s=1.0, camera_gap_s=0.2, shard_mb=0.1))


def test_changed_inputs_are_refused_for_a_finished_corpus(own_videos, tmp_path):
    run(own_videos, tmp_path / "c")
    numbered_video(own_videos / "new.mp4", 30, seed=50)
    with pytest.raises(ValueError, match="its inputs have changed since"):
        run(own_videos, tmp_path / "c")
    assert len(Corpus(tmp_path / "c").clips) > 0


def test_folders_of_others_are_not_written_into(videos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds other files"):
        run(videos, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="is a file"):
        run(videos, tmp_path / "mine" / "thesis.txt")


def test_two_runs_do_not_write_one_corpus(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(store_run, "LOCK_WAIT_S", 0.0)
    out = tmp_path / "c"
    first = start(videos, out)
    limit = time.monotonic() + 30
    while not (out / "staging" / "sources.jsonl").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
    with pytest.raises(ValueError, match="another process is writing to"):
        run(videos, out)
    assert first.wait() == 0


def test_the_output_may_lie_inside_the_input(own_videos):
    out = own_videos / "corpus"
    summary = run(own_videos, out)
    assert run(own_videos, out)["already_finished"]
    assert summary["sources"] == 11


@pytest.mark.parametrize("damage", [0, 700])
def test_a_staged_file_that_cannot_be_read_is_staged_again(videos, whole, tmp_path, damage):
    """C6: a machine that crashes may leave a file of no length, or half a file, under its name."""

    def stop(phase: str, done: int, total: int, seconds: float) -> None:
        if phase == "decoding" and done >= 5:
            raise Stop

    out = tmp_path / "stopped"
    with pytest.raises(Stop):
        make_corpus([str(videos)], SETTINGS, SourceDefaults(), IngestRun(out), stop)
    staged, assembled = staged_in(out), Place.found(out / "staging", out).sources
    os.truncate(staged[0], damage)
    summary = run(videos, out)
    assert summary["sources_staged"] == summary["sources"] - assembled - len(staged) + 1
    assert contents(out) == contents(whole)


def test_no_video_at_all_is_said(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"no video in .*files of other kinds: \{'.txt': 1\}.*give video files"):
        run(tmp_path / "v", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_ingest_json_is_the_same_run_after_run(videos, whole, tmp_path):
    run(videos, tmp_path / "b", workers=2, file_timeout_s=60)
    one, other = ((path / "ingest.json").read_text() for path in (whole, tmp_path / "b"))
    assert one == other
    assert "near_duplicate" in json.loads(one)["reasons"]
