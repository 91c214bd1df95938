"""What opening a mixture says of its datasets: tasks that are not learned, what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora.episodes.episode import Episodes
from corpora.episodes.opening import open_episodes
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from corpora.store.frames import FrameFault
from tests.builders.robots import _Grey, know_made_robots, made_robot
from vla.checkpoint import build_policy
from vla.data.loader import TrainingDataset
from vla.data.open import open_mixture
from vla.recipes import DEBUG


def opened(root: Path, tasks: Sequence[str], **how: Any) -> TrainingDataset:
    """A dataset "pick" of one episode for each task."""
    folder = root / "pick"
    if not folder.exists():
        made_robot(folder, None, np.random.default_rng(0).normal(size=(len(tasks), 6, 2)), tasks=tasks)
    spec = DatasetSpec("pick", "robot", EpisodesAt(folder), embodiment="arm")
    return open_mixture(MixtureSpec((spec,)), build_policy(DEBUG), cache=root / "cache", **how)[0]


def held_out(dataset: TrainingDataset) -> set[str]:
    return {dataset.data.groups[index] for index in dataset.held_out}


def test_no_task_loses_its_only_episode_and_named_ones_that_do_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """M7."""
    know_made_robots(monkeypatch)
    tasks = ["open", "open", "close", "turn"]
    for seed in range(6):
        assert held_out(opened(tmp_path, tasks, seed=seed)) in ({"pick/episode_000000"}, {"pick/episode_000001"})
    assert "2 of 3 instructions" in caplog.text
    caplog.clear()
    assert len(held_out(opened(tmp_path, tasks, held_out_episodes={"pick": "0,2,3"}))) == 3
    assert "2 of the 3 held-out instructions (such as 'close') have no episode that is trained on" in caplog.text


def test_what_is_left_out_is_told_in_one_sentence_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R9: 46 lines for 46 missing episodes, and five of ten reprs for those without images."""
    know_made_robots(monkeypatch)
    real, fill = open_episodes, _Grey.fill

    def damaged(*named: Any) -> Episodes:
        found = real(*named)
        found.faults = [(9 + k, f"missing file: data/{k}.parquet") for k in range(46)]
        return found

    def blind(self: _Grey, episodes: Episodes, images: Any, valid: Any, progress: Any) -> list[FrameFault]:
        fill(self, episodes, images, valid, progress)
        valid[:12:2] = False
        return [FrameFault(episode.group, "wrist", "truncated", 3) for episode in episodes.episodes[:2]]

    monkeypatch.setattr("corpora.mixture.episode_samples.open_episodes", damaged)
    monkeypatch.setattr(_Grey, "fill", blind)
    opened(tmp_path, ["open"] * 4)
    assert [record.getMessage() for record in caplog.records] == [
        "dataset 'pick': 46 of 50 episodes are left out: 46 such as episode 9: missing file: data/0.parquet",
        "dataset 'pick': 6 of 24 images are missing, in 2 episodes or clips: 2 such as pick/episode_000000, wrist, 3 rows: "
        "truncated",
    ]


def test_a_robot_with_too_many_numbers_is_told_flags_and_the_pyramids_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R9: `giza ground`, which has no pyramid file, named its keys alone."""
    know_made_robots(monkeypatch)
    made_robot(tmp_path / "pick", None, np.random.default_rng(0).normal(size=(4, 6, DEBUG.max_action_dim + 1)))
    with pytest.raises(ValueError, match=r"choose some of them \(--action, in a pyramid file action = \[...\]\)"):
        opened(tmp_path, ["pick"] * 4)
