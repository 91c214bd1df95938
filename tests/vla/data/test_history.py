"""Frames from before the episode (M14): the same moments give a policy the same inputs, and so the same chunks, in training, in
open loop, in closed loop, by `Policy.act` and behind the server."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.label_type import Actions
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from corpora.simulation.settings import CONTROL_HZ
from corpora.video.nearest import after_beginning, rows_back, rows_within
from jobs.evaluation.closed_loop import ClosedLoopSettings, _common, _observations
from jobs.evaluation.recorded_chunks import RecordedEpisodes
from jobs.evaluation.rollouts import RolloutRequest, _Playing
from tests.builders.policies import SIZE, tiny_policy
from tests.builders.robots import know_made_robots, made_robot
from tests.builders.worlds import PictureWorld
from vla.data.loader import collate
from vla.data.open import open_mixture
from vla.observation import Observation
from vla.policy import Policy
from vla.recipes import DEBUG
from vla.serving.groot import ServedPolicy

HISTORY_S = (0.25, 0.1, 0.0)
FPS, ROWS, EPISODE = 10, 8, 1
KEY = "annotation.human.action.task_description"
Shown = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""uint8 [T, 3, S, S] and bool [T]."""


def picture(row: int) -> NDArray[np.uint8]:
    """[S, S, 3] of a row, unlike that of any other."""
    return np.random.default_rng(row).integers(1, 256, (SIZE, SIZE, 3), np.uint8)


class _Episode:
    """The moments of one episode, as each room shows them to a policy that sees HISTORY_S."""

    def __init__(self, folder: Path, cache: Path) -> None:
        rng = np.random.default_rng(0)
        self.state = rng.normal(0, 1, (3, ROWS, 4)).astype(np.float32)
        data = made_robot(folder, self.state, rng.normal(0, 1, (3, ROWS, 2)).astype(np.float32), fps=FPS)
        flow = dataclasses.replace(DEBUG.flow, temperature=0.0)  # no noise
        self.policy = policy = tiny_policy(history_s=HISTORY_S, flow=flow)
        spec = DatasetSpec("made", "robot", EpisodesAt(data), Actions(), embodiment="gr1")
        self.dataset = open_mixture(MixtureSpec((spec,)), policy, held_out_episodes={"made": "0"}, cache=cache)[0]
        choice = EpisodeSelection(str(EPISODE))
        self.recorded = RecordedEpisodes(policy, "gr1", data, choice, train_episodes="0,2", cache=cache)

    def trained(self, row: int) -> tuple[Shown, NDArray[np.float32]]:
        """What training shows, and the chunk there."""
        batch = collate([self.dataset], [(0, EPISODE * ROWS + row)], self.policy.config, cameras=1)
        with torch.no_grad():
            tokens = self.policy.encode(batch["images"], batch["image_mask"], batch["instruction"])
            encoded = self.policy.sample(tokens, batch["state"], batch["state_mask"], batch["embodiment"], 2)
        space = self.policy.embodiment("gr1").action_space
        chunk = space.decode_action(self.state[EPISODE, row][None], encoded[..., :2].numpy())[0]
        return (batch["images"][0, 0].numpy(), batch["image_mask"][0, 0].numpy()), chunk


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        know_made_robots(patch)

        def fill(self: Any, episodes: Any, images: Any, valid: Any, progress: Any) -> list[Any]:
            for part in episodes.episodes:
                images[part.start : part.stop, 0] = [picture(row) for row in range(ROWS)]
            valid[:] = True
            return []

        patch.setattr("tests.builders.robots._Grey.fill", fill)
        folder = tmp_path_factory.mktemp("history")
        yield _Episode(folder / "made", folder / "cache")


def frames_at(row: int, filling: str) -> NDArray[np.uint8]:
    """[T, S, S, 3] as a client has them, who fills the places of frames that he does not have yet."""
    backs = rows_back(HISTORY_S, 1 / FPS)
    missing = np.zeros_like(picture(0)) if filling == "black" else picture(0)
    return np.stack([picture(row - back) if row >= back else missing for back in backs])


def request(episode: _Episode, row: int, filling: str) -> dict[str, Any]:
    layout = ServedPolicy(episode.policy, "gr1").layout
    state = episode.state[EPISODE, row][None, None]
    return {
        "video": {"wrist": frames_at(row, filling)[None]},
        "state": {part.name: state[..., part.start : part.end] for part in layout.state},
        "language": {layout.instruction_key: [["pick"]]},
    }


