"""Which frames of a client's history are from before the episode, and so masked, as they are in training.

Isaac-GR00T's protocol has no mask: a client always sends T frames, and fills the places of those that it does not have yet. Most
repeat the episode's first frame, others send black ones. Frames that a camera took at two moments differ by its noise, so the
oldest frames are taken for filling while they are, in all cameras, black or bit for bit the next one. A client that can say it
better (its robot is simulated, and may stand still) sends with its observation the options {"since_start_s": seconds since the
episode began}, a number for each observation of the batch or one for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.video.nearest import after_beginning

SINCE_START = "since_start_s"


def frames_there(
    images: NDArray[np.uint8], history_s: Sequence[float], step_s: float, options: Any = None
) -> NDArray[np.bool_]:
    """bool [B, T]: False for the frames of [B, V, T, 3, S, S] that are from before the episode; never the present one. Raises
    ValueError where the options tell no time."""
    since_s = options.get(SINCE_START) if isinstance(options, Mapping) else None
    if since_s is not None:
        return np.stack([after_beginning(history_s, each, step_s) for each in _seconds(since_s, len(images))])
    alike = (images[:, :, :-1] == images[:, :, 1:]).all((1, 3, 4, 5)) | ~images[:, :, :-1].any((1, 3, 4, 5))
    filling = np.logical_and.accumulate(alike, 1)
    return np.concatenate([~filling, np.ones((len(images), 1), np.bool_)], 1)


def _seconds(value: Any, size: int) -> list[float]:
    given = value.tolist() if isinstance(value, np.ndarray) and value.size <= size else value
    each = given if isinstance(given, list) else [given] * size
    numbers = [second for second in each if isinstance(second, int | float) and not isinstance(second, bool)]
    if len(numbers) != len(each) or len(each) != size or not all(second >= 0 for second in numbers):
        raise ValueError(
            f"options: {SINCE_START} {str(value)[:60]}: must be seconds since the episode began, at least 0, a number for each of "
            f"the {size} observation(s) or one for all"
        )
    return [float(second) for second in numbers]
