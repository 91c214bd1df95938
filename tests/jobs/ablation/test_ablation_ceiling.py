"""True actions of people's clips: each step is the action that was done at that time, and none lies past the end."""

from __future__ import annotations

import numpy as np
import pytest

from corpora.mixture.pseudo_actions import chunks_at


def test_a_step_is_the_action_of_the_row_that_contains_its_time() -> None:
    t_s = np.arange(12) / 20
    action = np.arange(24, dtype=np.float32).reshape(12, 2)
    times, chunks = chunks_at(t_s[::3], t_s, action, 16, 1 / 80)
    expected = [k / 20 for k in (0, 3, 6)]  # 16 steps at 80 Hz are 0.2 s, four rows; the fourth frame's end too late
    np.testing.assert_allclose(times, expected)
    assert chunks.shape == (3, 16, 2)
    for time, chunk in zip(times, chunks, strict=True):
        for step in range(16):
            row = max(k for k in range(12) if t_s[k] <= time + step / 80 + 1e-9)
            np.testing.assert_array_equal(chunk[step], action[row])


def test_the_last_chunk_may_end_with_the_episode_and_no_later() -> None:
    t_s = np.arange(8) / 20
    times, _ = chunks_at(t_s, t_s, np.zeros((8, 4), np.float32), 16, 1 / 80)
    np.testing.assert_allclose(times, t_s[:5])
    times, chunks = chunks_at(t_s, t_s, np.zeros((8, 4), np.float32), 64, 1 / 80)
    assert len(times) == 0 and chunks.shape == (0, 64, 4)


def test_frames_of_another_episode_are_refused() -> None:
    t_s = np.arange(8) / 20
    with pytest.raises(ValueError, match="the episode has no rows at these times"):
        chunks_at(t_s + 3, t_s, np.zeros((8, 4), np.float32), 4, 1 / 80)
