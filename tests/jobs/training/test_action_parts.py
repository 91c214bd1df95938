"""V12: rotations, statistics per step and frames are reached from `giza ground --action-parts` and from a mixture's TOML."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.spatial.transform import Rotation

import vla
from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.mixture import read_mixture
from jobs.commands import ground
from tests.builders.datasets import CAMERAS, LENGTHS, lerobot_v2, opened
from vla.recipes import recipe_named

PARTS = """
[[{table}]]
name = "place"
dims = "0:3"
state_dims = "0:3"
representation = "relative"
frame = "wrist"
per_step = true

[[{table}]]
name = "wrist"
dims = "3:7"
state_dims = "3:7"
representation = "relative"
rotation = "quaternion_xyzw"

[[{table}]]
name = "gripper"
dims = [7]
normalisation = "min_max"
"""


def hand_dataset(root: Path) -> Path:
    """A hand that turns about a tilted axis and moves along its own x: state place, quaternion; action the same and a gripper."""
    lerobot_v2(root)
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["observation.state"]["shape"], info["features"]["action"]["shape"] = [7], [8]
    (root / "meta" / "info.json").write_text(json.dumps(info))
    for episode, path in enumerate(sorted((root / "data").rglob("*.parquet"))):
        time = np.arange(LENGTHS[episode] + 1) / 15
        turns = Rotation.from_rotvec(np.outer(1.5 * time + episode, [0.6, 0.0, 0.8]))
        place = np.cumsum(turns.apply([0.02, 0.0, 0.0]), axis=0)
        hand = np.concatenate([place, turns.as_quat()], 1).astype(np.float32)
        closed = (time[1:, None] > 1).astype(np.float32)
        table = pq.read_table(path).drop_columns(["observation.state", "action"])
        table = table.append_column("observation.state", pa.array(hand[:-1].tolist()))
        action = np.concatenate([hand[1:], closed], 1)
        pq.write_table(table.append_column("action", pa.array(action.tolist())), path)
    return root


@pytest.fixture(scope="module")
def grounded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, vla.Policy]:
    folder = tmp_path_factory.mktemp("hand")
    data = hand_dataset(folder / "data")
    (folder / "parts.toml").write_text(PARTS.format(table="action_parts"))
    recipe = recipe_named("debug")
    config = ground.GroundConfig(
        data=data, out=folder / "run", recipe="debug", cache=folder / "cache", steps=2, embodiment="hand",
        selection=EpisodeSelection(cameras=CAMERAS[:1]), action_parts=folder / "parts.toml",
        model=recipe.policy, training=recipe.training,
    )  # fmt: skip
    ground.run(config, quiet=True)
    return folder, vla.load(folder / "run")


def test_a_policy_grounded_on_parts_gives_back_the_demonstrated_actions(grounded: tuple[Path, vla.Policy]) -> None:
    folder, policy = grounded
    space, horizon = policy.embodiment("hand").action_space, policy.config.horizon
    assert [part.name for part in space.parts] == ["place", "wrist", "gripper"]
    assert space.encoded_state_dim == 3 + 6 and space.encoded_action_dim == 3 + 6 + 1 and space.horizon == horizon
    for episode in opened(folder / "data").episodes:
        assert episode.state is not None and episode.action is not None
        for start in (0, 7, len(episode.state) - horizon):
            state, chunk = episode.state[start], episode.action[start : start + horizon]
            encoded = space.encode_action(state, chunk)
            assert np.abs(encoded).max() < 3
            np.testing.assert_allclose(space.decode_action(state, encoded), chunk, atol=2e-5)


def test_rotations_frames_and_steps_are_what_the_policy_learned(grounded: tuple[Path, vla.Policy]) -> None:
    """The hand goes along its own x at each step: seen from the hand, with statistics of each step, nothing else is left of
    the first step; and the step's mean grows over the chunk."""
    _, policy = grounded
    place = policy.embodiment("hand").action_space.actions["place"].statistics
    assert place.mean.shape == (policy.config.horizon, 3)
    assert place.mean[0, 0] == pytest.approx(0.02 * np.cos(0.1) + 0.02 * (1 - np.cos(0.1)) * 0.36, abs=1e-4)
    assert place.mean[-1, 0] > 4 * place.mean[0, 0]
    wrist = policy.embodiment("hand").action_space.actions["wrist"].statistics
    np.testing.assert_allclose(wrist.min[:3], wrist.q01[:3], atol=0.2)
    assert wrist.mean.shape == (6,) and wrist.mean[0] > 0.8  # relative to the state: near the identity


def test_the_same_parts_in_a_mixture_fit_the_same_action_space(grounded: tuple[Path, vla.Policy]) -> None:
    folder, policy = grounded
    head = (
        f'[[member]]\nname = "demonstrations"\ntier = "robot"\nlabel = "action"\ndataset = "{folder / "data"}"\n'
        f'embodiment = "hand"\ncameras = ["{CAMERAS[0]}"]\n'
    )
    (folder / "mixture.toml").write_text(head + PARTS.format(table="member.action_parts"))
    again = vla.build(recipe_named("debug").policy)
    vla.open_mixture(read_mixture(folder / "mixture.toml"), again, seed=0, cache=folder / "cache")
    assert again.embodiments["hand"].to_json() == policy.embodiments["hand"].to_json()


def test_parts_that_do_not_fit_the_dataset_are_refused_by_name(
    grounded: tuple[Path, vla.Policy], tmp_path: Path
) -> None:
    folder, _ = grounded
    (tmp_path / "parts.toml").write_text('[[action_parts]]\nname = "arm"\ndims = "0:7"\n')
    config = ground.GroundConfig(
        data=folder / "data", out=tmp_path / "run", cache=folder / "cache", steps=1, action_parts=tmp_path / "parts.toml",
        model=recipe_named("debug").policy,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"dataset 'demonstrations': action parts cover .*each of 0 to 7 belongs"):
        ground.run(config, quiet=True)