def test_every_room_gives_the_chunk_of_training_at_every_row(
    episode: _Episode, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = episode.policy
    served = ServedPolicy(policy, "gr1")
    open_loop = episode.recorded.predict(policy, "gr1")
    masked = 0
    for row in range(ROWS):
        (images, mask), chunk = episode.trained(row)
        masked += int((~mask).sum())
        np.testing.assert_allclose(open_loop[row], chunk, atol=1e-5)
        state = episode.state[EPISODE, row]
        for filling in ("black", "first"):
            seen = Observation({"wrist": frames_at(row, filling)}, state, "pick", since_start_s=row / FPS)
            np.testing.assert_allclose(policy.act(seen, "gr1").actions, chunk, atol=1e-5)
            asked = request(episode, row, filling)
            parsed = served.parse(asked, nested=True)
            np.testing.assert_array_equal(parsed.image_mask[0, 0], mask)
            np.testing.assert_array_equal(parsed.images[0, 0], images)
            answer = served.get_action({"observation": asked})[0]
            np.testing.assert_allclose(np.concatenate(list(answer.values()), -1)[0], chunk, atol=1e-5)
    assert masked == 3  # of row 0 two frames, of row 1 one: 0.05 s before the first row is a matter of the clock


def test_closed_loop_shows_what_training_shows(episode: _Episode) -> None:
    common = _common(ClosedLoopSettings(execute=1), 1 / FPS, HISTORY_S, expert=False)
    env = PictureWorld(CONTROL_HZ // FPS, picture)
    playing = _Playing(env, RolloutRequest("reach", 0, "pick"), common)  # type: ignore[arg-type]
    for row in range(ROWS):
        seen = _observations([playing.observation()])
        (images, mask), chunk = episode.trained(row)
        np.testing.assert_array_equal(seen.image_mask[0, 0], mask)
        np.testing.assert_array_equal(seen.images[0, 0], images)
        acted = episode.policy.act_batch(
            torch.from_numpy(seen.images),
            torch.from_numpy(seen.image_mask),
            seen.instruction,
            episode.state[EPISODE, row][None],
            "gr1",
        )
        np.testing.assert_allclose(acted[0], chunk, atol=1e-5)
        playing.play(np.zeros((1, 4)))


def test_a_client_may_say_when_its_episode_began(episode: _Episode) -> None:
    """A simulated robot that stands still shows the same picture at two moments: only its client can tell."""
    served = ServedPolicy(episode.policy, "gr1")
    asked = request(episode, 0, "first")
    still = served.parse(asked, nested=True, options={"since_start_s": 5.0})
    assert still.image_mask.all() and still.images[0, 0, 0].any()
    began = served.parse(asked, nested=True, options={"since_start_s": [0.1]})
    assert began.image_mask[0, 0].tolist() == [False, True, True] and not began.images[0, 0, 0].any()
    for wrong in (-1, "now", [0.0, 0.0], True, float("nan")):
        with pytest.raises(ValueError, match="seconds since the episode began"):
            served.parse(asked, nested=True, options={"since_start_s": wrong})
    with pytest.raises(ValueError, match="since_start_s -1"):
        episode.policy.act(Observation({"wrist": frames_at(3, "first")}, episode.state[1, 3], since_start_s=-1))


def test_the_rules_of_rows_and_of_the_beginning_are_those_of_the_reader() -> None:
    times = np.arange(40) / 30
    for ages in ((0.5, 0.25, 0.0), (0.05, 1 / 60, 0.0), (1.0, 0.1, 0.0)):
        backs = rows_back(ages, 1 / 30)
        for row, time in enumerate(times):
            found, near = rows_within(times, time - np.asarray(ages), 1 / 30)
            np.testing.assert_array_equal(after_beginning(ages, time, 1 / 30), near)
            np.testing.assert_array_equal([row - back >= 0 for back in backs], near)
            np.testing.assert_array_equal(found[near], (row - np.asarray(backs))[near])


def test_frames_before_the_episode_matter(episode: _Episode) -> None:
    """Else none of these tests would show anything."""
    policy: Policy = episode.policy
    whole = Observation({"wrist": frames_at(0, "first")}, episode.state[EPISODE, 0], "pick")
    begun = dataclasses.replace(whole, since_start_s=0.0)
    assert np.abs(policy.act(whole, "gr1").actions - policy.act(begun, "gr1").actions).max() > 1e-3
