"""LIBERO itself, in its environment (`make libero`): starts, pictures and state as they should be, and one rollout and one
demonstration from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora.episodes.frames import open_episode_frames
from corpora.episodes.opening import open_episodes
from corpora.episodes.selection import EpisodeSelection
from corpora.simulation.libero.facts import LiberoLook, object_task
from corpora.simulation.libero.process import libero_python, told_by
from jobs.commands.simulate_libero import LiberoSimulateConfig
from jobs.commands.simulate_libero import run as simulate
from jobs.evaluation.libero import LiberoSettings, libero_loop
from tests.builders.libero import SeeingPolicy

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def environment() -> None:
    try:
        libero_python()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    return {
        each.pop("what"): each
        for each in told_by([{"module": "tests.peers.libero_peer", "task": object_task("ketchup")}])
    }


def test_a_start_is_the_same_whatever_was_done_before(seen: dict[str, dict[str, Any]]) -> None:
    first, again = seen["start 0"], seen["start 0 again"]
    for name in ("state", "picture", "later"):
        np.testing.assert_array_equal(first[name], again[name])
    assert np.abs(first["state"] - seen["start 1"]["state"]).max() > 1e-3
    np.testing.assert_array_equal(seen["scatter 5"]["later"], seen["scatter 5 again"]["later"])
    assert np.abs(seen["scatter 5"]["state"] - seen["scatter 6"]["state"]).max() > 1e-3


def test_pictures_are_liberos_own_turned_by_half_a_circle(seen: dict[str, dict[str, Any]]) -> None:
    """With shadows; LIBERO's is drawn by robosuite, ours by MuJoCo's renderer."""
    own, theirs = seen["pictures"]["own"].astype(int), seen["pictures"]["theirs"].astype(int)
    turned = np.abs(own - theirs[:, ::-1, ::-1]).mean((1, 2, 3))
    assert (turned < 4).all() and (np.abs(own - theirs).mean((1, 2, 3)) > 10).all()


def test_the_suites_are_there() -> None:
    for benchmark in ("libero_spatial", "libero_object", "libero_goal", "libero_10"):
        (told,) = told_by([{"module": "corpora.simulation.libero.world", "benchmark": benchmark}])
        assert len(told["tasks"]) == 10 and all(each["instruction"] for each in told["tasks"])


def test_a_demonstration_from_end_to_end(tmp_path: Path) -> None:
    config = LiberoSimulateConfig(tmp_path / "out", tasks=("ketchup",), episodes=1, workers=1, look=LiberoLook(32))
    assert simulate(config)["tasks"]["ketchup"]["succeeded"] == 1
    episodes = open_episodes(tmp_path / "out", EpisodeSelection())
    assert 80 < len(episodes.t_s) < 280 and episodes.episodes[0].instruction.startswith("pick up the ketchup")
    frames = open_episode_frames(episodes, 32, cache=tmp_path / "cache")
    assert np.asarray(frames.images).std() > 20 and not frames.faults


def test_a_rollout_from_end_to_end(tmp_path: Path) -> None:
    settings = LiberoSettings(tasks=("ketchup",), starts=2, max_steps=10, look=LiberoLook(64), workers=1)
    found = libero_loop(SeeingPolicy(), "panda", settings, {}, tmp_path, progress=lambda done, total: None)  # type: ignore[arg-type]
    assert found["success"]["all"]["trials"] == 2
    lines = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()[1:]]
    assert [(line["start"], line["steps"]) for line in lines] == [(0, 10), (1, 10)]
    assert len(list((tmp_path / "films").iterdir())) == 1
