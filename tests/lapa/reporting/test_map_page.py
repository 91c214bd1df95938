"""The map on the page: it stands there without a script, its data are whole, and the page keeps to its budget."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from corpora.clips.manifest import ClipRow
from lapa.pairs.config import PairConfig
from lapa.reporting import card as card_module
from lapa.reporting.card import Card
from lapa.reporting.clip_pictures import at_aspect, model_aspect, small_video, stored_aspect
from lapa.reporting.map_page import on_paper


def data_of(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def decoded(mp4: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(mp4)) as container:
        assert container.streams.video[0].codec_context.name == "h264" and not container.streams.audio
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def page(motion_card: Card, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    motion_card.save_html(path)
    return path.read_text("utf-8")


def test_without_a_script_the_map_is_a_picture_of_all_points(page: str, motion_card: Card) -> None:
    assert motion_card.images is not None
    picture = page[page.index('<svg id="map"') :].partition("</svg>")[0]
    drawn = re.findall(r'<circle cx="(\d+)" cy="(\d+)" class="(\w+)">', picture)
    found = motion_card.images.map
    assert len(drawn) == len(found.rows)
    first = data_of(page, "map-data")["colourings"][0]
    colours = ["rest" if first["colours"][of] < 0 else f"k{first['colours'][of]}" for of in first["of"]]
    assert [colour for _, _, colour in drawn] == colours and len(set(colours)) > 2
    flat = data_of(page, "map-data")["maps"]["t-SNE"]
    assert [int(number) for x, y, _ in drawn for number in (x, y)] == flat


def test_every_clip_of_a_point_has_its_video_in_the_page(page: str, motion_card: Card) -> None:
    data, videos = data_of(page, "map-data"), data_of(page, "map-videos")
    assert {str(clip) for clip in data["clip"]} == set(videos) and len(videos) == 28
    assert f"{len(data['clip'])} of these points have a video" in re.sub(r"\s+", " ", page)
    for number, video in list(videos.items())[:3]:
        frames = decoded(base64.b64decode(video["mp4"]))
        assert frames[0].shape == (video["height"], video["width"], 3) and video["height"] == 160
        assert len(frames) == 24
        starts = [data["start"][k] for k, clip in enumerate(data["clip"]) if str(clip) == number]
        assert min(starts) == 0 and max(starts) + 0.5 <= 2.4
    points = range(len(data["clip"]))
    for k in points:
        assert all(other in points and data["labels"][other] != data["labels"][k] for other, _ in data["near"][k])
    assert any(data["bodies"])


def test_a_page_keeps_to_its_budget_and_says_what_is_left_out(
    motion_card: Card, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = len(page.encode())
    videos = sum(len(video["mp4"]) for video in data_of(page, "map-videos").values())
    budget = whole - videos // 2
    monkeypatch.setattr(card_module, "PAGE_BYTES", budget)
    motion_card.save_html(tmp_path / "small.html")
    small = (tmp_path / "small.html").read_text("utf-8")
    assert budget - 2 * videos // 28 < len(small.encode()) <= budget
    data, kept = data_of(small, "map-data"), data_of(small, "map-videos")
    playable = sum(str(clip) in kept for clip in data["clip"])
    assert 0 < playable < len(data["clip"])
    assert f"{playable} of these points have a video on this page, from {len(kept)} clips" in re.sub(r"\s+", " ", small)


def test_a_card_that_was_read_from_json_has_a_page_without_a_map(motion_card: Card, tmp_path: Path) -> None:
    Card.from_json(json.loads(json.dumps(motion_card.to_json()))).save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "which keeps no images" in page and "map-data" not in page and "Can the motion be read" in page


def test_a_page_tells_where_it_is_from_and_what_it_holds(page: str, motion_card: Card) -> None:
    assert motion_card.made["host"] in page and motion_card.made["utc"] in page
    contents = re.findall(r'<li><a href="#([\w-]+)">', page)
    assert len(contents) > 8 and len(set(contents)) == len(contents)
    assert all(page.count(f'<section id="{name}"') == 1 for name in contents)


def test_frames_and_videos_are_shown_in_the_aspect_of_the_source() -> None:
    wide = ClipRow("a", "a", "a", width=640, height=480, size=64)
    assert stored_aspect(wide, "stretch") == pytest.approx(4 / 3) and stored_aspect(wide, "crop") == 1
    assert stored_aspect(ClipRow("a", "a", "a"), "stretch") == 1  # nothing is known of it
    assert model_aspect(wide, "stretch", PairConfig(image_size=32)) == pytest.approx(4 / 3)
    assert model_aspect(wide, "stretch", PairConfig(image_size=32, image_width=64, crop=True)) == 2
    square = np.zeros((64, 64, 3), np.uint8)
    assert at_aspect(square, 4 / 3).shape == (128, 171, 3) and at_aspect(square, 9 / 16).shape == (228, 128, 3)
    video = small_video(np.stack([square] * 30), 5 + np.arange(30) / 30.0, 4 / 3)
    assert (video.width, video.height, video.start_s) == (214, 160, 5.0)
    frames = decoded(video.mp4)
    assert len(frames) == 10 and frames[0].shape == (160, 214, 3)  # ten a second of thirty, twelve at most


def test_a_map_fills_the_paper_in_one_scale() -> None:
    places = on_paper(np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0]]))
    assert places.tolist() == [[24, 598], [976, 598], [976, 122]]
