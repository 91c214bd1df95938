"""Camera motion between two frames: tracked corners (dense flow where they are few), a robust homography, and the warps
that undo it.

Coordinates are normalised to [-1, 1] over width and height (x right, y down, pixel centres as in torch's grid_sample
with align_corners=False), so a homography measured at one resolution holds at every other. `h` maps a point of the
first frame to where the static world appears in the second: x2 ~ h @ [x1, y1, 1].
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_TRACKS = 12
"""Fewer surviving tracks than this say nothing about the camera."""
MIN_INLIER_RATIO = 0.3
"""Below this share of tracks agreeing with one homography the motion is called unknown."""
MAX_CORNERS = 200
COVERED_CELLS = 8
"""A motion is taken from tracks alone where those that follow it lie in so many cells of a 4 x 4 grid over the image, which
is half of them; else dense flow is asked as well, for before a plain wall or table most corners are those of the arm."""
AS_MUCH = 0.5
"""Tracks are then still believed where this share of what follows the flow's own motion follows theirs."""
FLOW_SPACING = 1 / 20
"""Dense flow is read on a grid this wide, as a share of the short side."""
FLOW_TOLERANCE = 3.0
"""Flow that is off by less than this (pixels at a short side of 240) follows a motion; flow is smoother than tracks, and less
exact."""
MIN_TEXTURE = 1.0
"""Deviation of luma (0-255) about a point below which nothing there can be followed."""
STILL_PX = 0.35
"""Tracks that move less than this (pixels at a short side of 240) are consistent with a camera that stands still."""
STILL_ADVANTAGE = 1.5
"""A moving hypothesis must explain this many times the tracks of a still camera: a still camera fits by no accident,
while an arm that fills much of the image offers many tracks that agree with one another."""
HOMOGRAPHY_ADVANTAGE = 0.8
"""A homography is preferred to a similarity (4 parameters) only where it leaves less than this share of the residual:
with parameters to spare it follows noise, and goes astray where the image has no tracks."""
MAX_CORNER_SHIFT = 1.5
"""Corners that move further than this (normalised, so three quarters of the image) make a motion implausible."""

Points = NDArray[np.float32]
"""[N, 2], pixels of a frame."""

_LK: dict[str, Any] = {
    "winSize": (9, 9),
    "maxLevel": 3,
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.03),
}

_CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
"""Of the image, normalised."""

_ANYWHERE: Any = None
"""No guess where the corners have gone; OpenCV's type hints do not know that it may be left out."""


@dataclass(frozen=True)
class CameraMotion:
    """What the camera did between two frames."""

    h: NDArray[np.float64]
    """[3, 3], normalised coordinates, first to second; the identity where `ok` is False."""
    inlier_ratio: float
    """Share of the tracks that follow `h`; 0 where `ok` is False."""
    tracks: int
    """Corners followed from the first frame to the second and back."""
    ok: bool
    """False where too few corners could be followed or no motion explains enough of them."""


class TrackedFrame:
    """A frame made ready to be compared with several others: its corners are found once, when first asked for."""

    def __init__(self, rgb: NDArray[np.uint8], hidden: NDArray[np.bool_] | None = None) -> None:
        """`rgb`: uint8 [H, W, 3], or [H, W] luma. `hidden`, bool [H, W]: where nothing of the still world is seen; nothing there
        is followed to another frame."""
        gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) if rgb.ndim == 3 else rgb
        self.height, self.width = gray.shape
        self.gray = np.ascontiguousarray(gray, np.uint8)
        self.hidden = hidden
        self._corners: NDArray[np.float32] | None = None

    @property
    def corners(self) -> NDArray[np.float32]:
        """float32 [N, 1, 2] pixel positions, spread over the image."""
        if self._corners is None:
            spacing = max(3.0, min(self.height, self.width) / 24)
            open_px = None if self.hidden is None else 255 * (~self.hidden).astype(np.uint8)
            found: Any = cv2.goodFeaturesToTrack(self.gray, MAX_CORNERS, 0.005, spacing, mask=open_px, blockSize=5)
            self._corners = np.zeros((0, 1, 2), np.float32) if found is None else np.asarray(found, np.float32)
        return self._corners


