"""The drawn pyramid: well-formed, areas as its caption says, every member named, nothing over anything else or outside."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import xml.etree.ElementTree as ElementTree
from importlib import resources
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest

from corpora.mixture.clip_samples import ClipsAt
from corpora.mixture.drawing import COLOURS, pyramid_svg, pyramid_text
from corpora.mixture.geometry import SCALES, Box, cut_bands
from corpora.mixture.label_kinds import Latents, Unlabelled
from corpora.mixture.mixture import MixtureSpec, read_mixture
from corpora.mixture.spec import DatasetSpec, Planned
from corpora.mixture.survey import Contents, DatasetSurvey, MixtureSurvey, TierSurvey
from jobs.commands import pyramid as job
from vla.recipes import recipe_named

NS = "{http://www.w3.org/2000/svg}"
EXAMPLE = Path(str(resources.files("corpora"))) / "examples" / "groot_n1.toml"


def made(hours: dict[str, list[float]], *, names: str = "member {}", name: str = "made") -> MixtureSurvey:
    """A survey of these hours by tier, base first; equal shares."""
    total, numbers, tiers = sum(map(len, hours.values())), itertools.count(), []
    for tier, parts in hours.items():
        members = tuple(
            DatasetSurvey(
                DatasetSpec(names.format(next(numbers)), tier, Planned(value)),
                Contents(12, int(value * 36000), value, 10, 1 / total, 3.25),
                "",
            )
            for value in parts
        )
        share = len(parts) / total
        tiers.append(TierSurvey(tier, members, Contents(12, 5, sum(parts), 10, share, 3.25)))
    whole = Contents(12, 5, sum(map(sum, hours.values())), 10, 1.0, 3.25)
    return MixtureSurvey(name, tuple(tiers), whole, 1000, 64, False, ())


def example() -> MixtureSurvey:
    return read_mixture(EXAMPLE).survey()


def areas(svg: str) -> dict[str, float]:
    """Member -> area of its polygon, by the shoelace formula."""
    found = {}
    for polygon in ElementTree.fromstring(svg).iter(f"{NS}polygon"):
        corners = np.array([[float(v) for v in pair.split(",")] for pair in polygon.get("points", "").split()])
        x, y = corners.T
        found[polygon.get("data-dataset", "")] = 0.5 * abs(x @ np.roll(y, -1) - y @ np.roll(x, -1))
    return found


def boxes(svg: str) -> list[tuple[str, float, float, float, float]]:
    """(text, left, top, right, bottom) of each text, with letters as wide as a wide common font's: 0.58 em, W and
    those of Chinese 0.95 em, bold a little more."""
    found = []
    for text in ElementTree.fromstring(svg).iter(f"{NS}text"):
        size, x, y = (float(text.get(name, "")) for name in ("font-size", "x", "y"))
        ems = sum(0.95 if letter == "W" or ord(letter) > 0x3000 else 0.58 for letter in text.text or "")
        width = ems * size * (1.05 if text.get("font-weight") else 1)
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[text.get("text-anchor", "start")] * width
        found.append((text.text or "", left, y - 0.8 * size, left + width, y + 0.2 * size))
    return found


PYRAMIDS = {
    "groot": example,
    "one": lambda: made({"robot": [0.2]}),
    "tiny robot": lambda: made({"human": [2000.0, 3.0], "synthetic": [40.0], "robot": [0.02]}),
    "sqrt": lambda: made({"human": [60.0], "neural": [5.0], "robot": [1.0]}),
    "nothing yet": lambda: made({"human": [0.0, 0.0], "robot": [0.0]}),
    "many": lambda: made({"human": [1.0] * 21, "synthetic": [2.0] * 9, "neural": [0.5] * 4, "robot": [3.0] * 14}),
    "wide letters": lambda: made({"human": [7.0, 5.0], "robot": [1.0] * 5}, names="{}" + 40 * "机器人", name=90 * "机"),
    "long names": lambda: made(
        {"human": [7.0, 5.0], "robot": [1.0] * 5}, names="{} a name that goes on & on <for longer> than anyone would read",
        name="W" * 200,
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", PYRAMIDS)
def test_every_dataset_is_named_and_no_text_is_outside_or_over_another(which: str) -> None:
    survey = PYRAMIDS[which]()
    svg = pyramid_svg(survey)
    root = ElementTree.fromstring(svg)
    _, _, width, height = (float(value) for value in root.get("viewBox", "").split())
    texts = boxes(svg)
    for text, left, top, right, bottom in texts:
        assert left >= 0 and right <= width and top >= 0 and bottom <= height, text
    for (one, *a), (two, *b) in itertools.combinations(texts, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"'{one}' lies over '{two}'"
    listed = [text for text, *_ in texts if re.match(r"\[\d+\] ", text)]
    assert len(listed) >= len(survey.datasets)
    for found in survey.datasets:
        start = found.spec.name[:4]
        assert any(start in text for text in listed), f"{found.spec.name} is not in the list"
    assert len({polygon.get("data-dataset") for polygon in root.iter(f"{NS}polygon")}) == len(survey.datasets)


@pytest.mark.parametrize("which", PYRAMIDS)
def test_areas_are_as_the_caption_says(which: str) -> None:
    survey = PYRAMIDS[which]()
    svg = pyramid_svg(survey)
    drawn = areas(svg)
    said = next(text for text, *_ in boxes(svg) if text.startswith("Scale: "))
    scale = next(scale for scale in SCALES if scale.name in said)
    tiers = [[drawn[found.spec.name] for found in tier.datasets] for tier in survey.tiers]
    hours = [[found.contents.hours for found in tier.datasets] for tier in survey.tiers]
    wanted = np.array(scale.measure([sum(part) for part in hours]))
    found = np.array([sum(part) for part in tiers])
    assert found / found.sum() == pytest.approx(wanted / wanted.sum(), abs=2e-4)
    for part, parts in zip(hours, tiers, strict=True):
        shares = np.array(part) / sum(part) if sum(part) else np.full(len(part), 1 / len(part))
        assert np.array(parts) / sum(parts) == pytest.approx(shares, abs=2e-3)


def test_clips_under_two_labels_take_the_room_of_one_dataset() -> None:
    """And each is named with its label, a control with what makes it one."""
    hours = {"human": [2.0, 2.0], "robot": [1.0]}
    survey = made(hours)
    people = ClipsAt(Path("people"))
    labels = (Latents(Path("mined")).shuffled(3), Unlabelled())
    tier = dataclasses.replace(
        survey.tiers[0],
        datasets=tuple(
            dataclasses.replace(
                found, spec=dataclasses.replace(found.spec, data=people, label=label, embodiment="latent")
            )
            for found, label in zip(survey.tiers[0].datasets, labels, strict=True)
        ),
    )
    both = dataclasses.replace(survey, tiers=(tier, survey.tiers[1]))
    svg = pyramid_svg(both)
    found = areas(svg)
    one, two = (found[each.spec.name] for each in tier.datasets)
    assert one == pytest.approx(two, rel=1e-3)
    alone = areas(pyramid_svg(made({"human": [2.0], "robot": [1.0]})))
    assert one + two == pytest.approx(alone["member 0"], rel=1e-2)
    assert "latents shuffled; never judged" in svg and "FLARE" in svg and "actions" in svg


def test_the_plainest_scale_in_which_all_can_be_seen_is_taken() -> None:
    box = Box(0, 0, 100, 400)
    chosen = [
        SCALES.index(cut_bands([[top], [base]], box, least=28)[1]) for top, base in ((1, 3), (1, 100), (1, 1e5), (0, 1))
    ]
    assert chosen == [0, 1, 2, 3]
    for top, base in ((1, 3), (1, 100), (1, 1e5), (0, 1)):
        bands, _ = cut_bands([[top], [base]], box, least=28)
        assert min(band.height(box) for band in bands) >= 28
        assert bands[0].top == 0 and bands[-1].bottom == 1
    with pytest.raises(ValueError, match="0 or more"):
        cut_bands([[-1.0]], box, least=1)
    with pytest.raises(ValueError, match="one tier or more"):
        cut_bands([], box, least=1)


def test_bands_stand_in_the_order_of_the_pyramid() -> None:
    """Robots on top, people's video at the base, and tiers that are not there leave no gap."""
    root = ElementTree.fromstring(pyramid_svg(made({"human": [2.0], "neural": [1.0], "robot": [1.0]})))
    tops = [min(float(pair.split(",")[1]) for pair in p.get("points", "").split()) for p in root.iter(f"{NS}polygon")]
    bottoms = [
        max(float(pair.split(",")[1]) for pair in p.get("points", "").split()) for p in root.iter(f"{NS}polygon")
    ]
    fills = [polygon.get("fill") for polygon in root.iter(f"{NS}polygon")]
    assert fills == [COLOURS["robot"], COLOURS["neural"], COLOURS["human"]]
    assert tops == sorted(tops) and tops[1:] == bottoms[:-1]


