"""Dense optical flow of a pair of frames (DIS, Kroeger et al., arXiv 1603.03590, as OpenCV ships it).

Flow is given in per cent of the image's width and height, so it does not depend on the resolution. It serves as an
input of the encoder and as a target beside the image (LAOF predicts it as well): where things went is nearly linear
in what moved them, while the change of a pixel is not.
"""

from __future__ import annotations

import threading

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lapa.pairs.batch import as_frames
from lapa.pairs.config import FLOW_STRIDE

_LOCAL = threading.local()


def _dis() -> cv2.DISOpticalFlow:
    """One per thread: it keeps buffers between calls, and two threads in one object get each other's."""
    if not hasattr(_LOCAL, "dis"):
        _LOCAL.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return _LOCAL.dis


def pair_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Flow from `first` to `second`, uint8 [H, W, 3] RGB -> float32 [2, H/4, W/4] in per cent (x of the width, y of the
    height)."""
    height, width = first.shape[:2]
    before, after = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (first, second))
    flow = _dis().calc(before, after, None)  # type: ignore[call-overload]
    small = cv2.resize(flow, (width // FLOW_STRIDE, height // FLOW_STRIDE), interpolation=cv2.INTER_AREA)
    percent = np.array([100 / width, 100 / height], np.float32)
    return np.ascontiguousarray((small * percent).transpose(2, 0, 1))


def batch_flow(first: Tensor, second: Tensor) -> Tensor:
    """Flow of float images in [0, 1], [B, 3, S, S] each -> float32 [B, 2, S/4, S/4] in per cent, on their device."""
    flows = [pair_flow(a, b) for a, b in zip(as_frames(first), as_frames(second), strict=True)]
    return torch.from_numpy(np.stack(flows)).to(first.device)
