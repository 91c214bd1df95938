"""No job writes into a folder of another kind: one line, before anything is loaded or written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corpora.store.kinds import KINDS, Kind, expect_own
from corpora.store.run import Run
from jobs.cli import JOBS, main
from jobs.commands import ground

WORDS = {
    "demo": "",
    "simulate": "",
    "multiply": "--demos HERE --into 2",
    "ingest": "HERE",
    "train-lam": "--corpus HERE",
    "extract": "--lam HERE --corpus HERE",
    "report": "--corpus HERE --latents HERE",
    "export": "--latents HERE --corpus HERE --format lerobot-v3",
    "compare": "HERE HERE",
    "track": "--corpus HERE",
    "crosspaint": "--corpus HERE --tracks HERE",
    "label": "--robot HERE --embodiment hand --corpus HERE",
    "pretrain": "--pyramid HERE",
    "ground": "--policy HERE --data HERE",
    "evaluate": "--policy HERE --metaworld",
    "pyramid": "--pyramid HERE",
    "ablate": "",
    "bench": "machine",
}
NO_OUTPUT = {"serve", "view"}
FOLDERS = (
    ("a corpus", ("ingest.json", "manifest.parquet", "shards/clips-000000.tar")),
    ("a corpus", ("staging/sources.jsonl",)),
    ("latents", ("_extract.json", "_settings.json", "part-000000.parquet")),
    ("labels", ("_label.json", "_settings.json", "part-000000.parquet")),
    ("tracks", ("_track.json", "_settings.json", "_clips.parquet")),
    ("a LeRobot dataset", ("meta/info.json", "data/chunk-000/file-000.parquet")),
    ("a training", ("train.json", "run.json", "config.json")),
    ("a latent action model", ("train.json:model.quantiser.kind", "checkpoints/last.ckpt")),
    ("a policy", ("train.json:model.head", "run.json", "config.json")),
    ("an ablation", ("train.json:design",)),
    ("latents", ("_settings.json:stride_s", "part-000000.parquet")),
    ("labels", ("_settings.json:robot_contents",)),
    ("tracks", ("_settings.json:source",)),
    ("a report", ("settings.json:report_format",)),
    ("an evaluation", ("settings.json:fingerprint",)),
    ("a report", ("report.json", "settings.json", "report.html")),
    ("an evaluation", ("evaluation.json", "settings.json")),
    ("an ablation", ("ablation.json", "train.json")),
    ("a comparison", ("compare.json", "compare.html")),
    ("a pyramid's drawing", ("pyramid.json", "pyramid.svg")),
)
"""What finished and unfinished folders hold."""


def test_every_job_is_asked() -> None:
    assert {*WORDS} | NO_OUTPUT == {*JOBS}
    assert {job for kind in KINDS for job in kind.jobs} == {*WORDS}


def made(folder: Path, files: tuple[str, ...]) -> Path:
    for mark in files:
        name, _, setting = mark.partition(":")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({setting: 1} if setting else {}))
    return folder


@pytest.mark.parametrize("job", sorted(WORDS))
def test_a_folder_of_another_kind_is_refused(
    job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ground, "SETS", {})  # it reads what --policy says first
    (tmp_path / "here").mkdir()
    asked = 0
    for number, (what, files) in enumerate(FOLDERS):
        if any(job in kind.jobs for kind in KINDS if kind.what == what):
            continue
        out = made(tmp_path / str(number), files)
        assert main([job, *WORDS[job].replace("HERE", "here").split(), "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"giza {job}: --out '{out}' is {what} (")
        assert said.endswith("): name a new or empty folder\n") and said.count("\n") == 1
        assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
            mark.partition(":")[0] for mark in files
        }
        asked += 1
    assert asked >= 8


def test_from_python_too(tmp_path: Path) -> None:
    """Every job that resumes is a `Run`."""
    for number, (what, files) in enumerate(FOLDERS):
        run = Run(made(tmp_path / str(number), files), {"seed": 0}, summary="own.json", record="own-settings.json")
        with pytest.raises(ValueError, match=f"is {what} "):
            _ = run.finished
        with pytest.raises(ValueError, match="name a new or empty folder"), run.claim():
            raise AssertionError
        assert not list(run.folder.glob("own*"))


def test_what_lies_in_a_run_already_does_not_stop_it(tmp_path: Path) -> None:
    """An evaluation that was written into a training's folder by an earlier version."""
    expect_own(made(tmp_path, ("train.json:model.head", "evaluation.json")), "pretrain")
    expect_own(tmp_path / "not there", "pretrain")
    expect_own(made(tmp_path / "notes", ("notes.txt",)), "pretrain")


def test_a_mark_is_of_one_kind() -> None:
    marks = [mark for kind in KINDS for mark in kind.marks]
    assert len(marks) == len({*marks}) and all(isinstance(kind, Kind) for kind in KINDS)
