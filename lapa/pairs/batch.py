"""A batch of pairs: two frames a gap apart, and what is known of each pair. The one form in which pairs reach a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lapa.pairs.config import FLOW_STRIDE

SHIFT = 1 / 16
"""Largest shift of an augmented batch, share of the image's side."""
CONTRAST = 0.2
"""Contrast is multiplied by 1 +- this."""
BRIGHTNESS = 0.1
"""Brightness is moved by +- this (images are in [0, 1])."""
_ON_THE_HOST = ("t_s", "gap_s", "frame_index", "clip")
"""Nothing that a model computes with; float64 not every device has."""


@dataclass(frozen=True)
class PairBatch:
    """B pairs. What is None is not known, or nobody asked for it."""

    first: Tensor
    """Images [B, 3, S, S], float32 in [0, 1], or uint8 where they wait for a device (`floats`); stabilised where the camera
    is compensated. Of a feature target the frozen model's features [B, N, F]."""
    second: Tensor
    """Likewise, a gap later."""
    valid: Tensor | None = None
    """[B, 1, S, S], float32 in {0, 1} or bool: what both stabilised frames show; None for features."""
    flow: Tensor | None = None
    """float32 [B, 2, S/4, S/4], optical flow from first to second, per cent of the image's side."""
    label: Tensor | None = None
    """float32 [B, A], known motion over the gap; NaN where it is unknown or withheld."""
    clip: Tensor | None = None
    """int64 [B], index of the clip among those that were read."""
    t_s: Tensor | None = None
    """float64 [B], time of the first frame in its source, seconds."""
    gap_s: Tensor | None = None
    """float64 [B], time between the frames, seconds."""
    frame_index: Tensor | None = None
    """int64 [B], which frame of its source the first is, see `Clip.frame_index`."""
    camera: Tensor | None = None
    """float32 [B, 3, 3], homography from first to second, normalised coordinates; the identity where it is unknown."""
    camera_inlier_ratio: Tensor | None = None
    """float32 [B]; 0 where the camera's motion is unknown."""
    motion: Tensor | None = None
    """float32 [B], mean absolute difference of luma, 0-255."""
    plain: Tensor | None = None
    """[B, 2, 3, S, S], uint8: both frames as they were before they were stabilised."""
    light: Tensor | None = None
    """float32 [B, 2], contrast (1: as it is) and brightness (0: as it is) that `floats` gives both images; None: as they are."""

    def __len__(self) -> int:
        return len(self.first)

    def to(self, device: str | torch.device) -> PairBatch:
        """The same batch there, copied beside what the host does next where it is `pinned`; times and clips stay."""
        return self._each(
            lambda name, x: x if name in _ON_THE_HOST else x.to(device, non_blocking=x.device.type == "cpu")
        )

    def pin_memory(self) -> PairBatch:
        """The same batch in memory that a GPU reads by itself; as a DataLoader with `pin_memory` calls it."""
        return self._each(lambda name, x: x if name in _ON_THE_HOST else x.pin_memory())

    def take(self, chosen: NDArray[np.integer] | Sequence[int] | slice) -> PairBatch:
        """The pairs `chosen`, in their order."""
        if not isinstance(chosen, slice):
            chosen = torch.as_tensor(np.asarray(chosen, np.int64))  # type: ignore[assignment]
        return self._each(lambda name, x: x[chosen])

    @staticmethod
    def cat(batches: Sequence[PairBatch]) -> PairBatch:
        """All pairs of `batches`, which must know the same of their pairs."""
        names = [field.name for field in dataclasses.fields(PairBatch)]
        columns = {name: [getattr(batch, name) for batch in batches] for name in names}
        joined: dict[str, Any] = {n: None if column[0] is None else torch.cat(column) for n, column in columns.items()}
        return PairBatch(**joined)

    def of_model(self) -> PairBatch:
        """What the encoder looks at, without the rest."""
        return PairBatch(self.first, self.second, self.valid, self.flow)

    def without_images(self) -> PairBatch:
        """What is known of each pair."""
        nothing = torch.zeros(len(self), 0)
        return dataclasses.replace(self, first=nothing, second=nothing, valid=None, flow=None, plain=None)

    def floats(self, *, contiguous: bool = True) -> PairBatch:
        """As a model takes it: images in [0, 1] and in their `light`, everything else a float of 32 bits as well.

        `contiguous`: False leaves images as they lie in memory, colours last, which spares a copy and rounds otherwise.
        """

        def convert(name: str, x: Tensor) -> Tensor:
            if name in {"first", "second", "plain"} and x.dtype == torch.uint8:
                x = (x.contiguous() if contiguous else x).float() / 255
            x = x.float() if name in {"first", "second", "valid", "flow"} else x
            # torchvision's adjust_contrast turns about each image's own grey and clamps, which would undo part of the change
            return (x - 0.5) * contrast + 0.5 + brightness if light is not None and name in {"first", "second"} else x

        if (light := self.light) is not None:
            contrast, brightness = light[:, :, None, None, None].unbind(1)
        return dataclasses.replace(self._each(convert), light=None)

    def augmented(self, rng: np.random.Generator, *, rank: int = 0, ranks: int = 1) -> PairBatch:
        """A shift shared by the batch and a `light` per pair; images only, features stay. Both frames of a pair are changed alike,
        so that it carries nothing about what happened between them. These are every `ranks`-th pair of a batch, from `rank` on."""
        if self.first.ndim != 4:
            return self
        count, size = len(self) * ranks, self.first.shape[-1]
        margin = round(SHIFT * size)
        dx, dy = (int(value) for value in rng.integers(-margin, margin + 1, 2))
        contrast, brightness = (torch.from_numpy(rng.uniform(-1, 1, count)[rank::ranks]).float() for _ in range(2))
        return dataclasses.replace(
            self,
            first=_shift(self.first, dx, dy),
            second=_shift(self.second, dx, dy),
            valid=None if self.valid is None else _shift(self.valid, dx, dy),
            flow=None if self.flow is None else _shift_flow(self.flow, dx, dy),
            light=torch.stack([1 + CONTRAST * contrast, BRIGHTNESS * brightness], 1),
        )

    def _each(self, change: Callable[[str, Tensor], Tensor]) -> PairBatch:
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed: dict[str, Any] = {name: None if x is None else change(name, x) for name, x in fields.items()}
        return PairBatch(**changed)


def as_frames(images: Tensor) -> NDArray[np.uint8]:
    """Images [B, 3, S, S], clamped to [0, 1] -> uint8 [B, S, S, 3]."""
    return (images.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _shift(x: Tensor, dx: int, dy: int) -> Tensor:
    """Content moves by (dx, dy) pixels; what comes in repeats the border."""
    if dx == 0 and dy == 0:
        return x
    height, width = x.shape[-2:]
    rows = (torch.arange(height) - dy).clamp(0, height - 1)
    columns = (torch.arange(width) - dx).clamp(0, width - 1)
    return x[..., rows, :][..., columns]


def _shift_flow(flow: Tensor, dx: int, dy: int) -> Tensor:
    """Flow lives on a grid FLOW_STRIDE coarser than the shift."""
    full = F.interpolate(flow, scale_factor=FLOW_STRIDE, mode="nearest")
    return F.avg_pool2d(_shift(full, dx, dy), FLOW_STRIDE)
