"""The mask of a hand and its forearm from the hand's landmarks: the hand as the landmarks have it, the forearm by colour
(GrabCut, Rother et al. 2004) within the corridor that it must lie in."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_FINGERS = ((0, 1, 2, 3, 4), (0, 5, 6, 7, 8), (0, 9, 10, 11, 12), (0, 13, 14, 15, 16), (0, 17, 18, 19, 20))
_PALM = (0, 1, 2, 5, 9, 13, 17)
_FINGER = 0.26
"""Of a finger's width to the palm's, a little more than it is."""
_CORRIDOR = (0.75, 1.0)
"""Half widths of the corridor of the forearm, of the palm's width: at the wrist and at its end."""
_REACH = 9.0
"""How many palms long an arm may be in the image."""
_ROUNDS = 3


def hand_mask(rgb: NDArray[np.uint8], landmarks_px: NDArray[np.floating], *, forearm: bool) -> NDArray[np.bool_]:
    """bool [H, W]: of the hand whose landmarks [21, 2] (x, y) are those of MediaPipe, in an image uint8 [H, W, 3]; with
    `forearm` also what follows the wrist and has its colour."""
    height, width = rgb.shape[:2]
    palm = max(2.0, float(np.linalg.norm(landmarks_px[5] - landmarks_px[17])), _length(landmarks_px) * 0.6)
    hand = np.zeros((height, width), np.uint8)
    points = np.rint(landmarks_px).astype(np.int32)
    for finger in _FINGERS:
        cv2.polylines(hand, [points[list(finger)]], False, 1, max(1, round(_FINGER * palm)))
    cv2.fillConvexPoly(hand, cv2.convexHull(points[list(_PALM)]), 1)
    around = cv2.dilate(hand, _disc(0.14 * palm))
    if not forearm:
        return around.astype(bool)
    corridor = _corridor(landmarks_px, palm, (height, width))
    marks = np.full((height, width), cv2.GC_BGD, np.uint8)
    marks[cv2.dilate(corridor, _disc(0.5 * palm)) > 0] = cv2.GC_PR_BGD
    marks[corridor > 0] = cv2.GC_PR_FGD
    marks[around > 0] = cv2.GC_PR_FGD
    marks[hand > 0] = cv2.GC_FGD
    top, left, bottom, right = _box(marks != cv2.GC_BGD, round(palm))
    part = np.ascontiguousarray(marks[top:bottom, left:right])
    cut = rgb[top:bottom, left:right]
    if not (part == cv2.GC_BGD).any() and not (part == cv2.GC_PR_BGD).any():
        return around.astype(bool)  # the hand fills the image: there is no background to tell it from
    cv2.setRNGSeed(0)  # it seeds its mixtures of colours by chance
    colours = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(cut), part, (0, 0, 1, 1), *colours, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = np.zeros((height, width), np.uint8)
    found[top:bottom, left:right] = (part == cv2.GC_FGD) | (part == cv2.GC_PR_FGD)
    found = np.asarray(cv2.morphologyEx(found, cv2.MORPH_OPEN, _disc(0.08 * palm)), np.uint8)
    found |= np.asarray(around, np.uint8)
    _, labels = cv2.connectedComponents(found)
    joined = np.isin(labels, np.unique(labels[hand > 0]))
    closed = cv2.morphologyEx(joined.astype(np.uint8), cv2.MORPH_CLOSE, _disc(0.2 * palm))
    return closed.astype(bool)


def _length(landmarks_px: NDArray[np.floating]) -> float:
    """From the wrist to the middle finger's knuckle."""
    return float(np.linalg.norm(landmarks_px[9] - landmarks_px[0]))


def _corridor(landmarks_px: NDArray[np.floating], palm: float, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Where the forearm may lie: from the wrist away from the fingers, wider with the distance."""
    wrist, knuckle = landmarks_px[0], landmarks_px[9]
    along = (wrist - knuckle) / max(1e-6, float(np.linalg.norm(wrist - knuckle)))
    across = np.array([-along[1], along[0]])
    start, end = wrist - 0.3 * palm * along, wrist + _REACH * palm * along
    near, far = _CORRIDOR[0] * palm, (_CORRIDOR[1] + 0.25 * _REACH) * palm
    corners = np.array([start + near * across, end + far * across, end - far * across, start - near * across])
    corridor = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(corridor, np.rint(corners).astype(np.int32), 1)
    return corridor


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
