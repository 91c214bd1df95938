"""The last action in the state, against a loop."""

from __future__ import annotations

import numpy as np

from corpora.episodes.episode import previous_action


def test_the_last_action_and_its_lead_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    for rows in (4, 5):
        state, action = (rng.normal(size=(rows, width)).astype(np.float32) for width in (3, 2))
        made, names = previous_action(state, action, ("a", "b", "grip"), ("b", "speed"))
        assert names == ("a", "b", "grip", "lead.b", "previous.b", "previous.speed")
        for row in range(rows):
            b, speed = (state[row, 1], 0.0) if row == 0 else action[row - 1]
            np.testing.assert_allclose(made[row], [*state[row], b - state[row, 1], b, speed], atol=1e-6)


def test_without_a_state_only_the_last_action_is_known() -> None:
    action = np.arange(6, dtype=np.float32).reshape(3, 2)
    made, names = previous_action(None, action, (), ("x", "y"))
    assert names == ("previous.x", "previous.y")
    np.testing.assert_array_equal(made, [[0, 0], [0, 1], [2, 3]])
