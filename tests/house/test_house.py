"""The house itself: one set of pins, commands that exist, a sample corpus that stays small."""

from __future__ import annotations

import contextlib
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from jobs import cli

ROOT = Path(__file__).resolve().parents[2]


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\s*(?:- )?([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][^\s]*)$", text, re.M))


def test_conda_and_pip_users_get_the_same_versions() -> None:
    constraints = pins((ROOT / "constraints.txt").read_text())
    environment = pins((ROOT / "environment.yml").read_text())
    assert constraints == environment
    assert len(constraints) > 20


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {
        re.match(r"[A-Za-z0-9-]+", line)[0] for line in [*project["dependencies"], *extras["dev"], *extras["sim"]]
    }  # type: ignore[index]
    assert wanted == set(pins((ROOT / "constraints.txt").read_text()))


@pytest.mark.parametrize("name", list(cli.JOBS))
def test_every_job_answers_for_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(cli.JOBS[name][0])
    with contextlib.suppress(SystemExit):  # tyro leaves by it; what it printed is the claim
        module.main(["--help"])
    assert "usage: giza" in capsys.readouterr().out


def test_an_unknown_job_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["extrat"]) == 2
    assert "Did you mean 'extract'?" in capsys.readouterr().err


def test_a_users_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["train-lam", "--corpus", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("giza train-lam: ")
    assert "giza ingest" in said
    assert len(said.strip().splitlines()) == 1


def test_the_sample_corpus_is_small() -> None:
    total = sum(path.stat().st_size for path in (ROOT / "corpora" / "sample").rglob("*") if path.is_file())
    assert 1e6 < total <= 4 * 2**20