def test_nothing_is_loaded_and_text_is_legible_on_both_grounds() -> None:
    svg = pyramid_svg(example())
    assert not re.findall(r"url\(|href|@import|<script|<image|font-face", svg)
    assert "prefers-color-scheme: dark" in svg
    assert "prefers-color-scheme" not in pyramid_svg(example(), dark=False)
    light, dark = svg.split("@media")
    for style in (light, dark):
        ground = _fill(style, r"\.ground")
        assert _contrast(_fill(style, "giza-pyramid text"), ground) >= 7
        assert _contrast(_fill(style, r"\.soft"), ground) >= 4.5
    fills = {polygon.get("fill", "") for polygon in ElementTree.fromstring(svg).iter(f"{NS}polygon")}
    assert len(fills) > len(COLOURS), "neighbours differ in lightness"
    assert all(_contrast(_fill(light, r"text\.on"), fill) >= 4.5 for fill in fills)


def _fill(style: str, selector: str) -> str:
    found = re.search(selector + r" \{ fill: (#[0-9a-f]{6})", style)
    assert found, selector
    return found[1]


def _contrast(one: str, two: str) -> float:
    """WCAG 2.1: (L1 + 0.05) / (L2 + 0.05) of the relative luminances."""
    shades = []
    for colour in (one, two):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        shades.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(shades) + 0.05) / (min(shades) + 0.05)


