"""giza view in a real browser: an item is chosen and searched for, plays, is gone through by click and key, at any width."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.viewing.items import Viewed, open_viewed
from jobs.viewing.server import serve
from tests.builders.browser import NEEDED, chromium

pytestmark = NEEDED


@pytest.fixture(scope="module")
def viewed(tiny_corpus: Path, tiny_latents: Path) -> Viewed:
    return open_viewed(tiny_corpus, tiny_latents)


@pytest.fixture
def page(viewed: Viewed) -> Iterator[Any]:
    with serve(viewed, "tiny", 0) as server, chromium() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_function(
            "document.querySelectorAll('canvas').length && document.querySelector('video').readyState > 1"
        )
        yield page
        page.close()
        server.shutdown()
    assert errors == []


def now(page: Any) -> float:
    return float(page.evaluate("document.querySelector('video').currentTime"))


def test_an_item_is_found_played_and_gone_through(page: Any, viewed: Viewed) -> None:
    wanted = viewed.heads[4]
    page.fill("#search", wanted.name)
    assert page.locator("#list button").count() == 1
    page.click("#list button")
    page.wait_for_function(f"document.getElementById('head').textContent.startsWith('{wanted.name}')")
    page.wait_for_function("document.querySelector('video') && document.querySelector('video').readyState > 1")
    assert [title.split(",")[0] for title in page.locator("h2").all_text_contents()][:2] == ["codes", "latent"]
    page.locator("main").click(position={"x": 5, "y": 5})
    page.keyboard.press("ArrowRight")
    page.wait_for_function("Math.abs(document.querySelector('video').currentTime - 0.1) < 0.05")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('video').currentTime > 0.3")
    page.keyboard.press("Space")
    assert page.locator("#play").text_content() == "Play"
    box = page.locator("canvas").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 5)
    page.wait_for_function(f"Math.abs(document.querySelector('video').currentTime - {wanted.seconds / 2}) < 0.1")
    page.hover("canvas >> nth=1")
    assert " s\nlatent 0 " in page.locator("canvas").nth(1).get_attribute("title")


def test_a_curve_is_hidden(page: Any) -> None:
    seen = "document.querySelectorAll('canvas')[2].toDataURL()"
    page.wait_for_timeout(300)
    before = page.evaluate(seen)
    page.locator("section").nth(2).locator("input").first.uncheck()
    page.wait_for_timeout(300)
    assert page.evaluate(seen) != before


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth")


@pytest.mark.parametrize("width", [300, 1400])
def test_a_film_has_its_true_aspect(page: Any, viewed: Viewed, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function("document.querySelector('video').style.aspectRatio")
    aspect = viewed.films(0)[0].aspect or page.evaluate(
        "(video => video.videoWidth / video.videoHeight)(document.querySelector('video'))"
    )
    box = page.locator("video").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(aspect, rel=0.02) and box["width"] > 100
