"""Which names mean the same."""

from __future__ import annotations

import pytest

from vla.actions.names import in_state, places


@pytest.mark.parametrize(
    ("wanted", "found", "where"),
    [
        (("x", "y", "gripper"), ("gripper", "x", "y"), (1, 2, 0)),
        (("left_arm.elbow", "left_arm.wrist"), ("wrist", "elbow"), (1, 0)),
        (("observation.images.top", "observation.images.wrist"), ("video.wrist", "top"), (1, 0)),
        (("observation.image",), ("video.image",), (0,)),
        (("left.x", "left.y"), ("right.x", "right.y"), (None, None)),
        (("left.x", "right.x"), ("x",), (None, None)),  # either
        (("x",), ("left.x", "right.x"), (None,)),
        (("x", "left.x"), ("left.x", "x"), (1, 0)),  # a whole name comes first
        (("x", "x"), ("x", "y"), (None, None)),
        (("x",), ("x", "x"), (None,)),
        (("elbow",), ("left_elbow",), (None,)),  # no word of its own
        ((), ("x",), ()),
    ],
)
def test_places(wanted: tuple[str, ...], found: tuple[str, ...], where: tuple[int | None, ...]) -> None:
    assert places(wanted, found) == where


def test_the_last_action_that_a_state_remembers_comes_first() -> None:
    assert in_state(("z", "x"), ("x", "z", "lead.z", "lead.x", "previous.z", "previous.x")) == (4, 5)
    assert in_state(("z", "x"), ("x", "lead.x", "previous.x")) == (None, 0)  # it does not remember all
