"""evaluation.html: its numbers are those of evaluation.json, it is whole in one file, and it is never too large."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora.episodes.selection import EpisodeSelection
from corpora.simulation.tasks import INSTRUCTIONS
from jobs.commands.evaluate import EvaluateConfig, run
from jobs.evaluation import page
from jobs.evaluation.curves import HIGH, WIDE, episode_panels, most_moving_first, ticks, unit_of
from jobs.evaluation.drawn import FILM_HZ, MOST_CHUNKS, MOST_MOMENTS, DrawnEpisode, film_path, kept_path
from jobs.evaluation.open_loop import Chunks
from jobs.evaluation.page import PAGE, write_page
from jobs.evaluation.rollout_log import ROLLOUTS, Rollout, RolloutLog, mean_seconds, success_shares
from jobs.evaluation.videos import FILMS, contact_sheet, video_frames, write_video
from tests.builders.datasets import FPS, LENGTHS, lerobot_v3
from tests.builders.videos import number_of
from tests.jobs.evaluation.test_open_loop import made_chunks, made_policy


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open loop of one episode, as giza evaluate leaves it."""
    root = tmp_path_factory.mktemp("evaluated")
    made_policy().save_pretrained(root / "policy")
    config = EvaluateConfig(
        policy=str(root / "policy"), out=root / "out", data=lerobot_v3(root / "data"), selection=EpisodeSelection("1"), cache=root
    )  # fmt: skip
    run(config, quiet=True)
    return root / "out"


@pytest.fixture
def opened(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(evaluated, tmp_path / "out"))


def written(folder: Path, result: dict[str, Any] | None = None) -> str:
    write_page(result or stored(folder), folder / PAGE)
    return (folder / PAGE).read_text("utf-8")


def stored(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text("utf-8"))


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html))


def test_the_pages_numbers_are_those_of_the_record(opened: Path) -> None:
    result, html = stored(opened), (opened / PAGE).read_text("utf-8")
    found, text = result["open_loop"], text_of(html)
    headline = result["verdict"]["open_loop"]["headline"]
    assert headline[0].upper() + headline[1:] in text and text.index(headline[1:]) < text.index("Errors beside")
    for error in found["normalised_squared_error"].values():
        assert f"{error['value']:.3g}" in text and f"{error['value']:.4g}" in text
    for ratio in found["policy_over_baseline"].values():
        assert f"{ratio['value']:.3f}" in text
    for dim, name in enumerate(found["dimensions"]):
        assert name in text
        for error in found["squared_error_per_dimension"].values():
            assert f"{error['value'][dim] / found['std'][dim] ** 2:.3g}" in text
        assert f"off by {found['squared_error_per_dimension']['policy']['value'][dim] ** 0.5:.2g}" in text
    for fact in (
        result["fingerprint"][:12],
        result["provenance"]["utc"],
        result["provenance"]["host"],
        "seed of the evaluation",
    ):
        assert fact in text
    (number,) = found["episode_numbers"]
    assert (number, found["drawn"]) == (1, [1])
    mine = {name: values[0] for name, values in found["normalised_squared_error_per_episode"].items()}
    assert mine == pytest.approx({name: each["value"] for name, each in found["normalised_squared_error"].items()})


def test_the_verdict_on_the_latents_that_the_policy_learned_from_is_on_its_page(opened: Path) -> None:
    result = stored(opened)
    said = "human: trust with care (2026-12-01)"
    assert said not in text_of(written(opened, result))
    result["training"]["latents of people"] = said
    assert said in text_of(written(opened, result))


def test_bars_are_as_long_as_their_numbers(opened: Path) -> None:
    result = stored(opened)
    for name, value in (("policy", 2.0), ("hold_still", 1.0)):
        result["open_loop"]["normalised_squared_error"][name]["value"] = value
    html = written(opened, result)
    first = re.search(r'class="bargroups">(.*?)</h3>|class="bargroups">(.*?)By how far', html, re.S)
    assert first is not None
    widths = [float(found) for found in re.findall(r'"fill[^"]*" style="width: ([\d.]+)%', first[0])]
    assert widths[0] == pytest.approx(2 * widths[1], rel=1e-3) and max(widths) <= 100


def test_the_page_is_whole_and_loads_nothing(opened: Path) -> None:
    html = (opened / PAGE).read_text("utf-8")
    assert len(re.findall(r'<video src="data:video/mp4;base64,', html)) == 1
    assert len(re.findall(r'<img src="data:image/jpeg;base64,', html)) == page.STRIP
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html) and "http" not in re.sub(r"data:[^\"]*", "", html)
    anchors = re.findall(r'href="#([^"]*)"', html)
    assert len(anchors) == 5 and all(f'id="{name}"' in html for name in anchors)


