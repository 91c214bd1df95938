"""R9: what many faults and long lists look like in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corpora.episodes.opening import open_episodes
from corpora.mixture.embodiments import SLOTS
from corpora.store.frames import FrameFault, make_frame_table
from corpora.store.told import closest, faults_told, listed, misspelt, nearest
from tests.builders.robots import know_made_robots, made_robot


def test_faults_of_a_kind_are_counted_and_one_of_each_is_shown() -> None:
    missing = [(f"episode {k}", f"missing or empty file: data/chunk-000/episode_{k:06d}.parquet") for k in range(44)]
    found = faults_told([("episode 90", "no row holds a number"), *missing])
    assert found == (
        "44 such as episode 0: missing or empty file: data/chunk-000/episode_000000.parquet; episode 90: no row holds a number"
    )
    many = [*missing, ("a", "one"), ("b", "two"), ("b", "two"), ("c", "three"), ("d", "four")]
    assert faults_told(many).endswith("; 2 such as b: two; a: one; 2 more of 2 other kinds")


def test_a_list_that_is_cut_says_how_much() -> None:
    assert listed([1, 2], 2) == "1, 2" and listed(range(12), 3) == "0, 1, 2 and 9 more"


def test_episodes_say_how_many_of_how_many_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know_made_robots(monkeypatch)
    episodes = open_episodes(made_robot(tmp_path / "pick", None, np.zeros((14, 3, 2))))
    assert episodes.left_out == ""
    episodes.faults = [(14 + k, "missing or empty file: a/b.parquet") for k in range(46)]
    said = "46 of 60 episodes are left out: 46 such as episode 14: missing or empty file: a/b.parquet"
    assert episodes.left_out == said


def test_a_table_says_how_many_images_are_missing(tmp_path: Path) -> None:
    """It was `FrameFault(source=..., rows=20)`, of ten the first five."""
    faults = [FrameFault(f"pick/episode_{k:06d}", "head", "truncated: nothing at these times", 20) for k in range(10)]
    table = make_frame_table(
        lambda images, valid: faults, identity=("x",), rows=300, size=8, cameras=("head",), cache=tmp_path
    )
    assert table.lacking == (
        "200 of 300 images are missing, in 10 episodes or clips: 10 such as pick/episode_000000, head, 20 rows: truncated: "
        "nothing at these times"
    )


def test_names_of_clips_make_no_kinds_of_their_own() -> None:
    lost = [(f"clip {number}", f"no_file: none of 7a{number}f.npz, novel/{number}.npz") for number in range(9)]
    assert faults_told(lost) == "9 such as clip 0: no_file: none of 7a0f.npz, novel/0.npz"


def test_a_wrong_word_is_told_the_nearest_known_one() -> None:
    assert nearest("pretain", ["ground", "pretrain"]) == "pretrain"
    assert nearest("xyz", ["ground", "pretrain"]) == ""
    assert closest("pretain", iter(["ground", "pretrain"])) == "Did you mean 'pretrain'? Known: ground, pretrain."
    assert closest("xyz", ("ground",)) == "Known: ground."


@pytest.mark.parametrize(
    ("robot", "meant"),
    [
        *(("unitre_g1", "unitree_g1"), ("metawrld", "metaworld"), ("frnka", "franka"), ("oxe_drod", "oxe_droid")),
        *(
            ("unitree_h1", ""),
            ("gr2", ""),
            ("aloha2", ""),
            ("franka_panda", ""),
            ("unitree_g1_inspire", ""),
            ("arm", ""),
        ),
    ],
)
def test_another_robot_is_no_misspelling(robot: str, meant: str) -> None:
    assert misspelt(robot, SLOTS) == (f" (did you mean '{meant}'?)" if meant else "")
