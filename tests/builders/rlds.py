"""RLDS datasets: TFRecords of three short episodes, written byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.episodes.tf_records import masked_crc32c

LENGTHS = (5, 8, 3)
TEXTS = ("put the cup away", "open the drawer", "put the cup away")


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    groups = []
    while True:
        number, low = number >> 7, number & 0x7F
        groups.append(low | (0x80 if number else 0))
        if not number:
            return bytes(groups)


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values: list[bytes] | NDArray[Any], *, packed: bool = True) -> bytes:
    if isinstance(values, list):
        return message(1, b"".join(message(1, value) for value in values))
    if values.dtype.kind == "f":
        if packed:
            return message(2, message(1, values.astype("<f4").tobytes()))
        return message(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", value) for value in values.tolist()))
    if packed:
        return message(3, message(1, b"".join(varint(int(value)) for value in values)))
    return message(3, b"".join(varint(1 << 3) + varint(int(value)) for value in values))


def made_example(values: dict[str, Any], *, packed: bool = True) -> bytes:
    entries = [message(1, name.encode()) + message(2, feature(value, packed=packed)) for name, value in values.items()]
    return message(1, b"".join(message(1, entry) for entry in entries))


def record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked_crc32c(length)) + content + struct.pack("<I", masked_crc32c(content))


def image_of(episode: int, row: int) -> NDArray[np.uint8]:
    """RGB, smooth, so that JPEG keeps it; red grows with the episode and green with the row."""
    ramp = np.linspace(0, 60, 64)[None, :, None].repeat(64, 0).repeat(3, 2)
    return (ramp + np.array([60 * episode, 20 * row, 30])).clip(0, 255).astype(np.uint8)


def numbers_of(episode: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(episode)
    state, action = (rng.normal(size=(LENGTHS[episode], width)).astype(np.float32) for width in (3, 2))
    return state, action


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()


def tensor(*sizes: int, dtype: str = "float32") -> dict[str, Any]:
    return {"tensor": {"shape": {"dimensions": [str(size) for size in sizes]}, "dtype": dtype}}


def rlds(
    root: Path,
    files: tuple[tuple[int, ...], ...] = ((0, 1), (2,)),
    *,
    changed: dict[int, dict[str, Any]] | None = None,
    splits: list[dict[str, Any]] | None = None,
    features: dict[str, Any] | None = None,
) -> Path:
    """`changed`: of an episode, features that are other than usual; None: that are not there. `features`: entries of
    features.json by their path ("action/gripper"); None: that it lacks."""
    root.mkdir(parents=True)
    image = {"image": {"shape": {"dimensions": ["64", "64", "3"]}}}
    step = {
        "action": tensor(2),
        "is_first": {"tensor": {"shape": {}, "dtype": "bool"}},
        "language_instruction": {"text": {}},
        "observation": {"featuresDict": {"features": {"state": tensor(3), "head": image, "side": image}}},
    }
    for path, entry in (features or {}).items():
        *folders, last = path.split("/")
        inner: dict[str, Any] = step
        for folder in folders:
            inner = inner.setdefault(folder, {}).setdefault("featuresDict", {"features": {}})["features"]
        inner[last] = entry
        if entry is None:
            del inner[last]
    tree = {"steps": {"sequence": {"feature": {"featuresDict": {"features": step}}}}}
    (root / "features.json").write_text(json.dumps({"featuresDict": {"features": tree}}))
    (root / "dataset_info.json").write_text(json.dumps({"name": "kitchen", "splits": splits or []}))
    for number, episodes in enumerate(files):
        content = b""
        for episode in episodes:
            state, action = numbers_of(episode)
            values = {
                "steps/observation/state": state.ravel(),
                "steps/action": action.ravel(),
                "steps/is_first": np.arange(LENGTHS[episode]) == 0,
                "steps/language_instruction": [TEXTS[episode].encode()] * LENGTHS[episode],
                "steps/observation/head": [jpeg(image_of(episode, row)) for row in range(LENGTHS[episode])],
                "steps/observation/side": [jpeg(np.zeros((64, 64, 3), np.uint8))] * LENGTHS[episode],
            }
            values |= {f"steps/{name}": value for name, value in (changed or {}).get(episode, {}).items()}
            content += record(made_example({name: value for name, value in values.items() if value is not None}))
        (root / f"kitchen-train.tfrecord-0000{number}-of-0000{len(files)}").write_bytes(content)
    return root