def test_a_page_without_films_and_without_trajectories_still_renders(opened: Path) -> None:
    shutil.rmtree(opened / FILMS)
    html = written(opened)
    assert (
        "There is no film of it." in html
        and "<video" not in html
        and "<img" not in html
        and 'class="curve c-policy"' in html
    )
    kept_path(opened, 1).unlink()
    assert "No trajectories lie beside this evaluation" in written(opened)
    result = stored(opened)  # of an earlier version
    for name in ("training", "verdict"):
        del result[name]
    for name in ("drawn", "episode_numbers", "normalised_squared_error_per_episode"):
        del result["open_loop"][name]
    assert "No trajectories lie beside this evaluation" in written(opened, result)
    kept_path(opened, 1).write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="damaged .*remove it and evaluation.json"):
        written(opened)


def test_a_finished_evaluation_writes_its_page_again(evaluated: Path) -> None:
    before = (evaluated / PAGE).read_text("utf-8")
    (evaluated / PAGE).unlink()
    film = film_path(evaluated / FILMS, 1).stat().st_mtime_ns
    root = evaluated.parent
    config = EvaluateConfig(
        policy=str(root / "policy"), out=evaluated, data=root / "data", selection=EpisodeSelection("1"), cache=root / "nowhere"
    )  # fmt: skip
    run(config, quiet=True)
    after = (evaluated / PAGE).read_text("utf-8")
    assert not (root / "nowhere").exists() and film == film_path(evaluated / FILMS, 1).stat().st_mtime_ns
    assert after[: after.index('<section id="from">')] == before[: before.index('<section id="from">')]
    assert (
        "better than" in (card := (root / "policy" / "README.md").read_text())
        or "worse than" in card
        or "told apart" in card
    )


