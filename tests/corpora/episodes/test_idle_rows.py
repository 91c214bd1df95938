"""Rows at an episode's beginning in which nothing moves yet: which they are, and that a policy does not train on them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from corpora.episodes.episode import Episodes
from corpora.episodes.idle import with_idle
from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from jobs.commands.evaluate import EvaluateConfig
from jobs.commands.ground import GroundConfig, run
from jobs.commands.label import LabelConfig
from tests.builders.datasets import LENGTHS, lerobot_v2, opened
from vla.checkpoint import build_policy
from vla.data.open import open_mixture
from vla.recipes import DEBUG, recipe_named

IDLE = (7, 4)
RNG = np.random.default_rng(0)
Numbers = list[NDArray[np.float32]]


def ramps(after: tuple[int, ...] = IDLE, lag: int = 0, width: int = 2) -> Numbers:
    """[N, width] of each episode: still, then a motion that begins at row `after` + `lag`."""
    rows = [np.maximum(0, np.arange(length) - first - lag + 1) for length, first in zip(LENGTHS, after, strict=True)]
    return [np.stack([count + 3.0] * width, 1).astype(np.float32) for count in rows]


def pulses(after: tuple[int, ...] = IDLE) -> Numbers:
    """The same motion as displacements, jerky as a person's: zero, then anything."""
    return [
        np.where(np.arange(length)[:, None] < first, 0, RNG.uniform(0.5, 1, (length, 2))).astype(np.float32)
        for length, first in zip(LENGTHS, after, strict=True)
    ]


def trembling(values: Numbers, step: float) -> Numbers:
    """As encoders tremble, by a step up or down; with a joint more that does nothing else."""
    wider = [np.concatenate([each, np.zeros_like(each[:, :1])], 1) for each in values]
    return [each + step * RNG.choice(np.float32([-1, 1]), each.shape) for each in wider]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    truth = [
        {"observation.state": state, "action": action}
        for state, action in zip(ramps(lag=1, width=3), ramps(), strict=True)
    ]
    return lerobot_v2(tmp_path_factory.mktemp("idle") / "pick", truth=lambda episode: truth[episode])


@pytest.fixture(scope="module")
def episodes(dataset: Path) -> Episodes:
    return opened(dataset)


@pytest.mark.parametrize(
    ("states", "actions", "expected"),
    [
        (ramps(lag=1), ramps(), IDLE),
        (ramps(lag=1), pulses(), IDLE),  # displacements
        (ramps(lag=3), ramps(), IDLE),  # the state lags behind: it was told to move
        (ramps(), ramps((20, 20)), (6, 3)),  # it is moved, whatever it is told
        (trembling(ramps(lag=1), 0.05), trembling(ramps(), 0.05), IDLE),
        (ramps((0, 0)), ramps((0, 0)), (0, 0)),
        (ramps((0, 40), lag=1), ramps((0, 40)), (0, 40)),
        (ramps((90, 90)), ramps((90, 90)), (0, 0)),  # nothing ever moves: that is what it shows
        (None, ramps(), (0, 0)),  # who knows what an action that does not change does
        (ramps(), None, (0, 0)),
    ],
)
def test_idle_rows_are_those_before_action_and_state_move(
    episodes: Episodes, states: Numbers | None, actions: Numbers | None, expected: tuple[int, int]
) -> None:
    made = [
        dataclasses.replace(each, idle=0, state=states and states[number], action=actions and actions[number])
        for number, each in enumerate(episodes.episodes)
    ]
    found = with_idle(dataclasses.replace(episodes, episodes=made))
    assert tuple(each.idle for each in found.episodes) == expected


@pytest.mark.parametrize(("keep", "idle"), [(False, sum(IDLE)), (True, 0)])
def test_a_policy_does_not_train_on_them_unless_told(dataset: Path, tmp_path: Path, keep: bool, idle: int) -> None:
    selection = EpisodeSelection(cameras=("head",), previous_action=True, keep_idle=keep)
    spec = DatasetSpec("pick", "robot", EpisodesAt(dataset, selection), embodiment="two_link")
    (found,) = open_mixture(MixtureSpec((spec,)), build_policy(DEBUG), held_out=0.0, cache=tmp_path)
    assert found.data.idle_rows == idle
    assert len(found.data) == len(found.train) == MixtureSpec((spec,)).survey().contents.samples == sum(LENGTHS) - idle
    sample = found.data[0]
    assert sample.action is not None
    assert sample.action[:2, 0].tolist() == ([3, 3] if keep else [4, 5])


def test_a_training_tells_how_many_were_left_out(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    config = GroundConfig(
        data=dataset, out=tmp_path / "run", recipe="debug", cache=tmp_path, steps=1, embodiment="two_link",
        selection=EpisodeSelection(cameras=("head",)), model=DEBUG, training=recipe_named("debug").training,
    )  # fmt: skip
    (member,) = run(config)["members"]
    assert member["idle_rows"] == sum(IDLE)
    assert member["samples"] + member["held_out_samples"] == sum(LENGTHS) - sum(IDLE)
    assert re.search(rf"demonstrations.* {sum(IDLE)} │\n", capsys.readouterr().out)


def test_jobs_that_look_at_every_row_refuse_the_flag(tmp_path: Path) -> None:
    selection = EpisodeSelection("0", keep_idle=True)
    with pytest.raises(ValueError, match="--keep-idle is of training"):
        EvaluateConfig("policy", tmp_path, data=tmp_path, selection=selection)
    with pytest.raises(ValueError, match="--keep-idle is of a policy's training"):
        LabelConfig(robot=tmp_path, embodiment="x", corpus=tmp_path, out=tmp_path, selection=selection)
