"""ablation.html in a real browser: its films play, what is folded opens, it fits a phone and a desk, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.ablation.page import write_page
from jobs.ablation.statistics import summarise
from tests.builders.browser import NEEDED, chromium
from tests.builders.videos import numbered_video
from tests.jobs.ablation.test_ablation_page import made

pytestmark = NEEDED


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("ablated")
    numbered_video(folder / "film.mp4", 25)
    result = made()
    film = {"task": "push", "start": 0, "success": True, "seconds": 1.0, "file": "film.mp4"}
    next(run for run in result["runs"] if run["arm"] == "human-latent")["films"] = [film]
    write_page(result, folder / "ablation.html", summarise(result, draws=300))
    return Path(folder / "ablation.html").as_uri()


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1400, "light")])
def test_films_play_and_what_is_folded_opens(address: str, width: int, scheme: str) -> None:
    with chromium() as browser:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        page = context.new_page()
        page.goto(address)
        page.evaluate("document.querySelector('video').play()")
        page.wait_for_function("document.querySelector('video').currentTime > 0.2")
        folded = page.locator("summary", has_text="Loss on held-out demonstrations")
        curve = page.locator("details", has=folded).locator("svg").first
        assert not curve.is_visible()
        folded.click()
        assert curve.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("nav.contents a", has_text="Rollouts").click()
        assert page.url.endswith("#" + page.locator("nav.contents a", has_text="Rollouts").get_attribute("href")[1:])
