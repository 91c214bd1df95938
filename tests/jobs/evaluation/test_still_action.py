"""What holds still: targets, displacements, commands and what never moves, told apart by the data alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from corpora.episodes.parts import ActionPart
from jobs.evaluation.open_loop import Baselines, Chunks, describe_still
from vla.actions.rest import still_rules
from vla.actions.space import ActionSpace

EPISODES, LENGTH, HORIZON = 6, 60, 4


def smooth(seed: int, rows: int) -> NDArray[np.float64]:
    """A path [rows] as of a hand that goes somewhere: a random walk of smooth velocity, metres."""
    noise = np.random.default_rng(seed).normal(size=rows + 20)
    return 0.3 + np.cumsum(np.convolve(noise, np.ones(12) / 12, "same")[:rows]) * 0.01


def chunks_of(states: list[NDArray[np.float64]], actions: list[NDArray[np.float64]]) -> Chunks:
    """Of episodes' states [T, Ds] and actions [T, Da], from every row."""
    parts: dict[str, list[NDArray[np.generic]]] = {field.name: [] for field in dataclasses.fields(Chunks)}
    for number, (state, action) in enumerate(zip(states, actions, strict=True)):
        rows = np.arange(len(state))
        steps = rows[:, None] + np.arange(HORIZON)
        parts["state"].append(state.astype(np.float32))
        parts["last"].append(np.concatenate([np.full_like(action[:1], np.nan), action[:-1]]).astype(np.float32))
        parts["action"].append(action[np.minimum(steps, len(rows) - 1)].astype(np.float32))
        parts["mask"].append(steps < len(rows))
        parts["episode"].append(np.full(len(rows), number))
        parts["t_s"].append(rows / 10)
        parts["moved"].append(np.concatenate([np.diff(state, axis=0), np.full_like(state[:1], np.nan)]))
    return Chunks(**{name: np.concatenate(values) for name, values in parts.items()})  # type: ignore[arg-type]


