"""Camera motion: known homographies are recovered although something else moves, and the warp undoes them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from corpora.video.camera import median_motion, meet_halfway, motion_at_centre, warp_image
from tests.builders.cameras import measure_camera_motion
from tests.builders.videos import textured


def random_motion(rng: np.random.Generator) -> np.ndarray:
    """A homography in normalised coordinates: turning head, a little closer, a little tilted."""
    angle, scale = np.radians(rng.uniform(-8, 8)), rng.uniform(0.93, 1.07)
    shift, tilt = rng.uniform(-0.12, 0.12, 2), rng.uniform(-0.05, 0.05, 2)
    return np.array(
        [
            [scale * np.cos(angle), -scale * np.sin(angle), shift[0]],
            [scale * np.sin(angle), scale * np.cos(angle), shift[1]],
            [tilt[0], tilt[1], 1.0],
        ]
    )


def pixels_of(size: int) -> np.ndarray:
    """[3, 3]: normalised coordinates to pixel positions (centres at whole numbers)."""
    return np.array([[size / 2, 0, (size - 1) / 2], [0, size / 2, (size - 1) / 2], [0, 0, 1]])


def seen_by_moving_camera(world: np.ndarray, size: int, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two images of `world` (3 size x 3 size): its middle, and that as seen after `h`."""
    place = pixels_of(size) @ h @ np.linalg.inv(pixels_of(size)) @ np.array([[1, 0, -size], [0, 1, -size], [0, 0, 1.0]])
    first = world[size : 2 * size, size : 2 * size].copy()
    return first, cv2.warpPerspective(world, place, (size, size), flags=cv2.INTER_LINEAR)


def error_px(h: np.ndarray, measured: np.ndarray, size: int = 128) -> np.ndarray:
    """Distance in pixels of a `size` image between where `h` and `measured` send a grid of points."""
    grid = np.stack([*np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9)), np.ones((9, 9))]).reshape(3, -1)
    one, other = h @ grid, measured @ grid
    return np.linalg.norm(one[:2] / one[2] - other[:2] / other[2], axis=0) * size / 2


