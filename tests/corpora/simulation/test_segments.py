"""Segments of demonstrations, brought to other scenes: the transform against homogeneous matrices, and lines between segments."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from corpora.simulation.metaworld import MetaWorldEnv
from corpora.simulation.segments import GOAL, OBJECTS, STEP_M, Demonstration, Place, cut, objects_of, planned
from corpora.simulation.settings import CONTROL_HZ, Joining, Look
from corpora.simulation.tasks import INSTRUCTIONS
from tests.builders.cameras import offscreen_gl_available

OBJECT = ("obj", GOAL)


def some_place(rng: np.random.Generator) -> Place:
    return Place(rng.normal(size=3), Rotation.random(random_state=int(rng.integers(1000))).as_matrix())


def demonstration(rng: np.random.Generator, *, rows: int = 12, begins: int = 5, steps: int = 4) -> Demonstration:
    hand = np.cumsum(rng.normal(scale=0.01, size=(rows, 3)), axis=0)
    places = (some_place(rng), some_place(rng))
    action = rng.uniform(-1, 1, (rows, 4))
    return Demonstration(7, hand, action, steps, places, cut(OBJECT, rows, begins))


def matrix(place: Place) -> NDArray[np.float64]:
    return np.block([[place.rotation, place.position[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])


def test_the_motion_is_what_homogeneous_matrices_say() -> None:
    """T_new T_source^-1, of MimicGen, one point after the other."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        source, new, points = some_place(rng), some_place(rng), rng.normal(size=(5, 3))
        slow = matrix(new) @ np.linalg.inv(matrix(source))
        motion = source.to(new)
        for point, moved, turned in zip(points, motion.moved(points), motion.turned(points), strict=True):
            np.testing.assert_allclose(moved, (slow @ [*point, 1])[:3], atol=1e-12)
            np.testing.assert_allclose(turned, (slow @ [*point, 0])[:3], atol=1e-12)
        np.testing.assert_allclose(motion.rows(), slow[:3], atol=1e-12)


def test_in_its_own_scene_the_plan_is_the_demonstration() -> None:
    shown = demonstration(np.random.default_rng(1))
    plan = planned(shown, shown.places, shown.hand[0], Joining(), CONTROL_HZ)
    np.testing.assert_allclose(plan.action, np.repeat(shown.action, 4, axis=0), atol=1e-9)
    np.testing.assert_allclose(plan.hand[::4], shown.hand, atol=1e-9)
    assert plan.noisy.all() and [piece["from_step"] for piece in plan.pieces] == [0, 20]


def test_in_another_scene_each_segment_keeps_its_place_to_its_object_and_lines_join_them() -> None:
    rng = np.random.default_rng(2)
    shown = demonstration(rng)
    new, hand = (some_place(rng), some_place(rng)), rng.normal(size=3)
    plan = planned(shown, new, hand, Joining(speed_m_s=0.4), CONTROL_HZ)
    for piece, before, now in zip(plan.pieces, shown.places, new, strict=True):
        first, stop = piece["rows"]
        there = slice(piece["from_step"], piece["from_step"] + 4 * (stop - first))
        seen_then = (shown.hand[first:stop] - before.position) @ before.rotation  # in the object's own axes
        seen_now = (plan.hand[there][::4] - now.position) @ now.rotation
        np.testing.assert_allclose(seen_now, seen_then, atol=1e-9)
        np.testing.assert_array_equal(plan.action[there][::4, 3], shown.action[first:stop, 3])
        assert plan.noisy[there].all()
    lines = ~plan.noisy
    assert lines[0] and lines.sum() > 2
    assert np.linalg.norm(plan.action[lines, :3], axis=1).max() <= 0.4 / CONTROL_HZ / STEP_M + 1e-9
    np.testing.assert_allclose(plan.hand[0], hand)
    moved = np.diff(plan.hand, axis=0)[lines[:-1]]  # a line ends where its segment begins
    np.testing.assert_allclose(moved, plan.action[lines, :3] * STEP_M, atol=1e-9)


def test_a_demonstration_whose_object_never_moves_is_about_that_alone() -> None:
    rng = np.random.default_rng(3)
    shown = demonstration(rng, begins=12)
    assert [piece["object"] for piece in planned(shown, shown.places, shown.hand[0], Joining(), 80).pieces] == ["obj"]


def test_joining_is_checked_and_a_task_of_unknown_objects_refused() -> None:
    with pytest.raises(ValueError, match="speed_m_s 0"):
        Joining(speed_m_s=0)
    with pytest.raises(ValueError, match="gain 2"):
        Joining(gain=2)
    with pytest.raises(ValueError, match=r"task 'hand-insert': which object.*--tasks"):
        objects_of("hand-insert")
    assert {*OBJECTS} <= {*INSTRUCTIONS}


@pytest.mark.gl
def test_where_things_are_is_known_at_once_and_looking_changes_nothing() -> None:
    assert offscreen_gl_available()
    env = MetaWorldEnv("coffee-pull", Look(size=32))
    runs = []
    for looks in (False, True):
        env.reset(3)
        for _ in range(5):
            if looks:
                mug, machine, goal = env.places(("obj", "coffee_machine", GOAL))
                # Meta-World puts the machine 0.22 m behind the mug: true before any step
                np.testing.assert_allclose((machine.position - mug.position)[:2], (0, 0.22), atol=0.01)
                assert np.linalg.norm(goal.position - mug.position) > 0.1
            state = env.step(np.array([0.5, -0.5, 0.1, 0.0]))
        runs.append(state)
    env.close()
    np.testing.assert_array_equal(runs[0], runs[1])
