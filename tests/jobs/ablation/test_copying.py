"""The copy of a demonstration, which arms are held against."""

from __future__ import annotations

import numpy as np


def test_a_copy_replays_its_tasks_demonstration_step_by_step_and_holds_its_end() -> None:
    from jobs.ablation.copying import copy_act
    from jobs.evaluation.closed_loop import Observations

    shown = np.arange(10, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    act = copy_act({"a": shown, "b": -shown}, 4)
    nothing = np.zeros((2, 1, 1, 3, 8, 8), np.uint8)
    seen = Observations(
        nothing, np.ones((2, 1, 1), bool), ["", ""], np.zeros((2, 11), np.float32), ["b", "a"], [0, 0], [1, 2]
    )
    assert np.array_equal(act(seen)[..., 0], [[-4, -5, -6, -7], [8, 9, 9, 9]])
