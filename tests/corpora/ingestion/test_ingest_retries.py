"""How an ingest ends: what could not be looked at is taken up again by the same command, and a corpus of nothing is said."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from corpora.clips.corpus import Corpus
from corpora.clips.frames import open_clip_frames
from corpora.ingestion import stage
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.ingestion.stage import stage_source
from corpora.ingestion.staged import clear_unfinished
from corpora.ingestion.worker import Heartbeat, IsolatedWorker, WorkerNotStarted
from corpora.sources.source import File, Source, SourceDefaults
from corpora.video.probe import Unusable, VideoFacts
from jobs import cli
from tests.builders.corpora import write_corpus
from tests.builders.videos import numbered_video

SMALL = IngestSettings(size=32, clip_s=2.0, camera_gap_s=0.2)

STAGE = """
import os
from pathlib import Path
from corpora.ingestion.stage import stage_source

def stage(task, heartbeat):
    wish = Path(os.environ["GIZA_TEST_TROUBLE"]) / task["source"]["name"]
    if wish.exists():
        exec(wish.read_text())
    return stage_source(task, heartbeat)
"""


@pytest.fixture
def wishes(tmp_path, monkeypatch) -> Path:
    """A folder of what is to go wrong, by the name of the source."""
    (tmp_path / "troubled_stage.py").write_text(STAGE)
    (tmp_path / "wishes").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("GIZA_TEST_TROUBLE", str(tmp_path / "wishes"))
    return tmp_path / "wishes"


def make(out: Path, *inputs: Path, **how) -> dict:
    return make_corpus([str(path) for path in inputs], SMALL, SourceDefaults(), IngestRun(out, **how))


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("in") / "v"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        numbered_video(folder / f"{name}.mp4", 20, seed=seed)
    return folder


def test_trouble_is_taken_up_again_and_ends_in_the_same_bytes(videos, tmp_path, wishes):
    how = {"function": "troubled_stage:stage", "workers": 2}
    make(tmp_path / "whole", videos, **how)
    (wishes / "b.mp4").write_text("os.kill(os.getpid(), 9)")
    (wishes / "c.mp4").write_text("raise MemoryError")
    out = tmp_path / "c"
    first = make(out, videos, **how)
    assert (first["clips"], first["retry"]) == (1, {"failed": 1, "worker_died": 1})
    assert {row.source: row.reason for row in Corpus(out).rows()} == {
        "a.mp4": "",
        "b.mp4": "worker_died",
        "c.mp4": "failed",
    }
    again = make(out, videos, **how)  # still there
    assert again["already_finished"] and again["retry"] == first["retry"]
    for wish in wishes.iterdir():
        wish.unlink()
    mended = make(out, videos, **how)
    assert (mended["clips"], mended["retry"], mended["sources_staged"]) == (3, {}, 2)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"path": "/nowhere/a.mp4"}, "missing_file"),
        ({"path": "/proc/self/mem", "stamp": [0, 0]}, "unreachable"),  # it opens, and cannot be read
        ({"path": "/proc"}, "unreachable"),
        ({"stamp": [17, 4]}, "changed"),
    ],
)
def test_what_the_machine_does_to_a_file_is_no_verdict(videos, tmp_path, change, reason):
    source = {**Source("a.mp4", "a.mp4", File.at(videos / "a.mp4")).to_json(), **change}
    clear_unfinished(tmp_path)
    task = {"source": source, "settings": dataclasses.asdict(SMALL), "staging": str(tmp_path), "seed": 0}
    assert stage_source(task, lambda: None)["retry"] == reason
    assert not list(tmp_path.rglob("*.tar"))


def test_damage_is_final_only_where_all_of_the_file_can_be_read(videos, tmp_path, monkeypatch):
    """FFmpeg takes a disk that fails for the damage of a file."""
    reads, hashed = [], stage._hash

    def failing(path: Path, heartbeat: Heartbeat) -> str:
        reads.append(path)
        if len(reads) > 1:
            raise OSError(errno.EIO, "Input/output error")
        return hashed(path, heartbeat)

    def damaged(path: str, heartbeat: Heartbeat) -> VideoFacts:
        raise Unusable("unreadable", "moov atom not found")

    monkeypatch.setattr(stage, "probe", damaged)
    source = Source("a.mp4", "a.mp4", File.at(shutil.copy(videos / "a.mp4", tmp_path / "a.mp4")))
    task = {"source": source.to_json(), "settings": dataclasses.asdict(SMALL), "staging": str(tmp_path), "seed": 0}
    clear_unfinished(tmp_path)
    assert "retry" not in stage_source(task, lambda: None)
    monkeypatch.setattr(stage, "_hash", failing)
    stage._content_hash.cache_clear()
    assert stage_source(task, lambda: None)["retry"] == "unreachable"


def test_a_list_whose_files_come_back(videos, tmp_path):
    """As when a disk is not mounted for a moment: nothing is there when the list is read."""
    lines = [json.dumps({"path": f"v/{name}.mp4"}) for name in "abc"]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    first = make(tmp_path / "c", tmp_path / "list.jsonl")
    assert (first["clips"], first["retry"]) == (0, {"missing_file": 3})
    shutil.copytree(videos, tmp_path / "v")
    assert make(tmp_path / "c", tmp_path / "list.jsonl")["clips"] == 3


def test_without_its_staging_a_corpus_stays_as_it_is(videos, tmp_path):
    """Which frees the disk, where what is missing will never come."""
    (tmp_path / "list.jsonl").write_text('{"path": "gone.mp4"}\n' + json.dumps({"path": str(videos / "a.mp4")}))
    make(tmp_path / "c", tmp_path / "list.jsonl")
    shutil.rmtree(tmp_path / "c" / "staging")
    assert make(tmp_path / "c", tmp_path / "list.jsonl")["already_finished"]


def test_a_full_disk_stops_the_job(videos, tmp_path, wishes):
    (wishes / "b.mp4").write_text(
        "import corpora.ingestion.staged as s\n"
        "def full(*_): raise OSError(28, 'No space left on device')\n"
        "s.add_member = full"
    )
    with pytest.raises(OSError, match="No space left on device") as caught:
        make(tmp_path / "c", videos, function="troubled_stage:stage")
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "c" / "ingest.json").exists()


def test_a_worker_that_cannot_start_says_why(videos, tmp_path, monkeypatch):
    (tmp_path / "no_stage.py").write_text("import a_library_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        IsolatedWorker("no_stage:stage", timeout_s=30) as worker,
        pytest.raises(WorkerNotStarted, match="(?s)exit status 1.*No module named 'a_library_that_is_not_there'"),
    ):
        worker.call({})
    with pytest.raises(OSError, match="a_library_that_is_not_there"):
        make(tmp_path / "c", videos, function="no_stage:stage")


def test_the_status_tells_of_much_trouble(videos, tmp_path, caplog):
    os.symlink(tmp_path / "nowhere", tmp_path / "d.mp4")
    flags = ["--size", "32", "--workers", "1", "--out"]
    words = ["ingest", str(videos), str(tmp_path / "d.mp4")]
    assert cli.main([*words, *flags, str(tmp_path / "c")]) == 3
    assert "1 of 4 sources could not be looked at (1 missing_file)" in caplog.text
    assert "the same command takes them up again" in caplog.text
    assert cli.main([*words, "--max-retry-share", "0.3", *flags, str(tmp_path / "c")]) == 0


def test_where_nothing_is_kept_it_is_said_with_the_remedy(videos, tmp_path, caplog, capsys):
    out = str(tmp_path / "c")
    assert cli.main(["ingest", str(videos), "--size", "32", "--min-clip-s", "5", "--workers", "1", "--out", out]) == 4
    assert "no clips were kept: 3 too_short; lower --min-clip-s" in caplog.text
    assert cli.main(["train-lam", "--corpus", out, "--recipe", "debug", "--out", str(tmp_path / "lam")]) == 2
    assert "no clips were kept: 3 too_short; lower --min-clip-s" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["train-lam", "--recipe", "debug"],
        ["extract", "--lam", "lam"],
        ["track"],
        ["crosspaint", "--tracks", "tracks"],
        ["label", "--robot", "robot", "--embodiment", "arm"],
    ],
    ids=lambda flags: flags[0],
)
def test_who_reads_a_corpus_of_nothing_says_why_it_is_one(tmp_path, capsys, monkeypatch, flags):
    """M16: most sent to the manifest, and `label` trained first and asked for a shorter horizon."""
    monkeypatch.chdir(tmp_path)
    for name in ("lam", "tracks", "robot"):
        (tmp_path / name).mkdir()
    empty = write_corpus(tmp_path / "empty", ())
    assert cli.main([*flags, "--corpus", str(empty), "--out", str(tmp_path / "out")]) == 2
    assert "no clips were kept: 6 static; lower --quality.min-change" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_policy_cannot_learn_from_a_corpus_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="no clips were kept: 6 static; lower --quality.min-change"):
        open_clip_frames(Corpus(write_corpus(tmp_path / "empty", ())), 32, cache=tmp_path)
