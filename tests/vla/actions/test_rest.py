"""What leaves a robot at rest, as an action space knows it: of its parts, or of its data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import vla
from corpora.episodes.parts import ActionPart
from corpora.mixture.mixture import read_mixture
from tests.builders.policies import tiny_policy
from vla.actions.space import ActionSpace

SAMPLE = Path(__file__).parents[3] / "corpora" / "sample" / "robot_still"


def recorded() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """States, how they move, and actions: a target, a displacement, a command."""
    rng = np.random.default_rng(0)
    path = np.cumsum(np.convolve(rng.normal(size=500), np.ones(12) / 12, "same")) * 0.01
    step = np.diff(path, append=path[-1])
    command = (np.arange(500) // 50 % 2).astype(float)
    state = np.stack([path, path, np.roll(command, 5)], 1)
    moved = np.diff(state, axis=0, append=np.nan)
    return tuple(part.astype(np.float32) for part in (state, moved, np.stack([path + step, 20 * step, command], 1)))  # type: ignore[return-value]


def space(parts: tuple[ActionPart, ...] | None = None, *, told: bool = True) -> ActionSpace:
    state, moved, action = recorded()
    chunks = action[:400].reshape(100, 4, 3)
    options = {"frames": (state, action), **({"moved": moved} if told else {})}
    return ActionSpace.fit(state[:400:4], chunks, parts=parts, **options)


def test_the_data_tell_a_displacement_from_a_target_and_a_command() -> None:
    known = space()
    assert known.displacements == (1,)
    np.testing.assert_array_equal(known.at_rest([[1, 2, 3], [4, 5, 6]]), [[1, 0, 3], [4, 0, 6]])
    assert ActionSpace.from_json(known.to_json()).displacements == (1,)


def test_a_part_knows_better_than_its_data() -> None:
    parts = [ActionPart("a", (0,), displacement=True), ActionPart("b", (1,), displacement=False), ActionPart("c", (2,))]
    assert space(tuple(parts)).displacements == (0,)
    parts[2] = ActionPart("c", (2,), displacement=True)
    assert space(tuple(parts), told=False).displacements == (0, 2)
    assert ActionPart.from_json({"name": "a", "dims": "0:3", "displacement": True}).displacement


def test_what_nobody_tells_is_refused_not_guessed() -> None:
    for unknown in (space(told=False), ActionSpace.from_json({**space().to_json(), "displacements": None})):
        assert unknown.displacements is None
        with pytest.raises(ValueError, match="displacement = true or false"):
            unknown.at_rest(np.zeros(3))
    older = {key: value for key, value in space().to_json().items() if key != "displacements"}
    assert ActionSpace.from_json(older).displacements is None


@pytest.mark.parametrize(("kind", "rest"), [("quaternion_xyzw", [0, 0, 0, 1]), ("quaternion_wxyz", [1, 0, 0, 0])])
def test_no_turn_is_a_rotation_too(kind: str, rest: list[float]) -> None:
    parts = (ActionPart("wrist", range(4), rotation=kind, displacement=True),)  # type: ignore[arg-type]
    turns = np.random.default_rng(0).normal(size=(20, 3, 4))
    known = ActionSpace.fit(None, turns / np.linalg.norm(turns, axis=-1, keepdims=True), parts=parts)
    np.testing.assert_allclose(known.at_rest(turns[0]), [rest] * 3)


def test_metaworlds_hand_is_moved_by_displacements_and_its_gripper_is_not(tmp_path: Path) -> None:
    """The robot of the sample, as pretraining opens it."""
    (tmp_path / "pyramid.toml").write_text(
        f'[[dataset]]\nname = "robot"\ntier = "robot"\nlabel = "actions"\nfolder = "{SAMPLE}"\nembodiment = "sawyer"\n'
    )
    policy = tiny_policy(max_state_dim=16, max_action_dim=16)
    vla.open_mixture(read_mixture(tmp_path / "pyramid.toml"), policy, cache=tmp_path / "cache")
    found = policy.embodiments["sawyer"].action_space
    assert found.action_names == ("x", "y", "z", "gripper") and found.displacements == (0, 1, 2)
    older = dataclasses.replace(found, displacements=None)  # a policy that does not know learns it with its next data
    policy.embodiments["sawyer"] = dataclasses.replace(policy.embodiments["sawyer"], action_space=older)
    vla.open_mixture(read_mixture(tmp_path / "pyramid.toml"), policy, cache=tmp_path / "cache")
    assert policy.embodiments["sawyer"].action_space.displacements == (0, 1, 2)
