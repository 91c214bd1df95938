"""A person's hand by MediaPipe (extra `hands`): the point between thumb and index finger, and the mask of hand and forearm.

Hands are found frame by frame, linked to runs over time, and one run is the agent: the hand that is seen the most. The
stored frame is stretched back to the video's aspect first, for a squeezed hand is found less often.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.agent.hand_masks import open_mask
from corpora.agent.settings import TrackSettings
from corpora.agent.source import TrackSource, register
from corpora.agent.track import Track, Untracked, known_track, resize_mask
from corpora.clips.corpus import Clip, Corpus
from corpora.store.files import digest_of

log = logging.getLogger(__name__)

WRIST, THUMB_TIP, INDEX_TIP, KNUCKLE = 0, 4, 8, 9
"""Of MediaPipe's 21 landmarks."""
SMALL_PX = 256
"""In frames that are smaller, hands that fill less than a tenth of the image are lost."""
MAX_HANDS = 4
"""Two people have as many."""
_REACH = 0.35
"""A hand is found again within this share of the image's width."""
_SHORTEST = 2
"""Fewer detections than this in a row are a mistake."""
REMEDY = (
    "Install it with: pip install 'giza[hands]' && pip install --no-deps mediapipe==0.10.21 (its own requirements, numpy "
    "below 2 among them, are older than giza's)"
)


@dataclass(frozen=True)
class Hand:
    """One hand in one image."""

    landmarks_px: NDArray[np.float32]
    """[21, 2], x and y, in MediaPipe's order: wrist, then four joints each of thumb, index, middle, ring, little finger."""
    confidence: float
    right: bool
    """As MediaPipe takes it; it errs."""

    @property
    def point_px(self) -> NDArray[np.float32]:
        return (self.landmarks_px[THUMB_TIP] + self.landmarks_px[INDEX_TIP]) / 2

    @property
    def opening(self) -> float:
        """From tip to tip of thumb and index finger, in lengths of the palm (from the wrist to the middle finger's knuckle), both
        as the image shows them: what points at the camera looks shorter."""
        marks = self.landmarks_px
        apart, palm = (np.linalg.norm(marks[a] - marks[b]) for a, b in ((THUMB_TIP, INDEX_TIP), (WRIST, KNUCKLE)))
        return float(apart / palm) if palm > 0 else float("nan")


class HandDetector(Protocol):
    """Finds hands in the frames of a video, in order."""

    def reset(self) -> None:
        """Another video begins."""

    def __call__(self, rgb: NDArray[np.uint8]) -> Sequence[Hand]:
        """Of an image, uint8 [H, W, 3]."""


class MediaPipeHands:
    """MediaPipe's own. Raises ValueError where it is not installed, or not fit to run here."""

    def __init__(self, min_confidence: float) -> None:
        try:
            from mediapipe.python.solutions.hands import Hands
        except ImportError as error:
            raise ValueError(f"hands are found by mediapipe, which cannot be imported ({error}). {REMEDY}") from error
        try:
            self._hands: Any = Hands(
                max_num_hands=MAX_HANDS,
                min_detection_confidence=min_confidence,
                min_tracking_confidence=min_confidence,
            )
        except AttributeError as error:  # protobuf 7 has lost what it asks for
            found = importlib.metadata.version("protobuf")
            raise ValueError(
                f"mediapipe does not run with protobuf {found} ({error}): pip install 'protobuf>=5,<7'. {REMEDY}"
            ) from error

    def reset(self) -> None:
        self._hands.reset()

    def __call__(self, rgb: NDArray[np.uint8]) -> Sequence[Hand]:
        found = self._hands.process(rgb)
        scale = np.array([rgb.shape[1], rgb.shape[0]], np.float32)
        hands = []
        for marks, side in zip(found.multi_hand_landmarks or (), found.multi_handedness or (), strict=True):
            points = np.array([[mark.x, mark.y] for mark in marks.landmark], np.float32) * scale - 0.5
            best = side.classification[0]
            # it takes images to be mirrored, as a selfie is
            hands.append(Hand(points, float(best.score), best.label == "Left"))
        return hands


@dataclass
class Run:
    """One hand over time."""

    frames: list[int] = field(default_factory=list)
    hands: list[Hand] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return sum(hand.right for hand in self.hands) * 2 >= len(self.hands)