def test_the_text_drawing_has_each_tier_with_its_hours() -> None:
    lines = pyramid_text(example()).splitlines()
    for tier, hours in (
        ("robot", "3,288.8 h"),
        ("neural", "827.3 h"),
        ("synthetic", "1,742.6 h"),
        ("human", "2,517.0 h"),
    ):
        assert sum(tier in line and hours in line for line in lines) == 1
    drawn = [len(line[:44].strip()) for line in lines[:-1]]
    assert drawn == sorted(drawn) and drawn[0] < drawn[-1] == 44
    assert lines[0].strip()[0] == "█" and lines[-2].strip()[0] == "░"


def test_any_hours_can_be_drawn() -> None:
    random.seed(3)
    for _ in range(40):
        tiers = random.sample(["human", "synthetic", "neural", "robot"], random.randint(1, 4))
        hours = {tier: [10 ** random.uniform(-4, 5) for _ in range(random.randint(1, 12))] for tier in tiers}
        survey = made(hours)
        svg = pyramid_svg(survey)
        ys = [
            float(y) for points in re.findall(r'points="([^"]+)" data', svg) for y in re.findall(r",([\d.]+)", points)
        ]
        trapezoid = 540 * 0.65 * (max(ys) - min(ys))  # base 540, top 0.3 of it
        assert sum(areas(svg).values()) == pytest.approx(trapezoid, rel=1e-3)
        assert len(pyramid_text(survey).splitlines()) >= 16


def test_the_example_is_the_table_of_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """REFERENCE.md, section 2: 8,375.7 h in all; the job prints and writes it."""
    job.main([str(EXAMPLE), "--out", str(tmp_path / "n1")])
    said = capsys.readouterr().out
    assert "8,375.7" in said and "AgiBot-Alpha" in said
    survey = example()
    sums = {tier.tier: round(tier.contents.hours, 1) for tier in survey.tiers}
    assert sums == {"human": 2517.0, "synthetic": 1742.6, "neural": 827.3, "robot": 3288.8}
    assert survey.contents.hours == pytest.approx(8375.7)
    assert survey.planned and not survey.faults
    assert survey.contents.share == pytest.approx(1)
    plan = recipe_named("small").training
    drawn = pyramid_svg(read_mixture(EXAMPLE).survey(steps=plan.steps, batch_size=plan.batch_size))
    assert (tmp_path / "n1" / "pyramid.svg").read_text() == drawn
    page = (tmp_path / "n1" / "pyramid.html").read_text()
    assert page.count('class="giza-pyramid"') == 1 and "3,288.8 h" in page and "Where this page is from" in page
    assert "never judged" not in page  # there is nothing to judge
    for dataset in survey.datasets:
        assert f"<td>{escape(dataset.spec.name)}</td>" in page


def test_a_mixture_draws_itself_in_a_notebook() -> None:
    mixture = read_mixture(EXAMPLE)
    assert mixture._repr_svg_() == mixture.svg() == pyramid_svg(mixture.survey())
    assert str(mixture) == pyramid_text(mixture.survey())
    with pytest.raises(ValueError, match="no tier to draw"):
        MixtureSpec(()).svg()
