"""GR00T N1.7's chunks: an end effector relative to the state with statistics of each step, as NVIDIA's own code makes them.

`fixtures/groot_n1_7_chunks.safetensors` (tests/peers/groot_chunks_peer.py) holds an episode and what that code made of it. Its absolute
numbers and states are normalised by percentiles, its relative ones by the range of each step (they take `min` and `max`, whatever
`use_percentiles` says).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from corpora.episodes.parts import ActionPart
from vla.actions.rotations import matrix_to_quaternion, matrix_to_rotation_6d, quaternion_to_matrix
from vla.actions.space import ActionSpace

FIXTURE = Path(__file__).parents[1] / "fixtures" / "groot_n1_7_chunks.safetensors"
PLACE, WRIST = (0, 1, 2), (3, 4, 5, 6)
END_EFFECTOR = (
    ActionPart("place", PLACE, PLACE, "relative", frame="wrist", normalisation="min_max", per_step=True),
    ActionPart("wrist", WRIST, WRIST, "relative", "quaternion_xyzw", normalisation="min_max", per_step=True),
    ActionPart("gripper", (7,), (7,)),
)


class Episode:
    """As a robot would have recorded it, its rotations as quaternions, and what NVIDIA's code made of it."""

    def __init__(self) -> None:
        theirs = load_file(FIXTURE)
        self.state, self.action = (
            np.concatenate(
                [
                    theirs[f"{kind}.place"],
                    matrix_to_quaternion(theirs[f"{kind}.turn"], "xyzw"),
                    theirs[f"{kind}.gripper"],
                ],
                1,
            )
            for kind in ("state", "action")
        )
        self.chunks, self.states, self.restored = (theirs[name] for name in ("chunks", "states", "restored"))
        count, self.horizon = self.chunks.shape[:2]
        self.starts = self.state[:count]
        self.done = np.stack([self.action[row : row + self.horizon] for row in range(count)])

    def space(self, *parts: ActionPart) -> ActionSpace:
        return ActionSpace.fit(self.starts, self.done, parts=parts, frames=(self.state, self.action))


def test_chunks_and_states_are_nvidias() -> None:
    episode = Episode()
    space = episode.space(*END_EFFECTOR)
    assert space.horizon == episode.horizon and space.actions["place"].statistics.min.shape == (episode.horizon, 3)
    np.testing.assert_allclose(space.encode_action(episode.starts, episode.done), episode.chunks, atol=2e-6)
    np.testing.assert_allclose(space.encode_state(episode.starts), episode.states, atol=2e-6)


def test_what_is_decoded_is_nvidias_pose() -> None:
    episode = Episode()
    raw = episode.space(*END_EFFECTOR).decode_action(episode.starts, episode.chunks)
    found = np.concatenate(
        [raw[..., :3], matrix_to_rotation_6d(quaternion_to_matrix(raw[..., 3:7], "xyzw")), raw[..., 7:]], -1
    )
    np.testing.assert_allclose(found, episode.restored, atol=2e-6)


def test_poses_as_n1_7s_datasets_hold_them_give_the_same() -> None:
    """eef_9d: place, and two rows of the rotation's matrix, in state and action."""
    episode = Episode()
    six = [
        np.concatenate(
            [rows[..., :3], matrix_to_rotation_6d(quaternion_to_matrix(rows[..., 3:7], "xyzw")), rows[..., 7:]], -1
        )
        for rows in (episode.starts, episode.done, episode.state, episode.action)
    ]
    wrist = dataclasses.replace(END_EFFECTOR[1], dims=range(3, 9), state_dims=range(3, 9), rotation="rotation_6d")
    parts = (END_EFFECTOR[0], wrist, ActionPart("gripper", (9,), (9,)))
    space = ActionSpace.fit(six[0], six[1], parts=parts, frames=(six[2], six[3]))
    np.testing.assert_allclose(space.encode_action(six[0], six[1]), episode.chunks, atol=2e-6)
    np.testing.assert_allclose(space.encode_state(six[0]), episode.states, atol=2e-6)
    np.testing.assert_allclose(space.decode_action(six[0], episode.chunks), episode.restored, atol=2e-6)
    assert space.origin(1).tolist() == [[0, 0, 0, 1, 0, 0, 0, 1, 0, 0]]


@pytest.mark.parametrize("change", [{"normalisation": "q01_q99"}, {"per_step": False}, {"frame": ""}])
def test_no_other_choice_gives_them(change: dict) -> None:
    episode = Episode()
    place = dataclasses.replace(END_EFFECTOR[0], **change)
    others = episode.space(place, *END_EFFECTOR[1:]).encode_action(episode.starts, episode.done)
    assert np.abs(others - episode.chunks)[..., :3].max() > 1e-3
    assert np.abs(others - episode.chunks)[..., 3:].max() < 2e-6
