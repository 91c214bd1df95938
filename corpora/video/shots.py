"""Shot boundaries while the frames stream by: PySceneDetect's adaptive detector on small images.

Only frames that will be stored are looked at: a cut lies between two of them, and no clip holds both.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, FrameTimecode

from corpora.video.image import shrunk
from corpora.video.settings import ShotSettings

DETECTION_SIDE = 72
"""Short side of the images that are compared: a cut changes everything, and this is quick."""
REPEAT = 0.5
"""Mean difference (0-255) below which an image shows its predecessor again, as video does that is stored at a higher rate
than it was recorded. A repeat is no change to compare with."""
MAX_REPEATS = 15
"""More in a row are a still, which is compared with."""
SAME_SCENE = 0.88
"""Correlation of blurred luma across a change above which both images show one scene. Keyframes of seven codecs at low bit
rates, which change colours and sharpness, had 0.90 and more; of 373 cuts found between real videos none was above 0.85."""


def label_shots(
    frames: Iterator[tuple[float, NDArray[np.uint8]]], settings: ShotSettings, breaks: Sequence[float] = ()
) -> Iterator[tuple[int, float, NDArray[np.uint8]]]:
    """Yields (shot index, time, frame) in order; holds back the few frames that the detector must see first.

    `breaks`: times (ascending) at which a shot begins whatever the images say.
    """
    detector = _detector(settings, 1.0)
    ahead = detector.event_buffer_length
    waiting: deque[_Waiting] = deque()
    recent: deque[NDArray[np.uint8]] = deque(maxlen=2 * ahead + 2)
    shot, number, repeats, begun = 0, -1, 0, 0
    cuts: set[int] = set()
    for t_s, rgb in frames:
        passed = bisect_right(breaks, t_s + 1e-6)
        frame = _Waiting(number, passed > begun and number >= 0, False, t_s, rgb)
        begun = passed
        small = np.asarray(cv2.cvtColor(shrunk(rgb, DETECTION_SIDE), cv2.COLOR_RGB2BGR), np.uint8)
        repeats = repeats + 1 if recent and cv2.absdiff(small, recent[-1]).mean() < REPEAT else 0
        if not 0 < repeats <= MAX_REPEATS:
            number += 1
            frame = replace(frame, number=number, first=True)
            recent.append(small)
            found = detector.process_frame(FrameTimecode(number, 25.0), small)
            begin = number + 1 - len(recent)
            cuts.update(begin + cut for cut in _real([cut.frame_num - begin for cut in found], recent))
            if number == 2 * ahead - 1:
                cuts.update(cut for cut in _edge_cuts(recent, settings) if cut < ahead)
        waiting.append(frame)
        while waiting and waiting[0].number <= number - ahead:
            ready = waiting.popleft()
            shot += ready.begins(cuts)
            yield shot, ready.t_s, ready.rgb
    begin = number + 1 - len(recent)
    cuts.update(begin + cut for cut in _edge_cuts(recent, settings) if begin == 0 or cut >= len(recent) - ahead)
    for ready in waiting:
        shot += ready.begins(cuts)
        yield shot, ready.t_s, ready.rgb


@dataclass(frozen=True)
class _Waiting:
    """A frame that the detector has seen, or whose like it has."""

    number: int
    """Of the frames that the detector has seen, repeats having their original's."""
    broken: bool
    first: bool
    """It is no repeat."""
    t_s: float
    rgb: NDArray[np.uint8]

    def begins(self, cuts: set[int]) -> bool:
        """Whether it is the first of a shot."""
        return self.broken or (self.first and self.number in cuts)


def _detector(settings: ShotSettings, strictness: float) -> AdaptiveDetector:
    return AdaptiveDetector(
        adaptive_threshold=settings.ratio * strictness, min_scene_len=0, min_content_val=settings.change
    )


def _edge_cuts(images: Sequence[NDArray[np.uint8]], settings: ShotSettings) -> list[int]:
    """Cuts in a few images from the beginning or the end, as indices into them.

    The detector compares a change with those on either side, and beyond the edge there are none: the first and the last
    image are repeated. That halves the mean it compares with, so that the ratio asked for is doubled.
    """
    if not images:
        return []
    detector = _detector(settings, 2.0)
    ahead = detector.event_buffer_length
    padded = [images[0]] * ahead + list(images) + [images[-1]] * ahead
    found = [detector.process_frame(FrameTimecode(index, 25.0), small) for index, small in enumerate(padded)]
    return _real([cut.frame_num - ahead for cuts in found for cut in cuts], images)


def _real(cuts: Sequence[int], images: Sequence[NDArray[np.uint8]]) -> list[int]:
    """Those of `cuts` (indices into `images`, BGR) before and after which not the same is seen."""
    return [cut for cut in cuts if cut < 1 or _correlation(images[cut - 1], images[cut]) < SAME_SCENE]


def _correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Of blurred luma, -1 to 1; 0 where there is nothing to be seen."""
    lumas = [
        cv2.GaussianBlur(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY).astype(np.float32), (0, 0), DETECTION_SIDE / 36)
        for bgr in (one, other)
    ]
    if min(float(luma.std()) for luma in lumas) < 1:
        return 0.0
    return float(np.corrcoef(lumas[0].ravel(), lumas[1].ravel())[0, 1])
