"""Shot boundaries while the frames stream by: PySceneDetect's adaptive detector on small pictures.

Only frames that will be stored are looked at: a cut lies between two of them, and no clip holds both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, FrameTimecode

DETECTION_SIDE = 72
"""Short side of the pictures that are compared: a cut changes everything, and this is quick."""


@dataclass(frozen=True)
class ShotSettings:
    """When two neighbouring frames belong to different shots."""

    ratio: float = 3.0
    """The change must be this many times the mean change of the two frames on either side: a turning head is no cut."""
    change: float = 15.0
    """And at least this large (mean difference of hue, saturation and value, 0-255)."""


def label_shots(
    frames: Iterator[tuple[float, NDArray[np.uint8]]], settings: ShotSettings
) -> Iterator[tuple[int, float, NDArray[np.uint8]]]:
    """Yields (shot index, time, frame) in order; holds back the few frames that the detector must see first."""
    detector = AdaptiveDetector(adaptive_threshold=settings.ratio, min_scene_len=0, min_content_val=settings.change)
    ahead = detector.event_buffer_length
    waiting: deque[tuple[int, float, NDArray[np.uint8]]] = deque()
    shot, number = 0, -1
    cuts: set[int] = set()

    def show(moment: int, small: NDArray[np.uint8]) -> None:
        found = detector.process_frame(FrameTimecode(moment + ahead, 25.0), small)
        cuts.update(cut.frame_num - ahead for cut in found)

    for number, (t_s, rgb) in enumerate(frames):
        waiting.append((number, t_s, rgb))
        small = _small(rgb)
        # The detector wants frames on both sides of a cut: the first and the last are repeated, so that a cut right
        # beside them is seen as well.
        for early in range(-ahead if number == 0 else 0, 0):
            show(early, small)
        show(number, small)
        while waiting and waiting[0][0] <= number - ahead:
            index, shown, picture = waiting.popleft()
            shot += index in cuts
            cuts.discard(index)
            yield shot, shown, picture
    if waiting:
        last = _small(waiting[-1][2])
        for extra in range(1, ahead + 1):
            show(number + extra, last)
    for index, shown, picture in waiting:
        shot += index in cuts
        yield shot, shown, picture


def _small(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = min(1.0, DETECTION_SIDE / min(rgb.shape[:2]))
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return np.asarray(cv2.cvtColor(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR), np.uint8)