def test_a_page_is_never_larger_than_it_says(opened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = len((opened / PAGE).read_bytes())
    film = film_path(opened / FILMS, 1).stat().st_size
    assert whole < page.PAGE_BYTES == 6_000_000
    monkeypatch.setattr(page, "TRAJECTORIES", 1.0)
    monkeypatch.setattr(page, "PAGE_BYTES", whole - film // 2)
    html = written(opened)
    assert len(html.encode()) <= page.PAGE_BYTES and "<video" not in html and 'href="films/episode_000001.mp4"' in html
    monkeypatch.setattr(page, "PAGE_BYTES", len(html.encode()) - 1000)
    html = written(opened)
    assert len(html.encode()) <= page.PAGE_BYTES and "Without room on this page: 1 more" in html


def test_words_of_a_dataset_are_text(opened: Path) -> None:
    drawn = DrawnEpisode.load(opened, 1)
    assert drawn is not None and drawn.instruction == "place the cup"
    dataclasses.replace(drawn, instruction="<script>alert(1)</script>").save(opened)
    assert "&lt;script&gt;alert" in (html := written(opened)) and "<script>alert" not in html


def test_a_film_shows_each_moment_when_it_was(opened: Path) -> None:
    frames = video_frames(film_path(opened / FILMS, 1))
    shown = [number_of(frame) for frame in frames]
    assert len(shown) == round((LENGTHS[1] - 1) / FPS * FILM_HZ) + 1
    assert all(abs(number / FPS - place / FILM_HZ) <= 0.5 / FPS + 1e-6 for place, number in enumerate(shown))
    assert frames[0].shape[1] / frames[0].shape[0] == pytest.approx(160 / 96, rel=0.02)


# --- trajectories ------------------------------------------------------------------------------------------------


def drawn_of(truth: Chunks, episode: int = 11) -> DrawnEpisode:
    return DrawnEpisode.of(truth, {"policy": truth.action + 1, "hold_still": 0 * truth.action}, episode, "go", 1 / 20)


def test_what_is_kept_comes_back_and_chunks_do_not_overlap(tmp_path: Path) -> None:
    truth = made_chunks(3)
    drawn = drawn_of(truth)
    drawn.save(tmp_path)
    again = DrawnEpisode.load(tmp_path, 11)
    assert again is not None and (again.instruction, again.step_s) == ("go", 1 / 20)
    np.testing.assert_array_equal(again.chunks["policy"], drawn.chunks["policy"])
    rows = truth.episode == 11
    np.testing.assert_array_equal(again.recorded, truth.action[rows, 0])
    np.testing.assert_allclose(np.diff(again.starts_s), 5 / 20)
    for start, chunk in zip(again.starts_s, again.chunks["policy"], strict=True):
        np.testing.assert_allclose(chunk, truth.action[rows & (truth.t_s == start)][0] + 1)
    assert DrawnEpisode.load(tmp_path, 12) is None


def test_of_a_long_episode_a_part_is_kept(tmp_path: Path) -> None:
    count = 5000
    values = np.sin(np.arange(count) / 50)[:, None, None] * np.ones((1, 5, 3))
    truth = Chunks(
        None, np.zeros((count, 3), np.float32), values.astype(np.float32), np.ones((count, 5), np.bool_),
        np.full(count, 11), np.arange(count) / 20,
    )  # fmt: skip
    drawn = drawn_of(truth)
    assert (len(drawn.starts_s), len(drawn.t_s)) == (MOST_CHUNKS, MOST_MOMENTS) and drawn.seconds == truth.t_s[-1]
    drawn.save(tmp_path)
    assert kept_path(tmp_path, 11).stat().st_size < 100_000


def points(path: str) -> np.ndarray:
    """[points, 2] of a curve."""
    return np.concatenate([np.asarray(part.split(), float).reshape(-1, 2) for part in path.split("M")[1:]])


def test_curves_stand_at_their_moments_and_values() -> None:
    drawn = drawn_of(made_chunks(3))
    (panel,) = episode_panels(drawn, ["a", "reach_m", "c"], [1])
    found = points(panel.paths["recorded"])
    np.testing.assert_allclose(found[:, 0] / WIDE * drawn.seconds, drawn.t_s, atol=drawn.seconds / WIDE)
    back = panel.high - found[:, 1] / HIGH * (panel.high - panel.low)
    np.testing.assert_allclose(back, drawn.recorded[:, 1], atol=(panel.high - panel.low) / HIGH)
    policy = points(panel.paths["policy"])
    assert len(policy) == drawn.mask.sum() and panel.paths["policy"].count("M") == len(drawn.starts_s)
    assert panel.low < drawn.chunks["policy"][..., 1][drawn.mask].min() and panel.unit == "m"
    assert len(points(panel.paths["hold_still"])) <= 2 * len(drawn.starts_s)  # a level line has two ends


def test_dimensions_units_and_times() -> None:
    assert most_moving_first([True, True, False, True], [0.1, 0.5, 9.0, 0.3]) == [1, 3, 0, 2]
    assert [unit_of(name) for name in ("hand_x_m", "joint_0_rad", "lift_MM", "kRightElbow", "arm")] == [
        "m",
        "rad",
        "mm",
        "",
        "",
    ]
    assert ticks(12.0) == [0, 2, 4, 6, 8, 10, 12] and ticks(0.0) == [0] and len(ticks(0.07)) <= 9


# --- rollouts ----------------------------------------------------------------------------------------------------


def test_rollouts_with_their_films(tmp_path: Path) -> None:
    """Films of failures come first: they are looked at."""
    task, frames = "drawer-open", np.zeros((9, 32, 32, 3), np.uint8)
    log = RolloutLog(tmp_path / ROLLOUTS, {"seed": 0})
    for start in range(4):
        frames[:, :, :, 0] = 60 * start
        each = Rollout(task, start, start, INSTRUCTIONS[task], start != 2, None, 80, 1.0, frames if start < 3 else None)
        if each.frames is not None:
            write_video(tmp_path / FILMS, each)
        log.add(each)
    contact_sheet(tmp_path / FILMS, log.rollouts, tmp_path / "contact_sheet.png")
    result = {
        "policy": "<p>", "fingerprint": "f", "embodiment": "sawyer", "seed": 0,
        "closed_loop": {
            "settings": {"starts": 4, "max_steps": 80, "execute": 8},
            "success": {name: share.to_json() for name, share in success_shares(log.rollouts).items()},
            "mean_seconds": mean_seconds(log.rollouts),
        },
    }  # fmt: skip
    html = written(tmp_path, result)
    assert html.count('<video src="data:video/mp4') == 3 and html.count('class="sheet"') == 1
    captions = re.findall(r"drawer-open #(\d)", html)
    assert captions == ["2", "0", "1"] and "What does &lt;p&gt; do as sawyer?" in html
    assert "3 of 4 rollouts from unseen starts succeed" in text_of(html) and "width: 75.00%" in html
    result["closed_loop"]["settings"]["starts"] = 1  # the log may hold more than this evaluation
    assert written(tmp_path, result).count("<video") == 1
    shutil.rmtree(tmp_path / FILMS)
    assert "Films of rollouts" not in written(tmp_path, result)