def measure_tracked(first: TrackedFrame, second: TrackedFrame) -> CameraMotion:
    """Motion of the camera from `first` to `second`. Raises ValueError where they are not of one size."""
    if (first.height, first.width) != (second.height, second.width):
        raise ValueError(f"frames of {first.gray.shape} and {second.gray.shape} pixels; resize them to one size first")
    start, end = _follow(first, second)
    unit = min(first.height, first.width) / 240
    tracked = _explain(start, end, max(0.5, 1.5 * unit), first, homography=True)
    if tracked.ok:
        follow = _followers(tracked.h, start, end, max(0.5, 1.5 * unit), first)
        if _cells(start[follow], first) >= COVERED_CELLS:
            return tracked
    grid, there = _flow(first, second)
    dense = _explain(grid, there, FLOW_TOLERANCE * unit, first, homography=False)
    if tracked.ok and dense.ok:  # tracks are more exact, where as much of the image follows them
        by_tracks, by_flow = (
            _followers(motion.h, grid, there, FLOW_TOLERANCE * unit, first) for motion in (tracked, dense)
        )
        if by_tracks.sum() >= AS_MUCH * by_flow.sum():
            return tracked
    return replace(dense if dense.ok else tracked, tracks=tracked.tracks)


def _explain(start: Points, end: Points, tolerance: float, frame: TrackedFrame, *, homography: bool) -> CameraMotion:
    """The motion that takes most points `start` of `frame` to `end`; no motion where it does as well."""
    tracks = len(start)
    unknown = CameraMotion(np.eye(3), 0.0, tracks, False)
    if tracks < MIN_TRACKS:
        return unknown
    unit = min(frame.height, frame.width) / 240
    still = int((np.linalg.norm(end - start, axis=1) < max(0.25, STILL_PX * unit)).sum())
    if still * STILL_ADVANTAGE >= tracks:  # whatever is fitted
        return CameraMotion(np.eye(3), still / tracks, tracks, True)
    h, inliers = _fit(start, end, tolerance, homography=homography)
    if h is None or still * STILL_ADVANTAGE >= inliers:
        if still / tracks < MIN_INLIER_RATIO:
            return unknown
        return CameraMotion(np.eye(3), still / tracks, tracks, True)
    normalised = _normalise(h, frame.width, frame.height)
    if inliers / tracks < MIN_INLIER_RATIO or not _plausible(normalised):
        return unknown
    return CameraMotion(normalised, inliers / tracks, tracks, True)


