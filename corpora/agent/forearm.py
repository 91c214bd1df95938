"""The mask of a hand and its forearm from the hand's landmarks: the hand as they lie, the forearm by colour (GrabCut, Rother et
al. 2004) where it may be, followed from the wrist for as long as it is no wider than an arm: walls, tables and shirts have its
colour, too, but not its two edges."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_FINGERS = ((0, 1, 2, 3, 4), (0, 5, 6, 7, 8), (0, 9, 10, 11, 12), (0, 13, 14, 15, 16), (0, 17, 18, 19, 20))
_PALM = (0, 1, 2, 5, 9, 13, 17)
_FINGER = 0.26
"""Of a finger's width to the palm's, a little more than it is. All lengths below are of the palm's width, too."""
_WRIST, _OPENING, _REACH = 0.75, 0.8, 9.0
"""The wedge that the forearm lies in: its half width at the wrist, how fast that grows (wrists bend), and how long an arm may be
in the image."""
_ROUNDS = 2
_BINS, _SMOOTH = (8, 32, 32), 0.7
"""Of the histograms of lightness and the two colours, and by how many bins they are smoothed."""
_UNSEEN = 0.02
"""A colour that neither the hand nor what lies outside of the wedge has is a sleeve: as likely as this share of the hand's."""
_ARM, _WIDER = 2.3, 0.15
"""An arm is no wider than this (a palm that is seen from its side looks narrow), and how fast that grows away from the hand:
towards a camera that is worn, and in sleeves."""
_BEND = 0.7
"""How many pixels aside it goes in one, at most."""
_HIDDEN, _WIDE = 0.6, 0.8
"""For how long it may be hidden, or be as one with what lies beside it."""


@dataclass(frozen=True)
class _Hand:
    """What the landmarks [21, 2] (x, y) of MediaPipe tell."""

    palm_px: float
    wrist: NDArray[np.float64]
    along: NDArray[np.float64]
    """[2]: direction from the knuckles to the wrist."""

    @staticmethod
    def of(landmarks_px: NDArray[np.floating]) -> _Hand:
        marks = landmarks_px.astype(np.float64)
        away = marks[0] - marks[9]
        length = float(np.linalg.norm(away))
        palm = max(2.0, float(np.linalg.norm(marks[5] - marks[17])), 0.6 * length)
        return _Hand(palm, marks[0], away / max(1e-6, length))