@pytest.mark.parametrize("size", [128, 192, 240])
@pytest.mark.parametrize("seed", range(6))
def test_known_motion_is_recovered_behind_a_moving_foreground(size, seed):
    rng = np.random.default_rng(seed)
    h = random_motion(rng)
    first, second = seen_by_moving_camera(textured(3 * size, 3 * size, seed), size, h)
    block, side = textured(size // 3, size // 3, 100 + seed), size // 3
    x, y, step = size // 4, size // 3, size // 16
    first[y : y + side, x : x + side] = block
    second[y - step : y - step + side, x + step : x + step + side] = block
    motion = measure_camera_motion(first, second)
    assert motion.ok
    assert error_px(h, motion.h).mean() < 0.3
    assert 0.6 < motion.inlier_ratio <= 1.0


@pytest.mark.parametrize("seed", range(6))
def test_before_a_plain_table_it_is_the_table_that_is_followed_not_the_arm(seed):
    """Soft grain without a corner, noise as of a codec, and an arm full of corners that goes its own way."""
    size, rng = 128, np.random.default_rng(seed)
    h = np.array([[1, 0, rng.uniform(-0.09, 0.09)], [0, 1, rng.uniform(-0.09, 0.09)], [0, 0, 1.0]])
    grain = cv2.GaussianBlur(rng.normal(size=(3 * size, 3 * size)).astype(np.float32), (0, 0), 5)
    world = np.repeat((128 + 10 * grain / grain.std()).clip(0, 255)[..., None], 3, 2).astype(np.uint8)
    first, second = seen_by_moving_camera(world, size, h)
    arm = textured(30, 60, 100 + seed)
    first[30:90, 20:50], second[36:96, 27:57] = arm, arm
    first, second = (np.clip(x + rng.normal(0, 1, x.shape), 0, 255).astype(np.uint8) for x in (first, second))
    motion = measure_camera_motion(first, second)
    assert motion.ok
    assert error_px(h, motion.h).mean() < 1.0


@pytest.mark.parametrize("size", [128, 192])
def test_a_still_camera_is_exactly_still_although_an_arm_fills_a_third_of_the_image(size):
    rng = np.random.default_rng(0)
    first = textured(size, size, 0)
    second = first.copy()
    arm = textured(size // 3, size, 9)
    first[:, : size // 3] = arm
    second[:, 5 : 5 + size // 3] = arm
    second = np.clip(second + rng.normal(0, 2, second.shape), 0, 255).astype(np.uint8)
    motion = measure_camera_motion(first, second)
    assert motion.ok
    np.testing.assert_array_equal(motion.h, np.eye(3))


def test_nothing_to_follow_is_said_and_not_guessed():
    rng = np.random.default_rng(0)
    flat = np.full((128, 128, 3), 90, np.uint8)
    unrelated = [rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(2)]
    for first, second in [(flat, flat), tuple(unrelated)]:
        motion = measure_camera_motion(first, second)
        assert not motion.ok
        assert motion.inlier_ratio == 0
        np.testing.assert_array_equal(motion.h, np.eye(3))


def test_frames_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="resize them to one size"):
        measure_camera_motion(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 65, 3), np.uint8))


def test_measuring_twice_gives_the_same_bits():
    first, second = seen_by_moving_camera(textured(384, 384, 2), 128, random_motion(np.random.default_rng(2)))
    one, other = (measure_camera_motion(first, second) for _ in range(2))
    np.testing.assert_array_equal(one.h, other.h)


def test_the_warp_shows_the_first_frame_as_the_second_camera_sees_it():
    h = random_motion(np.random.default_rng(5))
    first, second = seen_by_moving_camera(textured(384, 384, 1), 128, h)
    warped, valid = warp_image(first, h)
    assert 0.6 < valid.mean() < 1.0
    assert np.abs(warped[valid].astype(float) - second[valid]).mean() < 3.0
    assert np.abs(first[valid].astype(float) - second[valid]).mean() > 15.0


@pytest.mark.parametrize("seed", range(4))
def test_half_way_two_frames_show_the_same_world(seed):
    h = random_motion(np.random.default_rng(seed))
    first, second = seen_by_moving_camera(textured(384, 384, seed), 128, h)
    (before, one), (after, other) = (warp_image(x, m) for x, m in zip((first, second), meet_halfway(h), strict=True))
    both = one & other
    assert 0.6 < both.mean() < 1.0
    assert np.abs(before.astype(float) - after)[both].mean() < 3.0
    assert np.abs(first.astype(float) - second)[both].mean() > 15.0


@pytest.mark.parametrize("seed", range(4))
def test_the_middle_is_the_same_from_either_side(seed):
    h = random_motion(np.random.default_rng(seed))
    first, second = meet_halfway(h)
    assert error_px(second @ h, first).max() < 1e-3  # one camera for both
    second_again, first_again = meet_halfway(np.linalg.inv(h))
    assert error_px(first, first_again).max() < 0.2  # not quite, where the camera tilts: of 7 px and more
    assert error_px(second, second_again).max() < 0.2


def test_half_a_shift_is_half_the_way_and_no_motion_is_none():
    shift = np.array([[1, 0, 0.2], [0, 1, -0.1], [0, 0, 1.0]])
    first, second = meet_halfway(shift)
    np.testing.assert_allclose(first / first[2, 2], [[1, 0, 0.1], [0, 1, -0.05], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(second / second[2, 2], [[1, 0, -0.1], [0, 1, 0.05], [0, 0, 1]], atol=1e-6)
    for still in meet_halfway(np.eye(3)):
        np.testing.assert_allclose(still, np.eye(3), atol=1e-6)


def test_the_warp_of_a_still_camera_changes_nothing():
    image = textured(64, 48, 0)
    warped, valid = warp_image(image, np.eye(3))
    np.testing.assert_array_equal(warped, image)
    assert valid.all()


def test_coordinates_are_those_of_grid_sample():
    """The reference: torch samples the first frame where the inverse of h says each pixel of the second comes from."""
    h = random_motion(np.random.default_rng(8))
    image = cv2.GaussianBlur(textured(120, 90, 4), (0, 0), 2)
    warped, valid = warp_image(image, h)
    x = (torch.arange(120) + 0.5) / 120 * 2 - 1
    y = (torch.arange(90) + 0.5) / 90 * 2 - 1
    grid = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(90, 120)], -1).double()
    source = grid @ torch.from_numpy(np.linalg.inv(h)).T
    image = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    sampled = torch.nn.functional.grid_sample(image, (source[..., :2] / source[..., 2:])[None], align_corners=False)
    reference = sampled[0].permute(1, 2, 0).numpy()
    inside = cv2.erode(valid.astype(np.uint8), np.ones((3, 3))) == 1
    assert np.abs(reference[inside] - warped[inside]).max() <= 2.5  # OpenCV places samples on a grid of 1/32 pixel


def test_numbers_at_the_centre():
    angle = np.radians(5.0)
    aspect = 16 / 9
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 1.1
    stretch = np.diag([aspect, 1.0])
    h = np.eye(3)
    h[:2, :2] = np.linalg.inv(stretch) @ turn @ stretch
    h[:2, 2] = [0.1, -0.2]
    assert motion_at_centre(h, aspect) == pytest.approx((0.1, -0.2, 5.0, 1.1))
    assert median_motion([h, h, np.eye(3)], aspect) == pytest.approx((0.1, 0.2, 5.0, 0.1))
    assert median_motion([], aspect) == (0.0, 0.0, 0.0, 0.0)
