"""The closed loop paints what the policy sees as its training data were painted: the same painter, the same bits."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from corpora.agent.painting import Painter, open_agent, view_of
from corpora.agent.settings import PaintSettings
from corpora.agent.track import known_track
from corpora.simulation.metaworld import ACTION_NAMES
from corpora.simulation.settings import Look
from corpora.video.view import View
from jobs.evaluation.acting import metaworld_act, metaworld_view
from jobs.evaluation.closed_loop import ClosedLoopSettings, _common, _observations, play
from jobs.evaluation.rollouts import RolloutRequest, _Playing
from tests.builders.agents import FRAMES, SIZE, acted
from tests.builders.policies import teach, tiny_policy
from tests.builders.worlds import PictureWorld
from vla.actions.space import ActionSpace

CLIP = acted("0" * 16, 3)
EVERY = 4
"""Control steps a row."""


class _World(PictureWorld):
    """One that shows the clip, and knows where the agent is in it."""

    def __init__(self) -> None:
        super().__init__(EVERY, lambda row: CLIP.frames[row])

    def agent_mask(self) -> NDArray[np.bool_]:
        return CLIP.mask[self.row]

    def tool(self) -> tuple[NDArray[np.float32], float, NDArray[np.float32]]:
        return CLIP.point[self.row].astype(np.float32), 0.5, np.zeros(3, np.float32)


@pytest.mark.parametrize(("agent", "background"), [("dot", "before"), ("none", "before"), ("dot", "inpaint")])
def test_the_closed_loop_sees_the_bits_of_training(agent: str, background: Any) -> None:
    settings = PaintSettings(agent=agent, background=background, dot_radius=0.1)
    trained = Painter(open_agent(settings, SIZE), settings)
    view = view_of(trained.agent, settings)
    wanted = trained.paint(CLIP.frames, known_track(CLIP.mask, CLIP.point)).frames
    how = ClosedLoopSettings(execute=3, look=Look(SIZE), view=view)
    common = _common(how, EVERY / 80, (EVERY / 80, 0.0), expert=False)
    playing = _Playing(_World(), RolloutRequest("reach", 0, "pick"), common)  # type: ignore[arg-type]
    for row in range(0, FRAMES - 3, 3):
        seen = _observations([playing.observation()], view)
        assert seen.view == view
        np.testing.assert_array_equal(seen.images[0, 0, 1].transpose(1, 2, 0), wanted[row])
        if row:
            np.testing.assert_array_equal(seen.images[0, 0, 0].transpose(1, 2, 0), wanted[row - 1])
        playing.play(np.zeros((3, 4)))
    assert (wanted != CLIP.frames).any()


def test_a_policy_is_shown_no_other_view_than_its_own() -> None:
    policy = tiny_policy()
    teach(policy, "metaworld", 0, 4)
    space = ActionSpace.fit(None, np.random.default_rng(0).normal(size=(20, 4, 4)), action_names=ACTION_NAMES)
    view = View("dot", "before", 0.02, 0.1)
    policy.embodiments["metaworld"] = dataclasses.replace(
        policy.embodiments["metaworld"], action_space=space, views={"head": view}
    )
    assert metaworld_view(policy, "metaworld") == view
    playing = _Playing(_World(), RolloutRequest("reach", 0, "pick"), _common(ClosedLoopSettings(), 0.05, (0.0,), False))  # type: ignore[arg-type]
    act = metaworld_act(policy, "metaworld")
    with pytest.raises(ValueError, match="were painted .*, these are as the camera saw them: give the rollouts"):
        act(_observations([playing.observation()], None))
    assert act(_observations([playing.observation()], view)).shape[2] == 4


@pytest.mark.gl
def test_the_simulated_robot_is_gone_from_what_the_policy_sees() -> None:
    seen = []

    def act(now: Any) -> NDArray[np.float32]:
        seen.append(now.images[0, 0, 0].transpose(1, 2, 0))
        return np.zeros((1, 8, 4), np.float32)

    look = Look(size=64)
    for view in (None, View("none", "inpaint", 0.02)):
        play(act, ClosedLoopSettings(("reach",), 1, execute=8, max_steps=8, look=look, workers=1, slots=1, view=view))
    plain, painted = seen
    assert 0.02 < (plain != painted).any(-1).mean() < 0.6