def link(found: Sequence[Sequence[Hand]], t_s: NDArray[np.float64], width: float, bridge_s: float) -> list[Run]:
    """Runs of the hands found in each frame [T], the longest first: a hand goes on as the nearest one within reach, after at
    most two frames or `bridge_s` seconds."""
    runs: list[Run] = []
    for frame, hands in enumerate(found):
        open_runs = [run for run in runs if frame - run.frames[-1] <= 2 or t_s[frame] - t_s[run.frames[-1]] <= bridge_s]
        pairs = sorted(
            (float(np.linalg.norm(run.hands[-1].landmarks_px.mean(0) - hand.landmarks_px.mean(0))), i, j)
            for i, run in enumerate(open_runs)
            for j, hand in enumerate(hands)
        )
        used_runs: set[int] = set()
        used_hands: set[int] = set()
        for distance, i, j in pairs:
            if distance <= _REACH * width and i not in used_runs and j not in used_hands:
                used_runs.add(i)
                used_hands.add(j)
                open_runs[i].frames.append(frame)
                open_runs[i].hands.append(hands[j])
        runs += [Run([frame], [hand]) for j, hand in enumerate(hands) if j not in used_hands]
    return sorted((run for run in runs if len(run.frames) >= _SHORTEST), key=lambda run: -len(run.frames))


def bridged(run: Run, t_s: NDArray[np.float64], bridge_s: float) -> Run:
    """The run with its gaps of at most `bridge_s` filled: every landmark moves evenly, the confidence is halved."""
    filled = Run()
    for place, (frame, hand) in enumerate(zip(run.frames, run.hands, strict=True)):
        if place:
            last, before = run.frames[place - 1], run.hands[place - 1]
            if t_s[frame] - t_s[last] <= bridge_s:
                for between in range(last + 1, frame):
                    share = (t_s[between] - t_s[last]) / (t_s[frame] - t_s[last])
                    marks = (1 - share) * before.landmarks_px + share * hand.landmarks_px
                    sure = min(before.confidence, hand.confidence) / 2
                    filled.frames.append(between)
                    filled.hands.append(Hand(marks.astype(np.float32), sure, hand.right))
        filled.frames.append(frame)
        filled.hands.append(hand)
    return filled


def acting(runs: Sequence[Run], which: str) -> list[Run]:
    """The runs of the hand that acts: the longest, and those of the same side that do not overlap with it in time."""
    chosen: list[Run] = []
    taken: set[int] = set()
    for run in runs:
        side = which if which != "any" else ("right" if chosen and chosen[0].right else "left") if chosen else ""
        if (not side or run.right == (side == "right")) and not taken & set(run.frames):
            chosen.append(run)
            taken |= set(run.frames)
    return chosen


@register
class HandTracks(TrackSource):
    """See the module."""

    name = "hands"
    reads = frozenset({"hand", "min_confidence", "bridge_s", "mask", "mask_model"})

    def __init__(
        self,
        settings: TrackSettings,
        corpus: Corpus,
        detector: Callable[[float], HandDetector] = MediaPipeHands,
    ) -> None:
        self._settings = settings
        self._stretched = corpus.fit == "stretch"
        if corpus.clips and corpus.clips[0].size < SMALL_PX:
            log.warning(
                "frames of %d px: a hand that is far away is not found in them. giza ingest --size %d of the same videos has "
                "the same clips, and their tracks fit clips of any size",
                corpus.clips[0].size,
                SMALL_PX,
            )
        self._mask = open_mask(settings)
        self._detect = detector(settings.min_confidence)

    @property
    def identity(self) -> str:
        some = self._settings
        how = self._mask.name, self._mask.identity
        return digest_of("hands", some.hand, str(some.min_confidence), str(some.bridge_s), *how)

    def track(self, clip: Clip) -> Track:
        settings, size = self._settings, clip.row.size
        width = round(size * clip.row.width / clip.row.height) if self._stretched else size
        frames = [cv2.resize(frame, (width, size)) if width != size else frame for frame in clip.frames]
        self._detect.reset()
        found = [self._detect(np.asarray(frame, np.uint8)) for frame in frames]
        runs = link(found, clip.t_s, width, settings.bridge_s)
        chosen = acting(runs, settings.hand)
        if not chosen:
            wanted = "" if settings.hand == "any" else f" {settings.hand}"
            raise Untracked("no_hand", f"no{wanted} hand in {len(frames)} frames")
        hands: list[list[Hand]] = [[] for _ in frames]
        point = np.full((len(frames), 2), np.nan, np.float32)
        confidence, opening = np.zeros(len(frames), np.float32), np.full(len(frames), np.nan, np.float32)
        scale = np.array([size / width, 1], np.float32)
        for run in runs:
            whole = bridged(run, clip.t_s, settings.bridge_s)
            for frame, hand in zip(whole.frames, whole.hands, strict=True):
                hands[frame].append(hand)
                if any(run is one for one in chosen):
                    point[frame] = (hand.point_px + 0.5) * scale - 0.5
                    confidence[frame], opening[frame] = hand.confidence, hand.opening
        masks = np.zeros((len(frames), size, size), bool)
        for frame, there in enumerate(hands):
            if there:
                mask = self._mask(np.asarray(frames[frame], np.uint8), [hand.landmarks_px for hand in there])
                masks[frame] = resize_mask(mask, size, size)
        return known_track(masks, point, confidence, opening=opening)
