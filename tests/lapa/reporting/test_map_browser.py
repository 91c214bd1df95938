"""The atlas in a real browser: colours, filter, hover, click, play, neighbours, keyboard, and no script at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lapa.reporting.card import Card
from tests.builders.browser import NEEDED, chromium

pytestmark = NEEDED


@pytest.fixture(scope="module")
def address(motion_card: Card, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    motion_card.save_html(path)
    return path.as_uri()


@pytest.fixture
def browser() -> Iterator[Any]:
    """One for each test: of one that hangs, the others take no harm."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """Without a network, and without an error in the script."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, offline=True)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: errors.append(request.url) if request.url.startswith("http") else None)
    page.goto(address)
    page.locator("#map").scroll_into_view_if_needed()
    yield page
    context.close()
    assert errors == []


def part(page: Any, name: str) -> Any:
    return page.locator(f'[data-map="{name}"]')


def data(page: Any) -> dict[str, Any]:
    return dict(page.evaluate("JSON.parse(document.getElementById('map-data').textContent)"))


def on_screen(page: Any, point: int, way: str = "t-SNE") -> tuple[float, float]:
    """Where a point is in the window."""
    box = page.locator("#map").bounding_box()
    x, y = data(page)["maps"][way][2 * point : 2 * point + 2]
    return box["x"] + x * box["width"] / 1000, box["y"] + y * box["height"] / 720


def alone(found: dict[str, Any], way: str = "t-SNE") -> int:
    """The point that is farthest from its nearest on the map, so that a click can mean no other."""
    flat = found["maps"][way]
    places = list(zip(flat[::2], flat[1::2], strict=True))
    apart = [
        min((x - u) ** 2 + (y - v) ** 2 for j, (u, v) in enumerate(places) if j != k) for k, (x, y) in enumerate(places)
    ]
    return apart.index(max(apart))


def playing(video: Any, low: float, high: float) -> bool:
    """Whether it moves, and for a second between these times of the clip."""
    times = video.evaluate(
        """async (video) => { const times = []; for (let k = 0; k < 40; k++) { times.push(video.currentTime);
        await new Promise((done) => setTimeout(done, 25)); } return times; }"""
    )
    return len(set(times)) > 3 and low - 0.05 <= min(times) and max(times) <= high + 0.3


def test_hover_tells_and_a_click_plays_the_pairs_own_moments(page: Any) -> None:
    found = data(page)
    point = alone(found)
    page.mouse.move(*on_screen(page, point))
    assert found["labels"][point] in part(page, "told").inner_text()
    page.mouse.click(*on_screen(page, point))
    video = part(page, "chosen").locator("video")
    page.wait_for_function("document.querySelector('[data-map=chosen] video').readyState >= 3")
    assert video.evaluate("video => [video.videoHeight, video.muted, video.loop]") == [160, True, True]
    page.wait_for_timeout(300)
    begin = found["start"][point]
    assert playing(video, begin, begin + found["gap"][point])
    assert found["labels"][point] in part(page, "chosen").inner_text()


def test_neighbours_are_shown_and_each_can_be_followed(page: Any) -> None:
    found = data(page)
    point = alone(found)
    page.mouse.click(*on_screen(page, point))
    buttons = part(page, "near").locator("button")
    bodies = [other for other, _ in found["bodies"][point]]
    wanted = [other for other, _ in found["near"][point] if other not in bodies] + bodies
    assert [int(button.get_attribute("data-point")) for button in buttons.all()] == wanted
    assert "another body" in part(page, "near").inner_text()
    assert page.locator("#map circle.near").count() == len(wanted)
    assert buttons.locator("video").count() == len(wanted)
    buttons.first.click()
    assert found["labels"][wanted[0]] in part(page, "chosen").inner_text()
    assert page.locator("#map circle.current").count() == 1


def test_colours_can_be_chosen_and_one_label_shown_alone(page: Any) -> None:
    found = data(page)
    names = [each["name"] for each in found["colourings"]]
    body = names.index("body")
    part(page, "colours").select_option(str(body))
    assert "body: " in part(page, "told").inner_text() and "body: " in part(page, "chosen").inner_text()
    classes = page.evaluate("[...document.querySelectorAll('#map circle')].map((c) => c.classList[0])")
    for label in range(2):
        assert classes.count(f"k{label}") == found["colourings"][body]["of"].count(label)
    point, of = alone(found), found["colourings"][body]["of"]
    other = page.get_by_role("button", name=found["colourings"][body]["labels"][1 - of[point]])
    other.click()
    assert page.locator("#map circle.away").count() == of.count(of[point]) > 0
    page.mouse.click(*on_screen(page, point))  # what is away cannot be hit
    assert found["labels"][point] not in part(page, "chosen").inner_text()
    other.click()
    assert page.locator("#map circle.away").count() == 0
    page.mouse.click(*on_screen(page, point))
    assert found["labels"][point] in part(page, "chosen").inner_text()
    motion = next(k for k, name in enumerate(names) if name.endswith("size"))
    part(page, "colours").select_option(str(motion))
    unknown = found["colourings"][motion]["of"].count(None)
    assert page.locator("#map circle.unknown").count() == unknown > 0
    assert f"not known ({unknown})" in part(page, "legend").inner_text()


def test_another_map_moves_the_points(page: Any) -> None:
    found = data(page)
    part(page, "places").select_option("PCA")
    moved = page.evaluate(
        "[...document.querySelectorAll('#map circle')].map((c) => c.getAttribute('cx') + ' ' + c.getAttribute('cy'))"
    )
    flat = found["maps"]["PCA"]
    assert sorted(moved) == sorted(f"{x} {y}" for x, y in zip(flat[::2], flat[1::2], strict=True))
    point = alone(found, "PCA")
    page.mouse.click(*on_screen(page, point, "PCA"))
    assert found["labels"][point] in part(page, "chosen").inner_text()


def test_the_keyboard_does_all_of_it(page: Any) -> None:
    page.locator("#map").focus()
    before = part(page, "told").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    told = part(page, "told").inner_text()
    assert told != before
    page.keyboard.press("Enter")
    assert told.split(";")[0] in part(page, "chosen").inner_text()
    page.keyboard.press("Tab")  # on to the legend's first label
    page.keyboard.press("Enter")
    assert page.locator("#map circle.away").count() > 0


def test_whole_clips_are_played_where_that_is_asked_for(page: Any) -> None:
    found = data(page)
    part(page, "whole").check()
    page.mouse.click(*on_screen(page, alone(found)))
    page.wait_for_function("document.querySelector('[data-map=chosen] video').readyState >= 3")
    begin = found["start"][alone(found)]
    time = "document.querySelector('[data-map=chosen] video').currentTime"
    page.wait_for_function(f"{time} > {begin + 0.9} || {time} < {max(0.05, begin - 0.1)}")


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1400, "light"), (2200, "dark")])
def test_without_scripts_it_is_a_picture_that_fits(browser: Any, address: str, width: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, java_script_enabled=False, color_scheme=scheme
    )
    page = context.new_page()
    page.goto(address)
    box = page.locator("#map").bounding_box()
    assert box["width"] > 300 and box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.locator("#map circle").count() == 28 * 19 and not part(page, "controls").is_visible()
    context.close()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    context.close()
