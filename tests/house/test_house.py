"""The house itself: one set of pins, a sample corpus that stays small, variants that answer for themselves."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
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


def kinds_asked(tree: ast.Module) -> Iterator[ast.expr]:
    """What isinstance and match compare with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.MatchClass):
            yield node.cls
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            yield node.args[1]


def test_no_file_asks_of_which_variant_another_is() -> None:
    """Where classes of giza share a base, what differs is asked of them. The Python face takes a thing or where it lies."""
    rooms = ("corpora", "lapa", "flare", "vla", "jobs")
    trees = {path: ast.parse(path.read_text()) for room in rooms for path in (ROOT / room).rglob("*.py")}
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    own = {each.name for each in classes}
    related = [(each.name, {base.id for base in each.bases if isinstance(base, ast.Name)} & own) for each in classes]
    variants = {name for name, bases in related if bases}.union(*(bases for _, bases in related))
    assert {"ClipsAt", "Latents", "VectorQuantiser", "DualSystemPolicy"} <= variants
    asked = {
        (path.relative_to(ROOT).as_posix(), name.id)
        for path, tree in trees.items()
        for kinds in kinds_asked(tree)
        for name in ast.walk(kinds)
        if isinstance(name, ast.Name) and name.id in variants
    }
    assert asked == {
        ("corpora/mixture/mixture.py", "Label"),
        ("lapa/reporting/measure.py", "Corpus"),
        ("lapa/reporting/measure.py", "Latents"),  # lapa's, which are no label
        ("lapa/extraction/extract.py", "Corpus"),
        ("jobs/functions.py", "Result"),
        ("lapa/latent_dataset.py", "Corpus"),
        ("lapa/latent_dataset.py", "Latents"),
    }
