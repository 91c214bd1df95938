"""The mask of a hand and its forearm: an arm is found where it goes, and what has its colour beside it is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from corpora.agent.forearm import hand_shape, with_forearm
from tests.builders.agents import hand_at

SIDE, PALM = 160, 14.0
SKIN, TABLE, SLEEVE = (215, 170, 140), (70, 110, 150), (60, 40, 60)


def scene(bend: float, *, elbow: float | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, landmarks and true arm: it goes down from the wrist, aside by `bend` pixels a pixel, from y = 110 on by `elbow`."""
    marks = hand_at((75.0, 60.0), PALM)
    ys = np.arange(60, SIDE)
    slope = np.where(ys < 110, bend, bend if elbow is None else elbow)
    path = np.column_stack([75 + np.cumsum(slope), ys]).round().astype(np.int32)
    arm = np.zeros((SIDE, SIDE), np.uint8)
    cv2.polylines(arm, [path], False, 1, 12)
    image = np.full((SIDE, SIDE, 3), TABLE, np.uint8)
    image[(arm > 0) | hand_shape(marks, (SIDE, SIDE))] = SKIN
    return image, marks, arm > 0


def seen(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("bend", "elbow"), [(0.0, None), (0.5, None), (-0.6, None), (0.3, -0.5)])
def test_the_arm_is_found_where_it_goes(bend: float, elbow: float | None) -> None:
    image, marks, arm = scene(bend, elbow=elbow)
    found = with_forearm(seen(image), marks)
    assert found[arm].mean() > 0.9
    assert (found & ~arm & ~hand_shape(marks, arm.shape)).mean() < 0.01


def test_its_sleeve_is_part_of_it() -> None:
    image, marks, arm = scene(0.2)
    sleeve = arm.copy()
    sleeve[:100] = False
    image[sleeve] = SLEEVE
    assert with_forearm(seen(image), marks)[sleeve].mean() > 0.9


@pytest.mark.parametrize("left", [40, 76])
def test_a_wall_of_its_colour_is_no_arm(left: int) -> None:
    """Behind a person who pours coffee all of a wooden wall was taken out with the arm."""
    image, marks, arm = scene(0.0)
    wall = np.zeros((SIDE, SIDE), bool)
    wall[110:, left:] = True
    image[wall] = SKIN
    found = with_forearm(seen(image), marks)
    assert found[:106][arm[:106]].mean() > 0.9
    assert found[wall & ~arm].mean() < 0.03


def test_a_hand_without_an_arm_in_the_image_and_one_outside_of_it_are_hands() -> None:
    image, marks, _ = scene(0.0)
    alone = hand_shape(marks, (SIDE, SIDE))
    image[:] = TABLE
    image[alone] = SKIN
    found = with_forearm(seen(image), marks)
    assert found[alone].all() and (found & ~alone).sum() < 0.1 * alone.sum()
    assert not with_forearm(seen(image), marks + 1000).any()
    assert with_forearm(seen(image), (marks - (75, 52)) * 20 + (75, 52)).mean() > 0.5  # it fills the image