def hand_shape(landmarks_px: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """bool [H, W], `shape`: fingers and palm, and a little about them."""
    palm = _Hand.of(landmarks_px).palm_px
    return np.asarray(cv2.dilate(_bones(landmarks_px, palm, shape), _disc(0.14 * palm)), bool)


def forearm_wedge(landmarks_px: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """bool [H, W], `shape`: where the forearm may lie, from the wrist away from the fingers."""
    hand = _Hand.of(landmarks_px)
    across = np.array([-hand.along[1], hand.along[0]])
    start, end = (hand.wrist + length * hand.palm_px * hand.along for length in (-0.3, _REACH))
    near, far = (half * hand.palm_px * across for half in (_WRIST, _WRIST + _OPENING * _REACH))
    wedge = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(wedge, np.rint([start + near, end + far, end - far, start - near]).astype(np.int32), 1)
    return wedge.astype(bool)


def with_forearm(rgb: NDArray[np.uint8], landmarks_px: NDArray[np.floating]) -> NDArray[np.bool_]:
    """bool [H, W]: the hand and what follows the wrist, in an image uint8 [H, W, 3]."""
    shape = rgb.shape[:2]
    hand = _Hand.of(landmarks_px)
    palm = hand.palm_px
    bones, around = _bones(landmarks_px, palm, shape) > 0, hand_shape(landmarks_px, shape)
    wedge = forearm_wedge(landmarks_px, shape)
    outside = ~(wedge | np.asarray(cv2.dilate(around.astype(np.uint8), _disc(0.3 * palm)), bool))
    if not bones.any() or outside.mean() < 0.02:
        return around  # the hand is beyond the image, or fills it: there is no background to tell the arm from
    skin, scene = (_likeness(rgb, where) for where in (bones, outside))
    own = skin + _UNSEEN * skin[bones].mean() > scene
    marks = np.full(shape, cv2.GC_BGD, np.uint8)
    marks[wedge] = np.where(own[wedge], cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    marks[around] = cv2.GC_PR_FGD
    marks[bones] = cv2.GC_FGD
    top, left, bottom, right = _box(marks != cv2.GC_BGD, round(2 * palm))
    part = np.ascontiguousarray(marks[top:bottom, left:right])
    cv2.setRNGSeed(0)  # it seeds its mixtures of colours by chance
    colours = np.zeros((1, 65)), np.zeros((1, 65))
    cut = np.ascontiguousarray(rgb[top:bottom, left:right])
    cv2.grabCut(cut, part, (0, 0, 1, 1), *colours, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = np.zeros(shape, np.uint8)
    found[top:bottom, left:right] = (part == cv2.GC_FGD) | (part == cv2.GC_PR_FGD)
    found = np.asarray(cv2.morphologyEx(found, cv2.MORPH_OPEN, _disc(0.08 * palm)), np.uint8)
    whole = (around | _limb(found > 0, hand)).astype(np.uint8)
    return np.asarray(cv2.morphologyEx(whole, cv2.MORPH_CLOSE, _disc(0.2 * palm)), bool)


def _bones(landmarks_px: NDArray[np.floating], palm: float, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    bones = np.zeros(shape, np.uint8)
    points = np.rint(landmarks_px).astype(np.int32)
    for finger in _FINGERS:
        cv2.polylines(bones, [points[list(finger)]], False, 1, max(1, round(_FINGER * palm)))
    cv2.fillConvexPoly(bones, cv2.convexHull(points[list(_PALM)]), 1)
    return bones


def _likeness(rgb: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[H, W]: how frequent each pixel's colour is among the pixels `where`."""
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], where.astype(np.uint8), _BINS, [0, 256] * 3)
    smooth = np.stack([cv2.GaussianBlur(level, (0, 0), _SMOOTH) for level in counts])
    light, red, yellow = (lab[..., channel].astype(np.int64) * bins // 256 for channel, bins in enumerate(_BINS))
    return np.asarray(smooth[light, red, yellow] / max(1e-9, float(smooth.sum())), np.float32)


def _limb(found: NDArray[np.bool_], hand: _Hand) -> NDArray[np.bool_]:
    """Of what is `found` [H, W] what is an arm: followed from the wrist on, section by section, as far as it has two edges."""
    palm, (height, width) = hand.palm_px, found.shape
    half, behind = round(3 * palm), round(palm)
    way = _way(found, hand)
    trail = [hand.wrist + step * way for step in range(-behind, 1)]
    sections: list[NDArray[np.float64]] = []
    doubted: list[NDArray[np.float64]] = []
    hidden = 0
    for step in range(round(_REACH * palm)):
        centre, across, aside = trail[-1], np.array([-way[1], way[0]]), 0.0
        places = np.rint(centre + np.arange(-half, half + 1)[:, None] * across).astype(int)
        inside = ((places >= 0) & (places < (width, height))).all(1)
        if not inside.any():
            break
        line = np.zeros(len(places), bool)
        line[inside] = found[places[inside, 1], places[inside, 0]]
        if (run := _run(line, half, round(0.5 * palm))) is None:
            hidden += 1
        else:
            hidden, most = 0, (_ARM * palm + _WIDER * step) / 2
            ends = np.clip(run, -most, most)
            section = centre + ends[:, None] * across
            if run[1] - run[0] > 2 * most:
                doubted.append(section)
            else:
                sections += [*doubted, section]
                doubted, aside = [], float(run.mean())
        if hidden > _HIDDEN * palm or len(doubted) > _WIDE * palm:
            break
        trail.append(centre + way + float(np.clip(aside, -_BEND, _BEND)) * across)
        way = trail[-1] - trail[-1 - behind]
        way /= np.linalg.norm(way)
    arm = np.zeros(found.shape, np.uint8)
    for section in sections:
        (x, y), end = np.rint(section).astype(int).tolist()
        cv2.line(arm, (x, y), tuple(end), 1, 2)
    return found & (arm > 0)


def _way(found: NDArray[np.bool_], hand: _Hand) -> NDArray[np.float64]:
    """[2]: where the arm goes at the wrist, which bends: to what is found about it, away from the fingers."""
    rows, columns = np.nonzero(found)
    away = np.column_stack([columns, rows]) - hand.wrist
    far = np.linalg.norm(away, axis=1)
    near = (far > 0.5 * hand.palm_px) & (far < 1.5 * hand.palm_px) & (away @ hand.along > 0.3 * far)
    way = away[near].mean(0) if near.any() else hand.along
    return np.asarray(way / max(1e-6, float(np.linalg.norm(way))), np.float64)


def _run(line: NDArray[np.bool_], middle: int, near: int) -> NDArray[np.int64] | None:
    """First and last, counted from the middle, of the pixels in a row that are set there, or within `near` of it."""
    known = np.flatnonzero(line)
    if not len(known) or abs(start := known[np.abs(known - middle).argmin()] - middle) > near:
        return None
    gaps = np.flatnonzero(~line) - middle
    before, after = gaps[gaps < start], gaps[gaps > start]
    first = before[-1] + 1 if len(before) else -middle
    last = after[0] - 1 if len(after) else len(line) - 1 - middle
    return np.array([first, last])


def _disc(radius: float) -> NDArray[np.uint8]:
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _box(mask: NDArray[np.bool_], margin: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of what is set, `margin` pixels wider, within the image."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return (
        max(0, int(rows[0]) - margin),
        max(0, int(columns[0]) - margin),
        min(height, int(rows[-1]) + 1 + margin),
        min(width, int(columns[-1]) + 1 + margin),
    )
