"""Shot boundaries while the frames stream by: PySceneDetect's adaptive detector on small images.

Only frames that will be stored are looked at: a cut lies between two of them, and no clip holds both.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, FrameTimecode

DETECTION_SIDE = 72
"""Short side of the images that are compared: a cut changes everything, and this is quick."""


@dataclass(frozen=True)
class ShotSettings:
    """When two neighbouring frames belong to different shots."""

    ratio: float = 3.0
    """The change must be this many times the mean change of the two frames on either side: a turning head is no cut."""
    change: float = 15.0
    """And at least this large (mean difference of hue, saturation and value, 0-255)."""


def label_shots(
    frames: Iterator[tuple[float, NDArray[np.uint8]]], settings: ShotSettings, breaks: Sequence[float] = ()
) -> Iterator[tuple[int, float, NDArray[np.uint8]]]:
    """Yields (shot index, time, frame) in order; holds back the few frames that the detector must see first.

    `breaks`: times (ascending) at which a shot begins whatever the images say.
    """
    detector = _detector(settings, 1.0)
    ahead = detector.event_buffer_length
    waiting: deque[tuple[int, float, NDArray[np.uint8]]] = deque()
    recent: deque[NDArray[np.uint8]] = deque(maxlen=2 * ahead + 2)
    shot, number, begun = 0, -1, 0
    cuts: set[int] = set()
    for number, (t_s, rgb) in enumerate(frames):
        passed = bisect_right(breaks, t_s + 1e-6)
        if passed > begun and number > 0:
            cuts.add(number)
        begun = passed
        waiting.append((number, t_s, rgb))
        recent.append(_small(rgb))
        cuts.update(cut.frame_num for cut in detector.process_frame(FrameTimecode(number, 25.0), recent[-1]))
        if number == 2 * ahead - 1:
            cuts.update(cut for cut in _edge_cuts(recent, settings) if cut < ahead)
        while waiting and waiting[0][0] <= number - ahead:
            index, shown, image = waiting.popleft()
            shot += index in cuts
            cuts.discard(index)
            yield shot, shown, image
    begin = number + 1 - len(recent)
    cuts.update(begin + cut for cut in _edge_cuts(recent, settings) if begin == 0 or cut >= len(recent) - ahead)
    for index, shown, image in waiting:
        shot += index in cuts
        yield shot, shown, image


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
    return [cut.frame_num - ahead for cuts in found for cut in cuts]


def _small(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = min(1.0, DETECTION_SIDE / min(rgb.shape[:2]))
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return np.asarray(cv2.cvtColor(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR), np.uint8)
