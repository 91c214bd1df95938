"""What opening a mixture says of its datasets: tasks that are not learned, what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec, EpisodesAt
from tests.builders.robots import know_made_robots, made_robot
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
