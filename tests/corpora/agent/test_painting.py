"""Painting: what is not the agent's stays as it is, what lies behind it is what was seen there, and the tool is where the hand
was."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from corpora.agent.background import Background
from corpora.agent.cutouts import Bank, Robot, choose, evened, thickness
from corpora.agent.painting import AGENTS, Painted, Painter, Shown, open_agent
from corpora.agent.settings import PaintSettings
from corpora.agent.track import Track, known_track
from corpora.clips.corpus import decode_clip
from corpora.store.unread import expect_read
from corpora.video.encode import encode_clip
from tests.builders.agents import FRAMES, SIZE, Acted, acted

NO_MARGIN = PaintSettings(agent="none", margin=0.0)


def track_of(clip: Acted) -> Track:
    return known_track(clip.mask, clip.point)


def shown(text: str = "") -> Shown:
    return Shown(np.arange(FRAMES) / 20, np.linspace(0, 1, FRAMES), text)


def bank(layers: tuple[float, ...] = (0.5, 1.0), text: str = "push") -> Bank:
    """A cut-out at every second pixel and at each depth: one white pixel (the tool's point) in a grey square and an arm. The
    camera looks along z: position = (x z, y z, z) / 100. A demonstration of `text` is at the first depth."""
    points = [(x, y) for x in range(4, SIZE - 4, 2) for y in range(4, SIZE - 4, 2)]
    images, packed, places, depths = [], [], [], []
    for depth in layers:
        for x, y in points:
            image, mask = np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), bool)
            mask[y - 3 : y + 4, x - 3 : x + 4] = True
            mask[y:, x] = True
            image[mask] = 90
            image[y, x] = 255
            images.append(image)
            packed.append(np.packbits(mask).tobytes())
            places.append((x, y))
            depths.append(depth)
    point, depth = np.array(places, np.float64), np.array(depths)
    position = np.column_stack([point * depth[:, None], depth]) / 100
    names = tuple(f"robot:{number}" for number in range(len(images)))
    demonstrations = {text: [(np.array([0.0, 1.0]), np.array([layers[0], layers[0]]))]}
    rows = np.arange(len(images))
    return Bank(
        np.stack(images), rows, tuple(packed), point, depth, position, np.zeros(len(images)), names, demonstrations
    )


def painted(clip: Acted, settings: PaintSettings = NO_MARGIN, track: Track | None = None, **agent) -> Painted:
    opened = Robot(settings, SIZE, **agent) if agent else open_agent(settings, SIZE)
    return Painter(opened, settings).paint(clip.frames, track or track_of(clip), shown("push"))


@pytest.mark.parametrize("agent", ["none", "dot", "robot"])
def test_what_is_not_the_agents_stays_as_it_is_to_the_bit(agent: str) -> None:
    clip = acted("0" * 16, 3, absent=range(4))
    found = painted(clip, PaintSettings(agent=agent), **({"bank": bank()} if agent == "robot" else {}))
    touched = found.hidden | found.mask
    assert (found.frames == clip.frames)[~touched].all()
    assert not (clip.mask & ~touched).any() and touched.mean() < 0.35
    assert (found.frames[:4] == clip.frames[:4]).all()  # it is not there yet
    assert (found.frames != clip.frames)[clip.mask].mean() > 0.9


def test_behind_the_agent_is_what_was_seen_there_before() -> None:
    clip = acted("0" * 16, 1, absent=range(4))
    found = painted(clip)
    assert found.before.sum() == found.hidden.sum() == clip.mask.sum()
    assert (found.frames == clip.background).all()
    there = acted("0" * 16, 1)  # from the first frame on: what it stands before is a guess until it has gone
    found = painted(there)
    assert not found.before[0].any() and 0.5 < found.before.sum() / found.hidden.sum() < 1
    assert (found.frames == there.background)[found.before].all()


def test_the_camera_may_move_meanwhile() -> None:
    clip = acted("0" * 16, 2, slides=0.75)
    found, guess = painted(clip), painted(clip, dataclasses.replace(NO_MARGIN, background="inpaint"))
    off = np.abs(found.frames.astype(float) - clip.background)[found.before].mean()
    blind = np.abs(guess.frames.astype(float) - clip.background)[found.before].mean()
    assert found.before.sum() > 0.5 * found.hidden.sum()
    assert off < 5 < 15 < blind


def test_before_a_plain_wall_is_the_wall_and_no_colour_that_the_codec_spread() -> None:
    size, wall = 96, 150
    clip, still = [], np.full((size, size, 3), wall, np.uint8)
    mask = np.zeros((FRAMES, size, size), bool)
    for frame in range(FRAMES):
        mask[frame, 40:55, 5 + 3 * frame : 20 + 3 * frame] = True
        clip.append(np.where(mask[frame][..., None], np.uint8([200, 20, 20]), still))
    stored = decode_clip(encode_clip(clip, np.arange(FRAMES) / 20, crf=16, gop=16))
    settings = PaintSettings(agent="none")
    track = known_track(mask, np.zeros((FRAMES, 2)))
    found = Painter(open_agent(settings, size), settings).paint(stored, track)
    off = np.abs(found.frames.astype(int) - wall).max(-1)
    assert found.before.sum() > 0.5 * found.hidden.sum()
    assert off[found.before].mean() < 1 and (off > 10).mean() < 0.001 < (np.abs(stored.astype(int) - wall) > 10).mean()


def test_a_cut_and_another_video_are_not_remembered() -> None:
    first, second = acted("0" * 16, 1, absent=range(FRAMES)), acted("1" * 16, 5)
    painter = Painter(open_agent(NO_MARGIN, SIZE), NO_MARGIN)
    painter.paint(first.frames, track_of(first))
    assert not painter.paint(second.frames[:1], known_track(second.mask[:1], second.point[:1])).before.any()
    same = acted("0" * 16, 1)
    painter.begin()
    assert not painter.paint(same.frames[:1], known_track(same.mask[:1], same.point[:1])).before.any()


def test_an_agent_that_is_lost_is_not_taken_for_the_background() -> None:
    clip = acted("0" * 16, 1)
    still = clip.frames.copy()
    still[:] = clip.frames[0]
    mask = np.repeat(clip.mask[:1], FRAMES, 0)
    mask[:6] = False  # it is there, and not found
    background = Background()
    filled = [background.fill(image, hidden) for image, hidden in zip(still, mask, strict=True)]
    assert not filled[6].before.any()
    assert np.abs(filled[6].image.astype(int) - still[0])[mask[6]].mean() > 30


@pytest.mark.parametrize("agent", ["none", "dot"])
def test_frame_after_frame_is_as_the_whole_clip(agent: str) -> None:
    """As a policy sees it that acts: nothing of a frame comes from later ones."""
    clip, settings = acted("0" * 16, 4, slides=0.5, absent=range(8, 12)), PaintSettings(agent=agent)
    whole = painted(clip, settings)
    painter = Painter(open_agent(settings, SIZE), settings)
    for frame in range(FRAMES):
        one = painter.paint(clip.frames[[frame]], known_track(clip.mask[[frame]], clip.point[[frame]]))
        assert (one.frames[0] == whole.frames[frame]).all()


def test_the_dot_is_at_the_point() -> None:
    clip = acted("0" * 16, 4)
    found = painted(clip, PaintSettings(agent="dot"))
    for frame, point in zip(found.frames, clip.point, strict=True):
        rows, columns = np.nonzero((frame == (255, 0, 0)).all(2))
        assert np.linalg.norm([columns.mean() - point[0], rows.mean() - point[1]]) < 0.75


def test_the_tool_lands_within_a_pixel_of_the_hand() -> None:
    clip = acted("0" * 16, 4)
    found = painted(clip, PaintSettings(), bank=bank())
    for frame, point, stamp in zip(found.frames, clip.point, found.stamps, strict=True):
        rows, columns = np.nonzero((frame == 255).all(2))
        assert len(rows) == 1 and np.hypot(columns[0] - point[0], rows[0] - point[1]) < 1
        assert stamp is not None and stamp.cutout.startswith("robot:") and stamp.shift_px < 2
        assert frame[SIZE - 1, columns[0]].tolist() == [90] * 3  # its arm reaches the edge


def test_cutouts_are_as_deep_as_the_demonstration_was_and_change_evenly_without_one() -> None:
    clip, made = acted("0" * 16, 4), bank()
    near = [stamp.depth_m for stamp in Robot(PaintSettings(), SIZE, made).stamps(track_of(clip), shown("push"))]
    assert set(near) == {0.5}
    unknown = [stamp.depth_m for stamp in Robot(PaintSettings(), SIZE, made).stamps(track_of(clip), shown("pull"))]
    assert np.ptp(unknown) < 1e-6
    rising = np.linspace(0.5, 1.0, FRAMES)
    chosen = choose(bank((0.5, 0.6, 0.7, 0.8, 0.9, 1.0)), clip.point, np.arange(FRAMES) / 20, rising)
    depth = bank((0.5, 0.6, 0.7, 0.8, 0.9, 1.0)).depth_m[chosen]
    assert (np.diff(depth) >= 0).all() and depth[0] < 0.65 and depth[-1] > 0.85


def test_the_position_lies_on_the_ray_through_the_hand() -> None:
    clip = acted("0" * 16, 4)
    for stamp, (x, y) in zip(painted(clip, PaintSettings(), bank=bank()).stamps, clip.point, strict=True):
        assert stamp.position_m == pytest.approx((x * 0.5 / 100, y * 0.5 / 100, 0.5 / 100), abs=1e-6)
    made = bank()
    turned = made.position_m + np.random.default_rng(0).normal(0, 0.1, made.position_m.shape)  # no such camera
    loose = dataclasses.replace(made, position_m=turned)
    stamp = painted(clip, PaintSettings(), bank=loose).stamps[0]
    assert loose.ray() is None and stamp.position_m in [tuple(each) for each in turned]


def test_the_tools_motion_has_no_jumps_from_one_cutout_to_the_next() -> None:
    """Cut-outs lie at whatever depths the robot had there: what they show of 0.2 s of motion is how they are off."""
    rng = np.random.default_rng(0)
    t_s = np.sort(rng.uniform(0, 3, 60)) + np.arange(60) * 0.02  # no even clock
    true = 0.8 + 0.15 * np.sin(2.5 * t_s)
    cut = true + rng.normal(0, 0.02, len(true))

    def off(depth: np.ndarray) -> float:
        return float(np.std(np.diff(depth - true)))

    unknown, wanted = np.full(len(true), math.nan), true + 0.05  # a demonstration that went the same way, deeper
    assert off(evened(t_s, cut, unknown)) < off(cut) / 3 and off(evened(t_s, cut, wanted)) < off(cut) / 3
    assert np.abs(evened(t_s, true, unknown) - true).max() < 0.01, "what a hand does is kept"
    fast = 0.8 + 0.05 * np.sign(np.sin(6 * t_s))
    assert np.allclose(evened(t_s, fast + 0.1, fast), fast + 0.1), "what the demonstration did is kept"
    assert evened(t_s[:2], cut[:2], unknown[:2]) is not None and np.isnan(evened(t_s, unknown, wanted)).all()


def test_without_depths_sizes_go_for_them() -> None:
    clip, made = acted("0" * 16, 4), bank()
    unknown = np.full(len(made.depth_m), math.nan)
    sizes = np.where(made.depth_m == 0.5, 3.0, 2.0)
    blind = dataclasses.replace(made, depth_m=unknown, size=sizes, demonstrations={})
    chosen = choose(blind, clip.point, np.arange(FRAMES) / 20, np.full(FRAMES, math.nan))
    assert len(set(sizes[chosen])) == 1
    assert all(math.isnan(stamp.depth_m) for stamp in painted(clip, PaintSettings(), bank=blind).stamps)


def test_a_hand_that_is_smaller_than_the_tool_gets_a_smaller_tool() -> None:
    """E21: the robot's arm was as large over a person filmed from afar as in its own camera."""
    clip, made = acted("0" * 16, 4), bank()
    tool = thickness(made.mask(0), made.point_px[0])
    hand = thickness(clip.mask[0], clip.point[0])
    assert (tool, hand) == (pytest.approx(4, abs=0.3), pytest.approx(6.5, abs=0.7))
    plain = painted(clip, PaintSettings(), bank=made)
    found = painted(clip, PaintSettings(scale="hand"), bank=made)
    for one, other, point in zip(plain.stamps, found.stamps, clip.point, strict=True):
        assert one is not None and other is not None and one.scale == 1
        assert other.scale == pytest.approx(hand / tool, rel=0.1) and other.depth_m == pytest.approx(0.5 / other.scale)
        assert thickness(one.mask, point) < thickness(other.mask, point) == pytest.approx(hand, abs=1.5)
        rows, columns = np.nonzero((other.image > 150).all(2) & other.mask)  # the tool's point is where the hand's is
        assert np.hypot(columns.mean() - point[0], rows.mean() - point[1]) < 1
        assert other.mask[SIZE - 1].any()  # and its arm still reaches the edge
    small = dataclasses.replace(clip, mask=np.zeros_like(clip.mask))
    for mask, (x, y) in zip(small.mask, np.rint(clip.point).astype(int), strict=True):
        mask[y - 1 : y + 2, x - 1 : x + 2] = True
    (scale,) = {stamp.scale for stamp in painted(small, PaintSettings(scale="hand"), bank=made).stamps if stamp}
    assert scale == pytest.approx(0.5, abs=0.1)


def test_the_arm_of_a_smaller_cut_out_goes_on_as_an_arm() -> None:
    """Its edge pixels were drawn out to all of a corner: blocks of metal stood beside the G1's arm."""
    made = bank((1.0,))
    side = 2 * SIZE // 3
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.rectangle(mask, (16, 16), (24, 24), 1, -1)
    cv2.line(mask, (20, 20), (SIZE, SIZE - 4), 1, 5)  # it reaches both edges of a corner
    count = len(made.frame)
    corner = dataclasses.replace(
        made, packed=(np.packbits(mask).tobytes(),) * count, point_px=np.tile((20.0, 20.0), (count, 1))
    )
    clip = dataclasses.replace(acted("0" * 16, 4), mask=np.zeros((FRAMES, SIZE, SIZE), bool))
    clip.point[:] = 8, 10
    clip.mask[:, 9:12, 7:10] = True
    stamp = painted(clip, PaintSettings(scale="hand"), bank=corner).stamps[0]
    assert stamp is not None and stamp.scale < 0.6
    grown = stamp.mask.copy()
    grown[:side, :side] = False
    assert grown[-1].any() or grown[:, -1].any(), "it reaches the image's edge"
    assert grown.sum() < 4 * (SIZE - side) and grown.any(0).sum() > 0.9 * (SIZE - side)


def test_where_the_point_is_not_known_nobody_is_put_in() -> None:
    clip = acted("0" * 16, 1)
    point = clip.point.copy()
    point[5:8] = np.nan
    found = painted(clip, PaintSettings(), known_track(clip.mask, point), bank=bank())
    assert [number for number, stamp in enumerate(found.stamps) if stamp is None] == [5, 6, 7]
    assert (found.frames != clip.frames)[5:8][clip.mask[5:8]].any() and not found.mask[5:8].any()


def test_what_cannot_be_painted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--agent 'robots': must be one of dot, none, robot"):
        open_agent(PaintSettings(agent="robots"), SIZE)
    with pytest.raises(ValueError, match=r"--robot CORPUS --robot-tracks TRACKS"):
        open_agent(PaintSettings(), SIZE)
    for wrong, said in (
        (
            {"agent": "none", "scale": "hand"},
            r"^--scale hand: --agent none does not read it.*leave it out, or choose --agent robot$",
        ),
        ({"agent": "dot", "scale": "hand"}, r"^--scale hand: --agent dot does not read it"),
        ({"agent": "dot", "robot": Path("x")}, r"^--robot x: --agent dot does not read it"),
        ({"agent": "none", "dot_radius": 0.1}, r"^--dot-radius 0.1: --agent none .* choose --agent dot$"),
        ({"agent": "robot", "dot_radius": 0.1}, r"^--dot-radius 0.1: --agent robot .* choose --agent dot$"),
    ):
        with pytest.raises(ValueError, match=said):
            expect_read(PaintSettings(**wrong), "agent", AGENTS)
    clip = acted("0" * 16, 1)
    with pytest.raises(ValueError, match=r"a track of 24 frames of 24 x 24 pixels for 24 frames of 48 x 48 pixels"):
        painted(clip, track=track_of(clip).resized(24))
    for wrong in ({"margin": 0.5}, {"dot_radius": 0.0}, {"background": "grey"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PaintSettings(**wrong)
