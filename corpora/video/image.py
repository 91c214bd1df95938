"""Images: made square, and decoded from bytes that nobody vouches for."""

from __future__ import annotations

import struct
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Fit = Literal["stretch", "crop"]
"""stretch: the whole image whatever its aspect; crop: its middle square."""
SquaredBy = Literal["", "stretch", "crop"]
"""How images that are not square were made so; "": they are square, or it is not known."""
MAX_SIDE = 8192
"""Pixels. A header of a few bytes may claim more than memory holds, so it is read first."""
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_NO_SIZE = {0xC4, 0xC8, 0xCC}
"""JPEG markers 0xC0 to 0xCF begin a frame and tell its size, but for these."""


def fit_square(rgb: NDArray[np.uint8], size: int, fit: Fit) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] -> [size, size, 3], first by area along the sides that shrink. What a policy sees while it acts must be
    resized by this, too: another method differs by a grey level or more."""
    if fit == "crop":
        height, width = rgb.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        rgb = rgb[top : top + side, left : left + side]
    height, width = rgb.shape[:2]
    if max(height, width) > size:  # by OpenCV's area alone a side that grows would be of blocks
        rgb = np.asarray(cv2.resize(rgb, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA), np.uint8)
    if min(height, width) < size:
        rgb = np.asarray(cv2.resize(rgb, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)
    return rgb


def shrunk(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """[H, W] or [H, W, 3] with a short side of `side`; as it is where it is no larger. By area, and from less than twice the side
    linearly, which is ten times as fast: for measuring, not for storing."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return image
    size = max(1, round(scale * width)), max(1, round(scale * height))
    if scale <= 0.5 and width % 2 == 0 and height % 2 == 0:
        image = by_area(image, (width // 2, height // 2))
        return shrunk(image, side)
    return by_area(image, size) if scale <= 0.5 else np.asarray(cv2.resize(image, size), np.uint8)


def by_area(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W] or [H, W, 3] shrunk to `size` (width, height): by a whole factor first, which OpenCV does many times faster."""
    height, width = image.shape[:2]
    factor = min(width // size[0], height // size[1])
    if factor > 1 and width % factor == 0 and height % factor == 0:
        image = np.asarray(
            cv2.resize(image, (width // factor, height // factor), interpolation=cv2.INTER_AREA), np.uint8
        )
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def decode_image(encoded: bytes) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], RGB. Raises ValueError for bytes that are no whole JPEG or PNG, and for sides above MAX_SIDE."""
    width, height = image_size(encoded)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(f"image of {width} x {height} pixels: sides must be 1 to {MAX_SIDE}; make it smaller")
    try:
        bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"image of {len(encoded)} bytes does not decode ({error.err}); encode it again") from error
    if bgr is None:
        raise ValueError(f"image of {len(encoded)} bytes does not decode; encode it again")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def image_size(encoded: bytes) -> tuple[int, int]:
    """(width, height) in pixels as the header says, without decoding. Raises ValueError where there is none."""
    try:
        if encoded.startswith(_PNG):
            width, height = struct.unpack_from(">II", encoded, 16)
            return int(width), int(height)
        if encoded.startswith(_JPEG):
            return _jpeg_size(encoded)
    except (struct.error, IndexError) as error:
        raise ValueError(f"image of {len(encoded)} bytes ends within its header; encode it again") from error
    raise ValueError("no image: 0 bytes" if not encoded else "no image: it must be JPEG or PNG; encode it again")


def _jpeg_size(encoded: bytes) -> tuple[int, int]:
    """Raises struct.error or IndexError where the header ends before."""
    at = len(_JPEG)
    while True:
        at = encoded.find(b"\xff", at)
        if at < 0:
            raise IndexError("no frame")
        marker = encoded[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_SIZE:
            height, width = struct.unpack_from(">HH", encoded, at + 5)
            return int(width), int(height)
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # stand alone
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int(struct.unpack_from(">H", encoded, at + 2)[0])
