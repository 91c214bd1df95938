"""The camera's motion of a pair: stored where ingest measured it, the identity where the camera stands, else measured."""

from __future__ import annotations

import numpy as np
import pytest

from lapa.pairs.pair import camera_of_pairs, is_still
from tests.builders.cameras import measure_camera_motion
from tests.builders.videos import textured

SIZE, GAP = 96, 3


@pytest.fixture(scope="module")
def panning() -> dict[int, np.ndarray]:
    """Ten frames of a camera that pans by one pixel a frame, then by two."""
    world = textured(2 * SIZE, SIZE, 0)
    left = np.cumsum([0, 1, 1, 1, 1, 2, 2, 2, 2, 2])
    return {index: np.ascontiguousarray(world[:, x : x + SIZE]) for index, x in enumerate(left)}


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    """What ingest kept of them: made-up motions, so that they differ from measured ones."""
    first = np.arange(10 - GAP)
    h = np.tile(np.eye(3, dtype=np.float32), (len(first), 1, 1))
    h[:, 0, 2] = 0.1 + 0.01 * first
    return {"first": first, "second": first + GAP, "h": h, "inlier_ratio": np.full(len(first), 0.75, np.float32)}


def test_a_still_camera_is_told_from_a_moving_one() -> None:
    still = {"h": np.tile(np.eye(3), (10, 1, 1)), "inlier_ratio": np.ones(10)}
    moving = {"h": still["h"].copy(), "inlier_ratio": np.ones(10)}
    moving["h"][:4, 0, 2] = 0.1
    assert is_still(still)
    assert not is_still(moving)
    assert not is_still({"h": still["h"], "inlier_ratio": np.zeros(10)})


def test_what_ingest_measured_is_not_measured_again(panning, stored) -> None:
    h, ratio = camera_of_pairs(stored, panning, stored["first"], stored["second"])
    np.testing.assert_array_equal(h, stored["h"])
    np.testing.assert_array_equal(ratio, stored["inlier_ratio"])


def test_another_gap_is_measured_as_the_pair_alone_would_be(panning, stored) -> None:
    first, second = np.array([0, 1, 5, 2]), np.array([5, 6, 9, 5])
    h, ratio = camera_of_pairs(stored, panning, first, second)
    for k, (i, j) in enumerate(zip(first[:3], second[:3], strict=True)):
        alone = measure_camera_motion(panning[i], panning[j])
        np.testing.assert_allclose(h[k], alone.h, rtol=1e-6)
        assert ratio[k] == pytest.approx(alone.inlier_ratio)
    assert h[0, 0, 2] == pytest.approx(-2 * 6 / SIZE, abs=0.01)  # six pixels of an image that is 2 wide
    np.testing.assert_array_equal(h[3], stored["h"][2])  # among them, one that ingest knows


def test_a_camera_that_stands_is_not_measured(stored) -> None:
    still = stored | {"h": np.tile(np.eye(3), (10 - GAP, 1, 1))}
    h, ratio = camera_of_pairs(still, {}, np.array([0, 1]), np.array([4, 5]))  # no frame is looked at
    np.testing.assert_array_equal(h, np.tile(np.eye(3), (2, 1, 1)))
    np.testing.assert_allclose(ratio, 0.75)
