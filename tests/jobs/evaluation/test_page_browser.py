"""evaluation.html in a real browser: the film follows the pointer and the curves the film, boxes hide curves, it fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corpora.episodes.selection import EpisodeSelection
from jobs.commands.evaluate import EvaluateConfig, run
from jobs.evaluation.page import PAGE
from tests.builders.browser import NEEDED, chromium
from tests.builders.datasets import lerobot_v3
from tests.jobs.evaluation.test_open_loop import made_policy

pytestmark = NEEDED


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("evaluated")
    made_policy().save_pretrained(root / "policy")
    data = lerobot_v3(root / "data")
    policy, chosen = str(root / "policy"), EpisodeSelection("1")
    config = EvaluateConfig(policy=policy, out=root / "out", data=data, selection=chosen, cache=root)
    run(config, quiet=True)
    return Path(root / "out" / PAGE).as_uri()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """Without a network, and without an error in the script."""
    errors: list[str] = []
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True).new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.locator(".stack").scroll_into_view_if_needed()
        page.wait_for_function("document.querySelector('.episode video').readyState > 1")
        yield page
    assert errors == []


def shown_s(page: Any) -> tuple[float, float]:
    """Seconds of the film and of the line over the curves."""
    found = page.evaluate(
        """() => { const episode = document.querySelector(".episode"), at = episode.querySelector(".stack").style;
        return [episode.querySelector("video").currentTime,
          parseFloat(at.getPropertyValue("--at")) / 100 * +episode.dataset.seconds]; }"""
    )
    return found[0], found[1]


def test_the_film_follows_the_pointer_and_the_curves_the_film(page: Any) -> None:
    seconds = float(page.locator(".episode").get_attribute("data-seconds"))
    box = page.locator(".stack").bounding_box()
    for share in (0.25, 0.6):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.5 * box["height"])
        page.wait_for_function(
            f"Math.abs(document.querySelector('.episode video').currentTime - {share * seconds}) < 0.02"
        )
        assert shown_s(page)[1] == pytest.approx(share * seconds, abs=0.02)
    page.mouse.move(5, 5)
    before = shown_s(page)
    page.evaluate("document.querySelector('.episode video').play()")
    page.wait_for_function(f"document.querySelector('.episode video').currentTime > {before[0] + 0.1}")
    page.evaluate("document.querySelector('.episode video').pause()")
    page.wait_for_timeout(100)
    film, line = shown_s(page)
    assert line == pytest.approx(film, abs=0.1) and line > before[1]


def test_a_box_hides_a_baselines_curve(page: Any) -> None:
    box = page.locator("#curve-hold_still")
    assert box.is_checked() and not page.locator("#curve-mean_chunk").is_checked()
    before = page.locator(".stack").screenshot()
    box.uncheck()
    assert page.locator(".stack").screenshot() != before


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
