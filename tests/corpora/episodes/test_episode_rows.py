"""Rows of LeRobot episodes: both readers, whoever learns from episodes and whoever measures clips by them, read the same
times and numbers, and lose no more than what is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from corpora.agent.paint_dataset import paint_dataset
from corpora.agent.painting import Painter, open_agent, view_of
from corpora.agent.settings import PaintSettings
from corpora.clips.corpus import Corpus
from corpora.episodes.episode import Episode
from corpora.episodes.lerobot import LeRobotDataset
from corpora.episodes.rows import EpisodeRows
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.lerobot import LeRobot
from corpora.sources.source import SourceDefaults
from tests.builders.datasets import CAMERAS, FPS, LENGTHS, change_column, lerobot_v2, lerobot_v3, opened, truth_of

DATA = "data/chunk-000/episode_{:06d}.parquet"
STATE = "observation.state"
HEAD = SourceDefaults(cameras=("head",))
NOMINAL = np.arange(LENGTHS[0]) / FPS


def both_read(root: Path, episode: int = 0) -> tuple[Episode, EpisodeRows]:
    """As a policy reads the episode, and as the truth of its clips."""
    source = list(LeRobot().sources(root, "d", HEAD))[episode]
    assert source.truth is not None
    return opened(root, cameras=["head"]).episodes[episode], source.truth.read()


def both_refuse(root: Path) -> tuple[str, str]:
    """The reasons they give for the first episode."""
    (source, *_) = LeRobot().sources(root, "d", HEAD)
    assert source.truth is not None
    with pytest.raises(ValueError) as refused:
        source.truth.read()
    ((index, reason),) = opened(root, cameras=["head"]).faults
    assert index == 0
    return reason, str(refused.value)


def ingested(root: Path, out: Path, clip_s: float = 4.0) -> Corpus:
    make_corpus([str(root)], IngestSettings(size=32, clip_s=clip_s, camera_gap_s=0.2), HEAD, IngestRun(out))
    return Corpus(out)


@pytest.mark.parametrize(
    "clock",
    [
        pytest.param(NOMINAL + 1_764_000_000.25, id="unix"),
        pytest.param(NOMINAL + 81_234.5, id="since the machine's boot"),
        pytest.param(NOMINAL + 45 / FPS, id="running on over episodes"),
        pytest.param(NOMINAL + 1 / FPS, id="stamped after the step"),
    ],
)
def test_times_count_from_the_first_row_whenever_the_clock_began(tmp_path: Path, clock: NDArray[np.float64]) -> None:
    root = lerobot_v2(tmp_path / "d")
    change_column(root / DATA.format(0), "timestamp", clock)
    episode, truth = both_read(root)
    np.testing.assert_allclose(episode.t_s, NOMINAL, atol=1e-6)
    np.testing.assert_array_equal(episode.t_s, truth.t_s)
    np.testing.assert_array_equal(truth[STATE], truth_of(0)[STATE])
    np.testing.assert_array_equal(episode.state, truth[STATE])


@pytest.mark.parametrize(
    ("clock", "told"),
    [
        (NOMINAL * 1e3, "row times look like milliseconds (66.6667 apart, at 15 rows a second); they must be seconds"),
        (NOMINAL * 1e6, "look like microseconds"),
        (NOMINAL * 1e9, "look like nanoseconds"),
        (np.arange(len(NOMINAL)) + 7.0, "look like row numbers"),
        (NOMINAL * 100, "look like no unit that is known"),
        (NOMINAL * 0, "times that are not finite and ascending"),
    ],
)
def test_times_that_are_no_seconds_are_refused_by_both(tmp_path: Path, clock: NDArray[np.float64], told: str) -> None:
    root = lerobot_v2(tmp_path / "d")
    change_column(root / DATA.format(0), "timestamp", clock)
    for reason in both_refuse(root):
        assert told in reason


def test_rows_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "d")
    path = root / DATA.format(0)
    shuffled = np.random.default_rng(0).permutation(LENGTHS[0])
    pq.write_table(pq.read_table(path).take(pa.array(shuffled)), path)
    episode, truth = both_read(root)
    np.testing.assert_array_equal(truth[STATE], truth_of(0)[STATE])
    np.testing.assert_array_equal(episode.state, truth[STATE])


def _ragged(values: list) -> list:
    return [[1.0], *values[1:]]


def _null(values: list) -> list:
    return [None] * len(values)


@pytest.mark.parametrize(("damage", "told"), [(_ragged, "different lengths: [1, 2]"), (_null, "no row holds a number")])
def test_a_damaged_column_costs_itself_alone(tmp_path: Path, damage: Callable[[list], list], told: str) -> None:
    root = lerobot_v2(tmp_path / "d")
    change_column(root / DATA.format(0), "action", damage(truth_of(0)["action"].tolist()))
    first, second = ingested(root, tmp_path / "c").read()
    assert first.truth is not None and set(first.truth) == {"t_s", STATE}
    np.testing.assert_array_equal(first.truth[STATE], truth_of(0)[STATE])
    assert "no ground truth of 'action': " in first.row.detail and told in first.row.detail
    assert second.truth is not None and set(second.truth) == {"t_s", STATE, "action"}
    assert second.row.detail == ""
    both = opened(root, cameras=["head"])
    assert both.indices == [1] and told in both.faults[0][1]


@pytest.mark.parametrize("build", [lerobot_v2, lerobot_v3])
def test_a_null_row_costs_its_own_number_alone(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    root = build(tmp_path / "d")
    ((path),) = sorted(root.glob("data/*/*.parquet"))[:1]
    values = pq.read_table(path)["action"].to_pylist()
    values[3] = None
    change_column(path, "action", values)
    episodes = opened(root, cameras=["head"])
    assert episodes.indices == [1]
    assert "numbers that are not finite in ['action']" in episodes.faults[0][1]
    sources = list(LeRobot().sources(root, "d", HEAD))
    for source in sources:
        assert source.truth is not None
        truth, wanted = source.truth.read(), truth_of(source.truth.episode)
        assert not truth.lost
        np.testing.assert_array_equal(truth[STATE], wanted[STATE])
        if source.truth.episode == 0:
            wanted["action"][3] = np.nan
        np.testing.assert_array_equal(truth["action"], wanted["action"])


def test_a_row_of_no_episode_costs_no_episode(tmp_path: Path) -> None:
    root = lerobot_v3(tmp_path / "d")
    (path,) = root.glob("data/*/*.parquet")
    owners = pq.read_table(path)["episode_index"].to_pylist()
    change_column(path, "episode_index", [*owners[:5], None, *owners[6:]])
    for episode in (0, 1):
        read, truth = both_read(root, episode)
        assert len(truth) == len(read.t_s) == LENGTHS[episode] - (episode == 0)
        np.testing.assert_array_equal(read.state, truth[STATE])


def test_a_data_file_that_is_missing_is_said(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "d")
    (root / DATA.format(0)).unlink()
    first, second = ingested(root, tmp_path / "c").read()
    assert first.truth is None
    assert first.row.detail.startswith("no ground truth: FileNotFoundError")
    assert second.truth is not None and second.row.detail == ""


@pytest.mark.parametrize("lost", ["from_timestamp", "chunk_index"])
def test_a_place_that_the_metadata_does_not_tell_costs_its_camera_alone(tmp_path: Path, lost: str) -> None:
    root = lerobot_v3(tmp_path / "d")
    (path,) = (root / "meta/episodes").rglob("*.parquet")
    column = f"videos/{CAMERAS[1]}/{lost}"
    change_column(path, column, [None, pq.read_table(path)[column].to_pylist()[1]])
    told = f"meta/episodes does not tell its {column}"
    sources = list(LeRobot().sources(root, "d", SourceDefaults()))
    assert [(source.name, source.fault, source.fault_detail) for source in sources] == [
        (f"d/episode_000000/{CAMERAS[1]}", "unreadable", told),
        (f"d/episode_000000/{CAMERAS[0]}", "", ""),
        *((f"d/episode_000001/{camera}", "", "") for camera in CAMERAS),
    ]
    assert opened(root).faults == [(0, told)]
    assert opened(root, cameras=["head"]).faults == []
    settings = PaintSettings(agent="dot")
    painter = Painter(open_agent(settings, 0), settings)
    dataset = LeRobotDataset.open(root)
    done = paint_dataset(
        dataset, CAMERAS[1], tmp_path, painter, view_of(painter.agent, settings), tmp_path / "painted", lambda *_: None
    )
    assert [(each["episode"], each["reason"]) for each in done["skipped"]] == [(0, "no_place"), (1, "no_file")]


def test_episodes_that_the_metadata_does_not_list_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = lerobot_v3(tmp_path / "d")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "total_episodes": 12}))
    told = "meta/ lists 2 of the 12 episodes that meta/info.json tells of; the others are not read"
    *others, last = LeRobot().sources(root, "d", HEAD)
    assert [source.fault for source in others] == ["", ""]
    assert (last.name, last.fault, last.fault_detail) == ("d", "missing_file", told)
    assert len(opened(root)) == 2
    assert told in caplog.text


def test_a_clip_without_a_row_says_so(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "d")
    path = root / DATA.format(1)
    pq.write_table(pq.read_table(path).take(pa.array([*range(15), *range(32, 45)])), path)
    clips = {clip.row.start_s: clip for clip in ingested(root, tmp_path / "c", 1.0).read() if "1/" in clip.row.source}
    assert [len(clip.truth["t_s"]) if clip.truth else 0 for clip in clips.values()] == [15, 0, 13]
    assert [clip.row.detail for clip in clips.values()] == [
        "28 of 45 rows",
        "28 of 45 rows; no ground truth: no row between 1.00 and 2.00 s",
        "28 of 45 rows",
    ]


def test_a_success_that_is_null_is_none(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "d")
    change_column(root / DATA.format(0), "next.success", [False] * 20 + [None] * (LENGTHS[0] - 20))
    change_column(root / DATA.format(1), "next.success", [None] * LENGTHS[1])
    assert [episode.success for episode in opened(root, cameras=["head"]).episodes] == [False, None]


def test_a_damaged_page_costs_the_episodes_of_its_row_group(tmp_path: Path) -> None:
    root = lerobot_v3(tmp_path / "d")
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=LENGTHS[0])
    facts = pq.ParquetFile(path).metadata
    assert facts.num_row_groups >= 2
    place = next(
        facts.row_group(0).column(number)
        for number in range(facts.num_columns)
        if facts.row_group(0).column(number).path_in_schema.startswith("action")
    )
    content = bytearray(path.read_bytes())
    end = (place.dictionary_page_offset or place.data_page_offset) + place.total_compressed_size
    content[end - 60 : end] = b"\xa5" * 60
    path.write_bytes(content)
    episodes = opened(root, cameras=["head"])
    assert [episode.index for episode in episodes.episodes] == [1]
    ((index, reason),) = episodes.faults
    assert index == 0 and "file-000.parquet" in reason
    np.testing.assert_allclose(episodes.episodes[0].action, truth_of(1)["action"], atol=1e-6)
    first, second = ingested(root, tmp_path / "c").read()
    assert first.truth is None and "no ground truth" in first.row.detail
    assert second.truth is not None and second.row.detail == ""


def test_damaged_metadata_of_one_file_costs_the_episodes_that_it_lists(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = lerobot_v3(tmp_path / "d")
    (path,) = (root / "meta/episodes").rglob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path.with_name("file-001.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    told = "meta/episodes/chunk-000/file-000.parquet cannot be read"
    *others, last = LeRobot().sources(root, "d", HEAD)
    assert [(source.name, source.fault) for source in others] == [("d/episode_000001/" + CAMERAS[0], "")]
    assert last.fault == "unreadable" and last.fault_detail.startswith(told) and "restore it" in last.fault_detail
    assert [episode.index for episode in opened(root).episodes] == [1]
    assert told in caplog.text
    path.with_name("file-001.parquet").unlink()
    with pytest.raises(ValueError, match=rf"{told}.*restore it from where the data came"):
        opened(root)


def test_a_damaged_line_of_v2s_list_costs_what_comes_from_there_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = lerobot_v2(tmp_path / "d")
    path = root / "meta/episodes.jsonl"
    path.write_text(path.read_text()[:-12])
    *others, last = LeRobot().sources(root, "d", HEAD)
    assert [source.fault for source in others] == [""]
    assert last.fault == "unreadable" and "line 2" in last.fault_detail
    assert [episode.index for episode in opened(root).episodes] == [0]
    assert "meta/episodes.jsonl cannot be read" in caplog.text and "line 2" in caplog.text


def test_damaged_tasks_are_named_with_the_remedy(tmp_path: Path) -> None:
    root = lerobot_v3(tmp_path / "d")
    (root / "meta/tasks.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match="the tasks of dataset .* cannot be read .*; restore meta/"):
        opened(root)
    assert [source.fault for source in LeRobot().sources(root, "d", HEAD)] == ["", ""]  # clips have their episodes' own
