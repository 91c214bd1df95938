"""The house itself: one set of pins, a sample corpus that stays small."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

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


def test_the_sample_corpus_is_small() -> None:
    total = sum(path.stat().st_size for path in (ROOT / "corpora" / "sample").rglob("*") if path.is_file())
    assert 1e6 < total <= 4 * 2**20