def recorded() -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Four dimensions alike in width and name: a joint's target, a displacement, a gripper's command, a still one."""
    states, actions = [], []
    for number in range(EPISODES):
        path = smooth(number, LENGTH + 1)
        noise = np.random.default_rng(100 + number)
        command = (np.arange(LENGTH) > LENGTH // 2).astype(float)  # 1 closes
        opening = np.convolve(np.concatenate([np.ones(5), 1 - command]), np.ones(6) / 6, "valid")
        state = np.stack([path[:-1], path[:-1], opening, np.full(LENGTH, 0.2)], 1)
        motion = 20 * np.diff(path) + noise.normal(0, 0.02, LENGTH)
        target = path[1:] + noise.normal(0, 0.002, LENGTH)
        states.append(state)
        actions.append(np.stack([target, motion, command, np.full(LENGTH, 0.7)], 1))
    return states, actions


RULES = ("state", "zero", "last", "last")


def test_targets_displacements_commands_and_constants() -> None:
    chunks = chunks_of(*recorded())
    assert Baselines(chunks, [0, 1, 2, 3]).still_rules == RULES
    # where the spec has no candidate there is nothing to decide
    assert Baselines(chunks, [None, 1, None, None]).still_rules == ("last", "zero", "last", "last")


def test_units_and_offsets_change_nothing() -> None:
    """Displacements in centimetres, targets in degrees beside states in degrees."""
    states, actions = recorded()
    scale, offset = np.array([57.3, 100.0, 5.0, 3.0]), np.array([90.0, 0.0, -2.0, 4.0])
    turned = [np.concatenate([state[:, :1] * 57.3 + 90, state[:, 1:]], 1) for state in states]
    chunks = chunks_of(turned, [action * scale + offset for action in actions])
    assert Baselines(chunks, [0, 1, 2, 3]).still_rules == RULES


def test_each_rule_in_the_baselines() -> None:
    chunks = chunks_of(*recorded())
    baselines = Baselines(chunks, [0, 1, 2, 3])
    found = baselines.predict(chunks)
    assert chunks.state is not None
    later = np.flatnonzero(~np.isnan(chunks.last[:, 0]))
    first = np.flatnonzero(np.isnan(chunks.last[:, 0]))
    still = found["hold_still"][:, 2]
    np.testing.assert_array_equal(still[:, 0], chunks.state[:, 0])
    np.testing.assert_array_equal(still[:, 1], 0)
    np.testing.assert_array_equal(still[later, 2:], chunks.last[later, 2:])
    np.testing.assert_array_equal(found["repeat_last"][later, 3], chunks.last[later])
    # before the first action: where the robot is, no motion, the mean of what else is told
    np.testing.assert_allclose(found["repeat_last"][first, 0, :2], np.stack([chunks.state[first, 0], 0 * first], 1))
    np.testing.assert_allclose(found["repeat_last"][first, 0, 2:], baselines.mean[2:][None].repeat(EPISODES, 0))
    # from no motion, mean motion is the mean displacement
    np.testing.assert_allclose(found["mean_motion"][:, 1, 1], baselines.mean_chunk[1, 1])
    variance = baselines.std**2
    errors = np.square(found["hold_still"] - chunks.action)[chunks.mask].mean(0)
    assert (errors[:3] < 1.5 * variance[:3]).all()  # the state for the displacement would be far above


def test_no_state_and_no_motion_known() -> None:
    chunks = chunks_of(*recorded())
    blind = dataclasses.replace(chunks, state=None, moved=None)
    assert Baselines(blind, [0, 1, 2, 3]).still_rules == ("last",) * 4
    # targets are told by the state alone; whether what is left is a displacement is not known
    assert Baselines(dataclasses.replace(chunks, moved=None), [0, 1, 2, 3]).still_rules == (
        "state",
        "last",
        "last",
        "last",
    )


def test_what_the_robot_says_of_its_displacements_comes_before_what_its_data_look_like() -> None:
    """The data alone would hold a declared displacement still by its last action, and a lasting command by zero."""
    chunks = chunks_of(*recorded())
    parts = (
        ActionPart("target", (0,), displacement=False),
        ActionPart("motion", (1,), displacement=False),
        ActionPart("turn", (2,), displacement=True),
        ActionPart("still", (3,), displacement=True),
    )
    space = ActionSpace.fit(chunks.state, chunks.action, chunks.mask, parts=parts)
    baselines = Baselines(chunks, [0, 1, 2, 3], space)
    assert baselines.still_rules == ("state", "last", "zero", "zero")
    still = baselines.predict(chunks)["hold_still"][:, 0]
    np.testing.assert_array_equal(still[:, 2:], 0)
    unsaid = dataclasses.replace(space, displacements=None)  # of an older giza
    assert Baselines(chunks, [0, 1, 2, 3], unsaid).still_rules == RULES


def test_no_turn_is_no_turn_however_it_is_written() -> None:
    """A rotation's displacement as a quaternion or a matrix is not zero where nothing turns."""
    chunks = chunks_of(*recorded())
    unit = np.array([0, 0, 0, 1], np.float32)
    turns = dataclasses.replace(chunks, action=chunks.action * 0.01 + unit, last=chunks.last * 0.01 + unit)
    part = ActionPart("turn", (0, 1, 2, 3), rotation="quaternion_xyzw", displacement=True)
    space = ActionSpace.fit(turns.state, turns.action, turns.mask, parts=(part,))
    still = Baselines(turns, [None] * 4, space).still(turns)
    np.testing.assert_allclose(still, np.tile(unit, (len(still), 1)), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3, 1e4])
def test_a_dimension_that_never_moves_keeps_its_last_action(value: float) -> None:
    """Also with the rounding of float32, and where the state happens to be the same."""
    action = np.float32(value) * np.ones((50, 1), np.float32) * (1 + 6e-8 * np.arange(50)[:, None] / 50)
    state = np.full((50, 1), value)
    assert still_rules(state, np.zeros((50, 1)), action, [0]) == ("last",)


def test_rules_in_words() -> None:
    assert describe_still(("state",) * 7) == "the state in 7 dimensions"
    assert describe_still(("zero", "last", "zero")) == "zero in 2 dimensions, the last action in 1"
    assert describe_still(("last",)) == "the last action in 1 dimension"
