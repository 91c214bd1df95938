"""What a policy learns of a robot from its data: statistics of frames; and whether further data mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora.mixture.label_kinds import Actions
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec, EpisodesAt
from tests.builders.policies import tiny_policy
from tests.builders.robots import know_made_robots, made_robot
from vla.data.loader import TrainingDataset
from vla.data.open import open_mixture
from vla.policy import Policy


@pytest.fixture(autouse=True)
def _made(monkeypatch: pytest.MonkeyPatch) -> None:
    know_made_robots(monkeypatch)


def dataset(folder: Path, embodiment: str = "arm", **label: Any) -> DatasetSpec:
    return DatasetSpec(folder.name, "robot", EpisodesAt(folder), Actions(**label), embodiment=embodiment)


def learned(policy: Policy, tmp_path: Path, *specs: DatasetSpec, **options: Any) -> list[TrainingDataset]:
    """What `policy` trains on, and knows from then on; nothing is held out."""
    return open_mixture(MixtureSpec(specs), policy, held_out=0.0, cache=tmp_path / "cache", **options)


@pytest.mark.parametrize("horizon", [1, 16])
def test_statistics_are_those_of_frames_at_any_horizon(tmp_path: Path, horizon: int) -> None:
    """M8: 20 episodes of 100 rows, of which the first 4 are at -1: in overlapping chunks they come up less often, so that q01
    was 0 and -1, now that all is cut to the range, could not be commanded."""
    rows = np.concatenate([np.full(4, -1.0), np.linspace(0, 1, 96)])
    made = made_robot(tmp_path / "arm", np.tile(rows[:, None], (20, 1, 1)), np.tile(rows[:, None], (20, 1, 1)))
    policy = tiny_policy(horizon=horizon)
    learned(policy, tmp_path, dataset(made))
    space = policy.embodiments["arm"].action_space
    for found in (space.actions["action"].statistics, space.state.statistics):
        assert (found.q01[0], found.count[0]) == (-1, 2000)
        assert (found.mean[0], found.std[0]) == pytest.approx((rows.mean(), rows.std()), abs=1e-6)
    assert space.decode_action(None, space.encode_action(None, np.full((1, horizon, 1), -1.0)))[0, 0, 0] == -1


@pytest.mark.parametrize("representation", ["delta", "relative"])
def test_motion_is_counted_from_the_numbers_of_the_same_name(tmp_path: Path, representation: str) -> None:
    """M5: state and action hold the same names in different orders; differences were taken by place."""
    time = np.linspace(0, 1, 30)
    state = np.stack([time, 10 + 2 * time, 50 - time], 1)[None].repeat(2, 0)  # x, y, z
    action = state[..., [2, 0]] + 0.25  # z, x
    made = made_robot(tmp_path / "arm", state, action, state_names=("arm.x", "arm.y", "arm.z"), action_names=("z", "x"))
    policy = tiny_policy(horizon=4)
    learned(policy, tmp_path, dataset(made, representation=representation, normalisation="min_max"))
    space = policy.embodiments["arm"].action_space
    assert space.parts[0].state_dims == (2, 0)
    statistics = space.actions["action"].statistics
    assert np.abs([statistics.min, statistics.max]).max() < 0.5  # some 50 by place


@pytest.mark.parametrize("names", [("y", "gripper"), ("action_0", "action_1")])
def test_motion_of_numbers_that_the_state_does_not_name_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    """M5: of equal width, but unlike, or nobody knows."""
    rows = np.linspace(0, 1, 12)[None, :, None] * np.ones((2, 1, 2))
    made = made_robot(tmp_path / "arm", rows, rows, state_names=("y", "x"), action_names=names)
    with pytest.raises(
        ValueError, match=rf"dataset 'arm': .*action's .*{names[1]} is none of .* y, x; .*--action-parts"
    ):
        learned(tiny_policy(), tmp_path, dataset(made, representation="relative"))
    policy = tiny_policy()
    learned(policy, tmp_path, dataset(made))
    assert policy.embodiments["arm"].action_space.parts[0].state_dims is None


def test_datasets_of_one_slot_that_say_it_differently_are_refused(tmp_path: Path) -> None:
    """M3, M6: what the second said of representation and normalisation was ignored."""
    rows = np.linspace(0, 1, 12)[None, :, None] * np.ones((2, 1, 2))
    one, two = (made_robot(tmp_path / name, rows, rows) for name in ("one", "two"))
    policy = tiny_policy()
    with pytest.raises(ValueError, match="'two': normalisation mean_std, but embodiment 'arm' has min_max"):
        learned(policy, tmp_path, dataset(one, normalisation="min_max"), dataset(two, normalisation="mean_std"))


def test_what_one_dataset_of_a_slot_does_not_say_is_as_the_other_says(tmp_path: Path) -> None:
    rows = np.linspace(0, 1, 12)[None, :, None] * np.ones((2, 1, 2))
    one, two = (made_robot(tmp_path / name, rows, rows) for name in ("one", "two"))
    policy = tiny_policy()
    learned(policy, tmp_path, dataset(one), dataset(two, normalisation="mean_std"))
    space = policy.embodiments["arm"].action_space
    assert (space.state.kind, space.parts[0].normalisation) == ("mean_std", "mean_std")
    learned(policy, tmp_path, dataset(one))  # and a known slot is as it was learned
    with pytest.raises(ValueError, match="'one': representation relative, but embodiment 'arm' has absolute"):
        learned(policy, tmp_path, dataset(one, representation="relative"))