def meet_halfway(h: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The camera between two: (first to middle, second to middle), [3, 3] each, of the motion `h` from first to second.

    The middle sees the first image's corners half way between where the two cameras see them. First to middle is `h`
    followed by second to middle. Which frame comes first makes next to no difference.
    """
    there = _moved(np.asarray(h, np.float64), _CORNERS).astype(np.float32)
    middle = (_CORNERS + there) / 2
    first, second = (np.asarray(cv2.getPerspectiveTransform(seen, middle), np.float64) for seen in (_CORNERS, there))
    return first, second


def warp_image(image: NDArray[np.uint8], h: NDArray[np.floating]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """`image` (uint8 [H, W, 3]) as a camera that has moved by `h` would see it, and where that is known (bool [H, W])."""
    height, width = image.shape[:2]
    to_pixels = np.linalg.inv(_to_normalised(width, height))
    pixels = to_pixels @ np.asarray(h, np.float64) @ _to_normalised(width, height)
    warped = cv2.warpPerspective(image, pixels, (width, height), flags=cv2.INTER_LINEAR)
    # What lies behind the camera that has moved has a negative depth; it must not be mirrored into view.
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    source = np.linalg.inv(pixels) @ np.stack([columns.ravel(), rows.ravel(), np.ones(width * height)])
    depth = source[2] * np.sign(np.linalg.inv(pixels)[2, 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = source[0] / source[2], source[1] / source[2]
    edge = 0.02  # rounding of a still camera must not mask the border
    inside = (depth > 1e-9) & (x >= -edge) & (x <= width - 1 + edge) & (y >= -edge) & (y <= height - 1 + edge)
    return np.asarray(warped, np.uint8), inside.reshape(height, width)


def motion_at_centre(h: NDArray[np.floating], aspect: float) -> tuple[float, float, float, float]:
    """(dx, dy, rotation in degrees, scale) of the image's centre under `h`.

    dx and dy are in half-widths and half-heights; `aspect` (width / height) makes the rotation one of real angles.
    """
    h = np.asarray(h, np.float64)
    x, y, w = h[:, 2]
    dx, dy = x / w, y / w
    jacobian = (h[:2, :2] - np.outer([dx, dy], h[2, :2])) / w
    square = np.diag([aspect, 1.0]) @ jacobian @ np.diag([1 / aspect, 1.0])
    rotation = math.degrees(math.atan2(square[1, 0] - square[0, 1], square[0, 0] + square[1, 1]))
    scale = math.sqrt(max(0.0, float(np.linalg.det(square))))
    return float(dx), float(dy), rotation, scale


def median_motion(motions: Sequence[NDArray[np.floating]], aspect: float) -> tuple[float, float, float, float]:
    """Medians over pairs of |dx|, |dy|, |rotation in degrees| and |scale - 1|; zeros without a pair."""
    if len(motions) == 0:
        return 0.0, 0.0, 0.0, 0.0
    values = np.array([motion_at_centre(h, aspect) for h in motions])
    values[:, 3] -= 1.0
    dx, dy, rotation, scale = np.median(np.abs(values), axis=0)
    return float(dx), float(dy), float(rotation), float(scale)


def _follow(first: TrackedFrame, second: TrackedFrame) -> tuple[Points, Points]:
    """Corners of `first` and where they went, kept only where the way back leads home."""
    corners = first.corners
    if len(corners) < MIN_TRACKS:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    there, found, _ = cv2.calcOpticalFlowPyrLK(first.gray, second.gray, corners, _ANYWHERE, **_LK)
    back, home, _ = cv2.calcOpticalFlowPyrLK(second.gray, first.gray, there, _ANYWHERE, **_LK)
    error = np.linalg.norm((corners - back).reshape(-1, 2), axis=1)
    end = there.reshape(-1, 2)
    inside = (end >= 0).all(1) & (end[:, 0] <= second.width - 1) & (end[:, 1] <= second.height - 1)
    tolerance = max(0.5, min(first.height, first.width) / 240)
    good = (found.ravel() == 1) & (home.ravel() == 1) & (error < tolerance) & inside
    return corners.reshape(-1, 2)[good], end[good]


def _moved(h: NDArray[np.float64], points: Points) -> NDArray[np.float64]:
    """[N, 2]: where `h` takes them."""
    moved = np.column_stack([points, np.ones(len(points))]) @ h.T
    return np.asarray(moved[:, :2] / moved[:, 2:])


def _followers(
    h: NDArray[np.float64], start: Points, end: Points, tolerance: float, frame: TrackedFrame
) -> NDArray[np.bool_]:
    """Which points of `frame` follow `h` (normalised) to within `tolerance` pixels."""
    to = _to_normalised(frame.width, frame.height)
    return np.asarray(np.linalg.norm(_moved(np.linalg.inv(to) @ h @ to, start) - end, axis=1) < tolerance)


def _cells(points: Points, frame: TrackedFrame) -> int:
    """Cells of a 4 x 4 grid over `frame` that hold one of the points."""
    columns, rows = np.floor(4 * points / np.array([frame.width, frame.height])).astype(int).T
    return len(np.unique(4 * rows + columns))


_LOCAL = threading.local()
_AROUND = (9, 9)
"""Pixels about a point that its texture is measured on."""


def _flow(first: TrackedFrame, second: TrackedFrame) -> tuple[Points, Points]:
    """Points on a grid of `first` and where dense flow (DIS, arXiv 1603.03590) takes them."""
    if not hasattr(_LOCAL, "dis"):  # one per thread: it keeps buffers between calls
        _LOCAL.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = _LOCAL.dis.calc(first.gray, second.gray, None)
    step = max(4, round(FLOW_SPACING * min(first.height, first.width)))
    rows, columns = (grid.ravel() for grid in np.mgrid[step // 2 : first.height : step, step // 2 : first.width : step])
    before = first.gray.astype(np.float32)
    x, y = np.meshgrid(np.arange(first.width, dtype=np.float32), np.arange(first.height, dtype=np.float32))
    after = cv2.remap(second.gray.astype(np.float32), x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
    variance = cv2.blur(before**2, _AROUND) - cv2.blur(before, _AROUND) ** 2
    # where nothing is to be seen, and where it is not found again, flow is but its neighbours'
    seen = (variance > MIN_TEXTURE**2) & (cv2.blur((after - before) ** 2, _AROUND) < variance)
    seen = (seen if first.hidden is None else seen & ~first.hidden)[rows, columns]
    start = np.stack([columns, rows], 1).astype(np.float32)[seen]
    return start, start + flow[rows, columns][seen]


def _fit(start: Points, end: Points, tolerance: float, *, homography: bool) -> tuple[NDArray[np.float64] | None, int]:
    """The simplest of similarity and (where asked for) homography that explains the tracks, and how many it explains."""
    similarity, _ = cv2.estimateAffinePartial2D(
        start, end, method=cv2.RANSAC, ransacReprojThreshold=tolerance, maxIters=500, confidence=0.995
    )
    simple = None if similarity is None else np.vstack([similarity, [0.0, 0.0, 1.0]])
    simple_cost, simple_inliers = _cost(simple, start, end, tolerance)
    if homography:
        found, _ = cv2.findHomography(start, end, cv2.USAC_FAST, tolerance, maxIters=500, confidence=0.995)
        free = None if found is None else np.asarray(found, np.float64)
        cost, inliers = _cost(free, start, end, tolerance)
        if free is not None and cost < HOMOGRAPHY_ADVANTAGE * simple_cost:
            return free, inliers
    return simple, simple_inliers


def _cost(h: NDArray[np.float64] | None, start: Points, end: Points, tolerance: float) -> tuple[float, int]:
    """Sum of squared residuals, each at most tolerance squared (MSAC), and the number of tracks within tolerance."""
    if h is None or not np.isfinite(h).all():
        return float("inf"), 0
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = ((_moved(h, start) - end) ** 2).sum(1)
    squared = np.where(np.isfinite(squared), squared, np.inf)
    return float(np.minimum(squared, tolerance**2).sum()), int((squared < tolerance**2).sum())


def _to_normalised(width: int, height: int) -> NDArray[np.float64]:
    """[3, 3]: pixel positions (centres at whole numbers) to [-1, 1]."""
    return np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]], np.float64)


def _normalise(h: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    to = _to_normalised(width, height)
    result = to @ h @ np.linalg.inv(to)
    return result / result[2, 2]


def _plausible(h: NDArray[np.float64]) -> bool:
    """Whether no corner leaves by more than MAX_CORNER_SHIFT, nothing is mirrored, and nothing passes the horizon."""
    corners = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]], np.float64).T
    moved = h @ corners
    if not np.isfinite(h).all() or (moved[2] <= 0.2).any():
        return False
    shift = np.abs(moved[:2] / moved[2] - corners[:2]).max()
    return bool(np.linalg.det(h) > 0.05 and shift < MAX_CORNER_SHIFT)
