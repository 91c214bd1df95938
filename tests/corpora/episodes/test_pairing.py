"""Frames and rows of an episode: both readers give each row the same frame, whatever clock stamped it, and nothing of
another episode or take."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from corpora.clips.corpus import Clip, Corpus
from corpora.episodes.frames import open_episode_frames
from corpora.episodes.pairing import pair
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.source import SourceDefaults
from corpora.store.frames import FrameFault
from corpora.video.probe import VideoFacts, probe
from tests.builders.datasets import CAMERAS, FPS, LENGTHS, change_column, lerobot_v2, lerobot_v3, opened, truth_of
from tests.builders.videos import number_of, numbered_frame, numbered_video, write_video

DATA = "data/chunk-000/episode_{:06d}.parquet"
VIDEO = f"videos/chunk-000/{CAMERAS[0]}/episode_{{:06d}}.mp4"
STATE = "observation.state"
NOMINAL = np.arange(LENGTHS[0]) / FPS


def ingested(root: Path, out: Path) -> Corpus:
    settings = IngestSettings(size=64, clip_s=4.0, camera_gap_s=0.2)
    make_corpus([str(root)], settings, SourceDefaults(cameras=("head",)), IngestRun(out))
    return Corpus(out)


def states_by_frame(clip: Clip) -> dict[int, list[float]]:
    """Number that a frame shows -> the state at its time."""
    assert clip.truth is not None
    at = {round(t_s, 6): state.tolist() for t_s, state in zip(clip.truth["t_s"], clip.truth[STATE], strict=True)}
    return {number_of(image): at.get(round(t_s, 6), []) for image, t_s in zip(clip.frames, clip.t_s, strict=True)}


def wanted(rows: range, shift: int = 0, episode: int = 0) -> dict[int, list[float]]:
    """Row i + shift belongs to frame i."""
    return {row - shift: truth_of(episode)[STATE][row].tolist() for row in rows}


def numbers_of_rows(root: Path, cache: Path, episode: int = 0) -> tuple[list[int], tuple[FrameFault, ...]]:
    """Numbers that the rows' images show, as a policy sees them; -1 where there is none."""
    episodes = opened(root, cameras=["head"], indices=[episode])
    table = open_episode_frames(episodes, 64, cache=cache)
    seen = [
        number_of(image) if there else -1 for image, there in zip(table.images[:, 0], table.valid[:, 0], strict=True)
    ]
    return seen, table.faults


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> VideoFacts:
    return probe(numbered_video(tmp_path_factory.mktemp("v") / "a.mp4", 4))


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(np.float32, id="as float32"),
        pytest.param(lambda t: t + 5e-5, id="late"),
        pytest.param(lambda t: t - 5e-5, id="early"),
        pytest.param(lambda t: round(t, 4), id="with four decimals"),
        pytest.param(lambda t: t + 0.39 / 30, id="drifted"),
    ],
)
def test_episodes_in_one_file_have_their_own_frames(facts: VideoFacts, stored: Callable[[float], float]) -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 60)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    facts = dataclasses.replace(facts, times=np.round(np.arange(edges[-1]) / 30, 7))
    for first, stop in itertools.pairwise(edges):
        span = float(stored(first / 30)), float(stored(stop / 30))
        paired = pair(facts, span, np.arange(stop - first) / 30, 30)
        assert paired is not None and paired.frames == paired.shown == slice(first, stop)
        np.testing.assert_array_equal(paired.row_s, facts.times[first:stop])
        assert paired.note == ""


def test_a_span_that_is_stored_late_loses_no_frame(tmp_path: Path) -> None:
    root = lerobot_v3(tmp_path / "d")
    (path,) = (root / "meta/episodes").rglob("*.parquet")
    for name in ("from_timestamp", "to_timestamp"):
        column = f"videos/{CAMERAS[0]}/{name}"
        change_column(path, column, [edge + 5e-5 for edge in pq.read_table(path)[column].to_pylist()])
    for episode, clip in enumerate(ingested(root, tmp_path / "c").read()):
        assert states_by_frame(clip) == wanted(range(LENGTHS[episode]), episode=episode)
        assert clip.row.start_s == 0.0
        seen, faults = numbers_of_rows(root, tmp_path / "cache", episode)
        assert seen == list(range(LENGTHS[episode])) and not faults


