"""Tracks that someone else made, as npz beside a video or an episode: `giza simulate --tracks` writes them, and users who have
masks and points of their own (HaWoR, WiLoR, SAM2, a robot's kinematics) do.

    t_s         float [N], ascending: seconds from the first frame of the video or episode
    mask        bool or uint8 [N, H, W]: the whole image at any size of its aspect; 0 where the agent is not
    point_px    float [N, 2], x and y in pixels of the mask; NaN where it is not known
    confidence  float [N], 0 to 1; may be left out, as all that follow may
    depth_m     float [N], along the camera's axis
    position_m  float [N, 3], in the space of the robot's actions
    turn_xyzw   float [N, 4], quaternion in that space: the hand's, as if it were the robot's tool
    opening     float [N], more where thumb and index finger are further apart, in one unit for all files
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.agent.track import SHAPES, Track, Untracked, known_track, resize_mask
from corpora.store.files import machine_trouble, written_whole
from corpora.video.nearest import rows_within

_NEEDED = ("t_s", "mask", "point_px")
_SHAPES = {"t_s": (), **SHAPES}
_ASPECT_OFF = 0.02
"""Of the ratio of width to height: sizes are whole pixels."""


@dataclass(frozen=True)
class TrackFile:
    """What a file holds, see the module."""

    t_s: NDArray[np.float64]
    mask: NDArray[np.bool_]
    point_px: NDArray[np.float32]
    known: dict[str, NDArray[np.float32]]
    """Of what may be left out that which it has."""

    @staticmethod
    def read(path: Path) -> TrackFile:
        """Raises Untracked where the file is damaged, lacks an array, or has one of another shape, OSError where the machine
        cannot read it now."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            if machine_trouble(error):
                raise
            raise Untracked("unreadable", f"{path.name}: {type(error).__name__}: {error}") from error
        if wrong := _wrong(arrays):
            raise Untracked("unreadable", f"{path.name}{wrong}")
        known = {name: arrays[name].astype(np.float32) for name in _SHAPES if name in arrays and name != "t_s"}
        point, t_s = known.pop("point_px"), arrays["t_s"].astype(np.float64)
        return TrackFile(t_s, arrays["mask"].astype(bool), point, known)

    def write(self, path: Path) -> None:
        """The file, whole, in a folder that is made where it is not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary, temporary.open("wb") as file:
            arrays: dict[str, Any] = {"t_s": self.t_s, "mask": self.mask, "point_px": self.point_px, **self.known}
            np.savez_compressed(file, **arrays)

    def positions(self, t_s: NDArray[np.float64]) -> NDArray[np.float32]:
        """[T, 3]: `position_m` at the moments `t_s` [T]; NaN where it is not known, or the file does not reach."""
        if "position_m" not in self.known:
            return np.full((len(t_s), 3), np.nan, np.float32)
        rows, near = self._rows(t_s)
        return np.where(near[:, None], self.known["position_m"][rows], np.float32(np.nan))

    def _rows(self, t_s: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        return rows_within(self.t_s, t_s, float(np.median(np.diff(self.t_s))) if len(self.t_s) > 1 else 0.0)

    def at(self, t_s: NDArray[np.float64], size: tuple[int, int], aspect: float, *, crop: bool = False) -> Track:
        """Of the frames shown at `t_s`, [T], of `size` (width, height), in pixels, of a video whose width is `aspect` times its
        height: all of it, squeezed where that has another aspect, or its middle square (`crop`). A frame that the file does not
        reach is not seen. Raises Untracked where the mask is of another aspect."""
        height, width = self.mask.shape[1:]
        if abs(width / height / aspect - 1) > _ASPECT_OFF + 1 / min(height, width):
            raise Untracked("mask_size", f"masks of {width} x {height} pixels, a video of {aspect:.3f} to 1")
        rows, near = self._rows(t_s)
        mask, offset = self.mask, np.zeros(2, np.float32)
        if crop:
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            mask, offset = mask[:, top : top + side, left : left + side], np.array([left, top], np.float32)
        scale = np.array([size[0] / mask.shape[2], size[1] / mask.shape[1]], np.float32)
        point = (self.point_px[rows] - offset + 0.5) * scale - 0.5
        masks = np.stack([resize_mask(mask[row], *size) for row in rows])
        masks[~near], point[~near] = False, np.nan
        known = {name: values[rows] for name, values in self.known.items()}
        for values in known.values():
            values[~near] = np.nan
        if "confidence" in known:
            known["confidence"] = np.nan_to_num(known["confidence"])
        return known_track(masks, point, **known)


def _wrong(arrays: dict[str, NDArray[Any]]) -> str:
    """What is wrong with the arrays of a file; "" where nothing is."""
    if lacking := [name for name in _NEEDED if name not in arrays]:
        return f" lacks {', '.join(lacking)}"
    count, mask = len(arrays["t_s"]), arrays["mask"]
    for name, shape in _SHAPES.items():
        if name in arrays and arrays[name].shape != (count, *shape):
            return f": {name} is {list(arrays[name].shape)}, not {[count, *shape]}"
    if mask.ndim != 3 or len(mask) != count or not count:
        return f": mask is {list(mask.shape)}, not [{count}, H, W]"
    return ": t_s does not ascend" if (np.diff(arrays["t_s"]) <= 0).any() else ""
