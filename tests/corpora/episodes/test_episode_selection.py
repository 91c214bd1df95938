"""Which episodes and columns of a dataset are opened, whatever its format: numbers, demonstrations, failures, cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpora.episodes.frames import open_episode_frames
from corpora.episodes.opening import open_episodes
from corpora.episodes.selection import ALL_EPISODES, EpisodeSelection
from tests.builders.datasets import CAMERAS, lerobot_v2
from tests.builders.rlds import numbers_of, rlds

DATA = "data/chunk-000/episode_{:06d}.parquet"


def with_success(root: Path, *succeeded: bool) -> Path:
    """`next.success` in the last row of each episode."""
    for episode, success in enumerate(succeeded):
        table = pq.read_table(root / DATA.format(episode))
        column = [False] * (table.num_rows - 1) + [success]
        pq.write_table(table.append_column("next.success", pa.array(column)), root / DATA.format(episode))
    return root


def test_failed_episodes_are_no_demonstrations(tmp_path: Path) -> None:
    root = with_success(lerobot_v2(tmp_path / "pick"), False, True)
    assert open_episodes(root).indices == [1]
    every = open_episodes(root, ALL_EPISODES)
    assert every.indices == [0, 1] and [episode.success for episode in every.episodes] == [False, True]
    assert every.choose(EpisodeSelection()) == [1]
    with pytest.raises(ValueError, match=r"episodes '0'.*no episode is left of 1"):
        open_episodes(root, EpisodeSelection("0"))


def test_columns_are_the_same_choice_of_all_episodes() -> None:
    chosen = EpisodeSelection("0:2", demos=1, cameras=("head",), state=("0:2",), previous_action=True)
    wanted = EpisodeSelection(failures=True, cameras=("head",), state=("0:2",), previous_action=True)
    assert chosen.columns == wanted


def test_what_is_taken_of_all_is_what_is_opened_alone(tmp_path: Path) -> None:
    root = rlds(tmp_path / "data")
    chosen = EpisodeSelection("1:3", cameras=("head",), state=("1:3",), previous_action=True)
    alone, taken = open_episodes(root, chosen), open_episodes(root, chosen.columns).take([1, 2])
    assert alone.indices == taken.indices == [1, 2] and alone.fingerprint == taken.fingerprint
    assert alone.instructions == taken.instructions and alone.state_names == taken.state_names
    np.testing.assert_array_equal(alone.state, taken.state)
    np.testing.assert_array_equal(alone.instruction, taken.instruction)
    np.testing.assert_array_equal(alone.state[alone.episodes[1].start, :2], numbers_of(2)[0][0, 1:])
    few = open_episodes(root, EpisodeSelection(demos=1))
    assert few.indices == [0, 1]  # the third has the words of the first


def test_faults_are_told_of_the_episodes_that_are_asked_for(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "pick")
    (root / DATA.format(0)).write_bytes(b"")
    assert [index for index, _ in open_episodes(root).faults] == [0]
    assert open_episodes(root, EpisodeSelection("1")).faults == []


def test_some_cameras_see_what_they_saw_among_all(tmp_path: Path) -> None:
    episodes = open_episodes(lerobot_v2(tmp_path / "pick"))
    side = episodes.seen_by(CAMERAS[1:])
    assert side.cameras == CAMERAS[1:] and all(set(each.videos) == {CAMERAS[1]} for each in side.episodes)
    both, one = (open_episode_frames(each, 32, cache=tmp_path / "cache") for each in (episodes, side))
    np.testing.assert_array_equal(both.images[:, 1:], one.images)
    assert side.fingerprint != episodes.fingerprint


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"episodes": "0-20"}, "write 0:20 or 0,3,5"), ({"demos": -1}, "demos -1: must be 0")],
)
def test_a_choice_that_is_none_is_refused(wrong: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        EpisodeSelection(**wrong)