def test_frame_i_belongs_to_row_i_whatever_the_clock_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows stamped by a wall clock, of a video that is stored at a round rate."""
    root = lerobot_v2(tmp_path / "d")
    change_column(root / DATA.format(0), "timestamp", NOMINAL * 1.2)
    clip, other = ingested(root, tmp_path / "c").read()
    assert states_by_frame(clip) == wanted(range(LENGTHS[0]))
    note = "30 rows last 2.40 s, 30 frames 2.00 s: frame by frame they are taken for one"
    assert (clip.row.detail, other.row.detail) == (note, "")
    assert "1 of 2 clips lack ground truth" in caplog.text and f"d/episode_000000/{CAMERAS[0]}: {note}" in caplog.text
    seen, faults = numbers_of_rows(root, tmp_path / "cache")
    assert seen == list(range(LENGTHS[0]))
    assert [(fault.reason, fault.rows) for fault in faults] == [(note, 0)]


def test_rows_and_frames_that_disagree_meet_by_time_and_it_is_said(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "d")
    write_video(root / VIDEO.format(0), [numbered_frame(i) for i in range(25)], fps=FPS)
    clip, _ = ingested(root, tmp_path / "c").read()
    assert states_by_frame(clip) == wanted(range(25))
    assert clip.row.detail == "30 rows last 2.00 s, 25 frames 1.67 s"
    seen, (fault,) = numbers_of_rows(root, tmp_path / "cache")
    assert seen == [*range(25), 24, -1, -1, -1, -1]
    assert (fault.reason, fault.rows) == ("truncated: 30 rows last 2.00 s, 25 frames 1.67 s", 4)


@pytest.mark.parametrize("readable", [True, False])
def test_a_video_that_goes_on_after_the_rows_ends_with_them(tmp_path: Path, readable: bool) -> None:
    """Where the rows cannot be read, at their number in the metadata."""
    root = lerobot_v2(tmp_path / "d")
    write_video(root / VIDEO.format(0), [numbered_frame(i) for i in range(54)], fps=FPS)
    if not readable:
        change_column(root / DATA.format(0), "timestamp", NOMINAL * 1000)
    corpus = ingested(root, tmp_path / "c")
    clip, _ = corpus.read()
    assert [number_of(image) for image in clip.frames] == list(range(LENGTHS[0]))
    assert (clip.row.start_s, clip.row.end_s) == (0.0, 2.0)
    (left,) = (row for row in corpus.rows() if not row.kept)
    assert (left.reason, left.start_s, round(left.end_s, 3)) == ("of_no_row", 2.0, 3.6)
    assert left.detail == "24 frames of no row; 30 rows last 2.00 s, 54 frames 3.60 s"
    assert corpus.summary["reasons"]["of_no_row"]["count"] == 1
    if readable:
        assert states_by_frame(clip) == wanted(range(LENGTHS[0]))
        seen, (fault,) = numbers_of_rows(root, tmp_path / "cache")
        assert seen == list(range(LENGTHS[0]))
        assert (fault.reason, fault.rows) == ("30 rows last 2.00 s, 54 frames 3.60 s", 0)
    else:
        assert clip.truth is None and "look like milliseconds" in clip.row.detail


@pytest.mark.parametrize("number", [True, False])
def test_rows_that_were_cut_off_the_beginning_are_not_made_up(tmp_path: Path, number: bool) -> None:
    """Number and clock of the first row say so together; a clock alone may have begun anywhere."""
    root = lerobot_v2(tmp_path / "d")
    path = root / DATA.format(0)
    pq.write_table(pq.read_table(path).slice(9), path)
    if not number:
        change_column(path, "frame_index", list(range(LENGTHS[0] - 9)))
    corpus = ingested(root, tmp_path / "c")
    clip, _ = corpus.read()
    rows = range(9, LENGTHS[0])
    assert states_by_frame(clip) == wanted(rows, shift=0 if number else 9)
    (left,) = (row for row in corpus.rows() if not row.kept)
    assert (round(left.start_s, 3), round(left.end_s, 3)) == ((0.0, 0.6) if number else (1.4, 2.0))
    assert numbers_of_rows(root, tmp_path / "cache")[0] == (list(rows) if number else list(range(21)))


def test_a_table_tells_of_images_that_are_there_but_doubtful(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "d")
    for episode, length in enumerate(LENGTHS):
        change_column(root / DATA.format(episode), "timestamp", np.arange(length) / FPS * 1.2)
    table = open_episode_frames(opened(root, cameras=["head"]), 64, cache=tmp_path / "cache")
    assert table.lacking == (
        f"rows and images of 2 episodes disagree: 2 such as d/episode_000000, {CAMERAS[0]}: 30 rows last 2.40 s, 30 frames "
        "2.00 s: frame by frame they are taken for one"
    )
