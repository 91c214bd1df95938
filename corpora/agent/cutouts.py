"""The robot painted over a person: cut-outs of its own demonstrations, chosen so that the tool lies where the hand is and goes
through space smoothly.

For each clip dynamic programming chooses, among the cut-outs that lie nearest to the hand's point, by how far they must be
moved, how evenly the tool's depth changes, and, where the robot has a demonstration of the clip's text, the depth that it
had at the same progress. Where depths are not known, the size of the cut-out goes for them. The point of the new track is the
hand's; its depth is the cut-outs', without the jumps from one to the next (`evened`), and its position lies at that depth on
the ray through the point. A cut-out that is drawn smaller shows a tool that is further away by as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.agent.painting import BY_PAINTER, Agent, Shown, Stamp, register
from corpora.agent.settings import PaintSettings
from corpora.agent.track import Track, resize_mask
from corpora.agent.tracks import Tracks
from corpora.clips.corpus import Corpus
from corpora.clips.frames import open_clip_frames
from corpora.clips.manifest import ClipRow
from corpora.store.files import digest_of
from corpora.video.view import ROBOT

NEAREST = 200
"""Cut-outs that are weighed for each frame."""
PLACE = 0.024
"""Of the image's side: as far as a cut-out is moved without regret."""
DEPTH_M, SIZE = 0.03, 0.1
"""Change of depth (of the logarithm of the size) from frame to frame without regret, at `RATE` frames a second."""
RATE = 20.0
ANCHOR_M, ANCHOR_WEIGHT = 0.08, 4.0
"""Distance from the depth that the demonstration had at the same progress."""
EVEN_S = 0.16
"""Changes of depth that are faster than this are the cut-outs', not the tool's."""
NEAR = 0.15
"""Of the image's side: as far from the point the tool, or the hand, is measured."""
SCALES = (0.2, 2.0)
"""Cut-outs are drawn no smaller and no larger than this."""
RAY_M = 0.01
"""Where depths on rays miss the robot's positions by more (median), its camera does not stand still: they are not used."""


@dataclass(frozen=True)
class Bank:
    """N cut-outs."""

    images: NDArray[np.uint8]
    """[F, S, S, 3]: all frames of the demonstrations."""
    frame: NDArray[np.int64]
    """[N]: rows of `images`."""
    packed: tuple[bytes, ...]
    """[N]: masks, see `mask`."""
    point_px: NDArray[np.float64]
    """[N, 2]."""
    depth_m: NDArray[np.float64]
    """[N]; NaN where it is not known, as are positions."""
    position_m: NDArray[np.float64]
    """[N, 3]."""
    size: NDArray[np.float64]
    """[N]: logarithm of the mask's diameter in pixels."""
    names: tuple[str, ...]
    """[N]: clip and frame."""
    demonstrations: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]
    """Text -> progress and depth, ascending in progress, of each clip that has it."""

    @property
    def side(self) -> int:
        return int(self.images.shape[1])

    def mask(self, number: int) -> NDArray[np.bool_]:
        """bool [S, S]."""
        bits = np.unpackbits(np.frombuffer(self.packed[number], np.uint8), count=self.side**2)
        return bits.reshape(self.side, self.side).astype(bool)

    def cutout(self, number: int, scale: float) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float64]]:
        """Image, mask and the tool's point in them, [2], `scale` times as large as they were cut."""
        image, mask, point = self.images[self.frame[number]], self.mask(number), self.point_px[number]
        side = max(2, round(scale * self.side))
        if side == self.side:
            return image, mask, point
        kind = cv2.INTER_AREA if side < self.side else cv2.INTER_LINEAR
        scaled = np.asarray(cv2.resize(image, (side, side), interpolation=kind), np.uint8)
        return scaled, resize_mask(mask, side, side), (point + 0.5) * (side / self.side) - 0.5

    def depth_at(self, text: str, progress: NDArray[np.float64]) -> NDArray[np.float64]:
        """[T]: mean depth of the demonstrations of a text; NaN where there is none, or the progress is not known."""
        known = [np.interp(progress, *each) for each in self.demonstrations.get(text, ()) if text]
        return np.mean(known, axis=0) if known else np.full(len(progress), np.nan)

    def ray(self) -> NDArray[np.float64] | None:
        """[4, 3]: (x z, y z, z, 1) to position, as a camera that stands still has it; None where there is no such."""
        rows = np.isfinite(self.depth_m) & np.isfinite(self.position_m).all(1)
        if rows.sum() < 12:
            return None
        seen, there = _on_rays(self.point_px[rows], self.depth_m[rows]), self.position_m[rows]
        fitted = np.linalg.lstsq(seen, there, rcond=None)[0]
        off = np.linalg.norm(seen @ fitted - there, axis=1)
        return np.asarray(fitted, np.float64) if np.median(off) <= RAY_M else None


