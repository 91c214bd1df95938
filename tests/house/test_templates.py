"""Pages from templates: what they read exists, and what they are given is escaped."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, UndefinedError, nodes

from jobs.ablation.findings import Comparison, Statistics, Success
from jobs.ablation.page import TEMPLATE
from jobs.evaluation.curves import Panel
from jobs.evaluation.page import TEMPLATE as EVALUATION
from jobs.evaluation.page import Bar, BarGroup, EpisodeView, FilmView, Shown
from jobs.evaluation.verdict import Verdict as Said
from lapa.codes import Codes
from lapa.reporting.atlas import AtlasEntry, AtlasUnit
from lapa.reporting.card import Card, Cuts, Probe, Verdict
from lapa.reporting.comparison import BodyComparison, Compared, Row
from lapa.reporting.comparison import Comparison as Reports
from lapa.reporting.images import Images
from lapa.reporting.latent_map import LatentMap
from lapa.reporting.page import HERE, render
from lapa.reporting.palette import Kinds
from lapa.reporting.scores import BodyToBody, MeanScore, Readout, Score

NAMES: dict[Path, dict[str, type]] = {
    HERE / "page.html.j2": {
        "card": Card, "codes": Codes, "cuts": Cuts, "probe": Probe, "step": Readout, "score": Score, "images": Images,
        "verdict": Verdict, "between": BodyToBody, "kinds": Kinds,
    },
    HERE / "map.html.j2": {
        "images": Images, "card": Card, "map": LatentMap, "first": Kinds, "entry": AtlasEntry, "unit": AtlasUnit,
    },
    HERE / "compare.html.j2": {
        "found": Reports, "body": BodyComparison, "row": Row, "score": MeanScore, "model": Compared,
    },
    TEMPLATE: {"c": Comparison, "cell": Success, "statistics": Statistics},
    EVALUATION: {
        "view": EpisodeView, "film": FilmView, "panel": Panel, "group": BarGroup, "bar": Bar, "shown": Shown, "verdict": Said,
    },
}  # fmt: skip
"""What is called so in a template."""


@pytest.mark.parametrize("template", NAMES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_a_template_reads_of_a_type_is_there(template: Path) -> None:
    read = set()
    for node in Environment().parse(template.read_text("utf-8")).find_all(nodes.Getattr):
        if isinstance(node.node, nodes.Name) and node.node.name in NAMES[template]:
            read.add((node.node.name, node.attr))
    assert {name for name, _ in read} == set(NAMES[template])  # none of the names has gone
    for name, attribute in sorted(read):
        kind: Any = NAMES[template][name]
        known = {field.name for field in dataclasses.fields(kind)} | set(dir(kind))
        assert attribute in known, f"{template.name} reads {name}.{attribute}"


def test_a_template_is_escaped_and_a_name_that_is_lacking_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "a.html.j2"
    page.write_text('{% extends "base.html.j2" %}{% block title %}{{ name }}{% endblock %}', "utf-8")
    assert "<title>&lt;b&gt; &amp;</title>" in render(page, name="<b> &")
    with pytest.raises(UndefinedError, match="'name' is undefined"):
        render(page)


def test_templates_are_part_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert {"*.j2", "*.js"} <= set(project["tool"]["setuptools"]["package-data"]["*"])