def _on_rays(point_px: NDArray[np.float64], depth_m: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([point_px * depth_m[:, None], depth_m, np.ones(len(depth_m))])


def open_bank(corpus: Corpus, tracks: Tracks, side: int) -> Bank:
    """The cut-outs of the robot's demonstrations at `side` pixels.

    Raises ValueError where no frame has both a mask and a point.
    """
    frames = open_clip_frames(corpus, side)
    starts = dict(zip((row.clip_id for row in frames.rows), frames.starts.tolist(), strict=False))
    ends = group_ends(corpus.clips)
    found: list[tuple[int, bytes, NDArray[np.floating], float, NDArray[np.floating], float, str]] = []
    demonstrations: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for row in sorted(frames.rows, key=lambda row: (row.shard, row.index_in_shard)):
        if row.clip_id not in tracks:
            continue
        track, first = tracks[row.clip_id].resized(side), starts[row.clip_id]
        usable = np.flatnonzero(track.seen & frames.table.valid[first : first + row.frames, 0])
        for frame in usable.tolist():
            size = 0.5 * math.log(track.mask[frame].sum())
            packed = np.packbits(track.mask[frame]).tobytes()
            place = track.point_px[frame], float(track.depth_m[frame]), track.position_m[frame]
            found.append((first + frame, packed, *place, size, f"{row.clip_id}:{frame}"))
        deep = usable[np.isfinite(track.depth_m[usable])]
        if row.text and len(deep):
            t_s = frames.t_s[first : first + row.frames]
            when = progress_of(row, t_s, ends)[deep]
            demonstrations.setdefault(row.text, []).append((when, track.depth_m[deep].astype(np.float64)))
    if not found:
        raise ValueError(
            f"--robot-tracks '{tracks.folder}': no frame of '{corpus.folder}' has both a mask and a point, so there is no "
            "robot to cut out; track it from files (giza simulate --tracks writes them), or paint --agent none or dot"
        )
    rows, packed, points, depths, positions, sizes, names = zip(*found, strict=True)
    return Bank(
        frames.table.images[:, 0],
        np.array(rows, np.int64),
        packed,
        np.array(points, np.float64),
        np.array(depths, np.float64),
        np.array(positions, np.float64),
        np.array(sizes, np.float64),
        names,
        demonstrations,
    )


def group_ends(rows: Sequence[ClipRow]) -> dict[str, tuple[float, float]]:
    """Group -> where its clips begin and end, seconds."""
    ends: dict[str, tuple[float, float]] = {}
    for row in rows:
        start, end = ends.get(row.group, (row.start_s, row.end_s))
        ends[row.group] = min(start, row.start_s), max(end, row.end_s)
    return ends


def progress_of(row: ClipRow, t_s: NDArray[np.float64], ends: dict[str, tuple[float, float]]) -> NDArray[np.float64]:
    """[T], 0 to 1: of the clip's frames within what the corpus has of its video or episode."""
    start, end = ends[row.group]
    return np.clip((t_s - start) / max(1e-6, end - start), 0, 1)


@register
class Robot(Agent):
    """See the module."""

    name, reads = ROBOT, BY_PAINTER | {"robot", "robot_tracks", "scale"}

    def __init__(self, settings: PaintSettings, size: int, bank: Bank | None = None) -> None:
        if bank is None:
            if settings.robot is None or settings.robot_tracks is None:
                raise ValueError(
                    "--agent robot is cut out of the robot's own demonstrations: name the corpus that they were ingested to "
                    "and its tracks, --robot CORPUS --robot-tracks TRACKS; or paint --agent none or dot"
                )
            corpus = Corpus(settings.robot)
            tracks = Tracks(settings.robot_tracks, corpus)
            drawn = ("2",) if settings.scale == "hand" else ()  # first, arms of smaller cut-outs went on as blocks
            self._identity = digest_of(corpus.identity, tracks.identity, *drawn)
            bank = open_bank(corpus, tracks, size)
        else:
            self._identity = digest_of(*bank.names)
        self._bank, self._ray, self._scaled = bank, bank.ray(), settings.scale == "hand"

    @property
    def identity(self) -> str:
        return self._identity

    def stamps(self, track: Track, shown: Shown) -> Sequence[Stamp | None]:
        there = np.flatnonzero(track.seen).astype(np.int64)
        stamps: list[Stamp | None] = [None] * len(track.mask)
        if len(there):
            wanted = self._bank.depth_at(shown.text, shown.progress[there])
            chosen = choose(self._bank, track.point_px[there].astype(np.float64), shown.t_s[there], wanted)
            scale = self._scale(track.frames(there), chosen) if self._scaled else 1.0
            depth = evened(shown.t_s[there], self._bank.depth_m[chosen], wanted) / scale
            for frame, number, depth_m in zip(there.tolist(), chosen.tolist(), depth.tolist(), strict=True):
                stamps[frame] = self._stamp(number, track.point_px[frame].astype(np.float64), depth_m, scale)
        return stamps

    def _scale(self, track: Track, chosen: NDArray[np.int64]) -> float:
        """The hand's thickness over the tool's, medians of the clip: a ratio that changed with every frame would flicker."""
        hand = np.median([thickness(mask, point) for mask, point in zip(track.mask, track.point_px, strict=True)])
        tools = [thickness(self._bank.mask(number), self._bank.point_px[number]) for number in chosen.tolist()]
        return float(np.clip(hand / max(1e-6, float(np.median(tools))), *SCALES))

    def _stamp(self, number: int, point: NDArray[np.float64], depth: float, scale: float) -> Stamp:
        bank = self._bank
        image, mask, tool = bank.cutout(number, scale)
        shift = np.rint(point - tool).astype(int)
        rows, columns, there = _placed(mask, tool, shift, bank.side)
        position = bank.position_m[number]
        if self._ray is not None and math.isfinite(depth):
            position = (_on_rays(point[None], np.array([depth])) @ self._ray)[0]
        x, y, z = (float(value) for value in position)
        return Stamp(
            image[rows, columns],
            mask[rows, columns] & there,
            depth,
            (x, y, z),
            bank.names[number],
            float(np.linalg.norm(point - bank.point_px[number])),
            scale,
        )


def _placed(
    mask: NDArray[np.bool_], tool: NDArray[np.float64], shift: NDArray[np.int64], side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Rows and columns [S, S] of the cut-out that are drawn in an image `side` wide where it is moved by `shift`, and where there
    is something to draw. What reaches the cut-out's edge goes on beyond it, for an arm must not end in the air: a little way
    as its edge is, and of a smaller cut-out in the arm's own direction and width."""
    y, x = np.mgrid[:side, :side] - shift[::-1, None, None]
    last = len(mask) - 1
    there = np.ones((side, side), bool)
    edge = np.argwhere(mask & _rim(mask.shape))[:, ::-1]
    if last + 1 < side and len(edge):
        way = edge.mean(0) - tool
        back = np.zeros((side, side))
        for place, along in ((x, way[0]), (y, way[1])):
            over = np.where(place > last, place - last, np.minimum(place, 0))
            there &= over * along >= 0
            back = np.maximum(back, over / along if along else np.where(over, np.inf, 0))
        there &= np.isfinite(back)
        back = np.where(there, back, 0)
        x, y = (np.rint(place - back * along).astype(np.int64) for place, along in ((x, way[0]), (y, way[1])))
        there &= (x >= 0) & (x <= last) & (y >= 0) & (y <= last)
    return np.clip(y, 0, last), np.clip(x, 0, last), there


def _rim(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    rim = np.ones(shape, bool)
    rim[1:-1, 1:-1] = False
    return rim


def thickness(mask: NDArray[np.bool_], point_px: NDArray[np.floating]) -> float:
    """Half the width, in pixels, of the thickest part of a mask near the point: a palm, a gripper; the forearm behind a hand is
    about as thick."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    near = np.hypot(columns - point_px[0], rows - point_px[1]) <= NEAR * mask.shape[0]
    return float(inside[near].max(initial=0.0))


def choose(
    bank: Bank, point_px: NDArray[np.float64], t_s: NDArray[np.float64], wanted_m: NDArray[np.float64]
) -> NDArray[np.int64]:
    """[T], cut-outs for a tool that lies at `point_px` [T, 2] at `t_s` [T]; `wanted_m` [T]: depth, NaN: any."""
    count = min(NEAREST, len(bank.frame))
    known = bool(np.isfinite(bank.depth_m).all())
    depth, step = (bank.depth_m, DEPTH_M) if known else (bank.size, SIZE)
    near, back = np.zeros((len(t_s), count), np.int64), np.zeros((len(t_s), count), np.int64)
    cost = np.zeros(count)
    for frame, point in enumerate(point_px):
        distance = np.linalg.norm(bank.point_px - point, axis=1)
        near[frame] = np.argpartition(distance, count - 1)[:count]
        unlike = (distance[near[frame]] / (PLACE * bank.side)) ** 2
        if known and np.isfinite(wanted_m[frame]):
            unlike += ANCHOR_WEIGHT * ((depth[near[frame]] - wanted_m[frame]) / ANCHOR_M) ** 2
        if frame:
            frames = max(1.0, RATE * (t_s[frame] - t_s[frame - 1]))
            change = (depth[near[frame]][:, None] - depth[near[frame - 1]]) / step
            through = cost + change**2 / frames
            back[frame] = through.argmin(1)
            unlike += through.min(1)
        cost = unlike
    place = int(cost.argmin())
    chosen = np.zeros(len(t_s), np.int64)
    for frame in range(len(t_s) - 1, -1, -1):
        chosen[frame] = near[frame, place]
        place = back[frame, place]
    return chosen


def evened(
    t_s: NDArray[np.float64], depth_m: NDArray[np.float64], wanted_m: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[T]: depths without what changes within `EVEN_S`; where a demonstration tells a depth (`wanted_m`, else NaN), it is the
    distance from that which changes slowly. Depths [T] at `t_s` [T], of which some may be NaN, as they are then."""
    if len(t_s) < 3 or not np.isfinite(depth_m).all():
        return depth_m
    told = np.where(np.isfinite(wanted_m).all(), wanted_m, 0.0)
    rows, before, after = np.arange(len(t_s) - 2), np.diff(t_s)[:-1], np.diff(t_s)[1:]
    curve = np.zeros((len(rows), len(t_s)))  # second derivative
    for column, weight in enumerate((1 / before, -1 / before - 1 / after, 1 / after)):
        curve[rows, rows + column] = weight * 2 / (before + after)
    rough = EVEN_S**4 * curve.T @ curve
    return np.asarray(told + np.linalg.solve(np.eye(len(t_s)) + rough, depth_m - told), np.float64)
