"""Pictures that a client sends as its camera took them, painted as those were that the policy learned from.

A policy whose pictures were painted (`Embodiment.views`) is sent, beside each of them, where the agent is:

    mask.head    bool or uint8 [B, T, H, W]: 0 where the agent is not; of the picture's aspect, at any size
    point.head   float [B, T, 2]: x and y in pixels of the mask, between the tips of the gripper; NaN where it is not known

Nested: {"mask": {"head": ...}, "point": {"head": ...}}. Where nobody is put in (agent none) there is no need of a point. What was
seen behind the agent is remembered for each client, until it resets; between two requests nothing is seen, in training every
row was (a background that is inpainted needs no memory).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.agent.painting import NoAgent, Painter, painter_of
from corpora.agent.track import known_track, resize_mask
from corpora.video.view import View

MASK, POINT = "mask", "point"
MAX_PAINTERS = 64
"""Whose background is remembered; of more, who was served longest ago begins anew."""
_ASPECT_OFF = 0.02


class ServedViews:
    """The painters of a server's clients."""

    def __init__(self, views: Mapping[str, View]) -> None:
        """`views`: camera, as clients call it -> its view. Raises ValueError as `painter_of`."""
        self.views = dict(views)
        for view in self.views.values():
            painter_of(view)
        self._painters: OrderedDict[tuple[bytes, str, int], Painter] = OrderedDict()

    def reset(self, client: bytes) -> None:
        """Another episode begins."""
        for key in [key for key in self._painters if key[0] == client]:
            del self._painters[key]

    def paint(
        self,
        camera: str,
        frames: NDArray[np.uint8],
        there: NDArray[np.bool_],
        observation: Mapping[str, Any],
        *,
        nested: bool,
        batched: bool,
        client: bytes,
    ) -> NDArray[np.uint8]:
        """`frames` [B, T, H, W, 3] painted; those that are not `there` [B, T] stay as they are. Raises ValueError where the
        observation does not say where the agent is."""
        masks = self._mask(camera, frames, observation, nested, batched)
        points = self._point(camera, masks, observation, nested, batched)
        height, width = frames.shape[2:4]
        scale = np.array([width / masks.shape[3], height / masks.shape[2]])
        painted = frames.copy()
        for row, moment in np.argwhere(there).tolist():
            mask = resize_mask(masks[row, moment], width, height)
            point = (points[row, moment] + 0.5) * scale - 0.5
            track = known_track(mask[None], point[None])
            painted[row, moment] = self._painter(client, camera, row).paint(frames[row, moment][None], track).frames[0]
        return painted

    def _painter(self, client: bytes, camera: str, row: int) -> Painter:
        key = client, camera, row
        if key not in self._painters:
            self._painters[key] = painter_of(self.views[camera])
        self._painters.move_to_end(key)
        while len(self._painters) > MAX_PAINTERS:
            self._painters.popitem(last=False)
        return self._painters[key]

    def _mask(
        self, camera: str, frames: NDArray[np.uint8], observation: Mapping[str, Any], nested: bool, batched: bool
    ) -> NDArray[np.bool_]:
        mask = self._sent(MASK, camera, observation, nested)
        mask = mask if batched else mask[None]
        shape, aspect = mask.shape, frames.shape[3] / frames.shape[2]
        fits = (
            mask.ndim == 4 and shape[:2] == frames.shape[:2] and 0 not in shape and mask.dtype in (np.bool_, np.uint8)
        )
        if not fits or abs(shape[3] / shape[2] / aspect - 1) > _ASPECT_OFF + 1 / min(shape[2:]):
            wanted = [*frames.shape[:2], *frames.shape[2:4]]
            raise ValueError(
                f"{MASK}.{camera}: {mask.dtype} {list(shape)}: must be bool or uint8 {wanted}, as video.{camera}, or another size "
                "of the same aspect"
            )
        return mask.astype(np.bool_)

    def _point(
        self, camera: str, masks: NDArray[np.bool_], observation: Mapping[str, Any], nested: bool, batched: bool
    ) -> NDArray[np.float64]:
        """[B, T, 2]."""
        shape = (*masks.shape[:2], 2)
        if self.views[camera].agent == NoAgent.name:
            return np.full(shape, np.nan)
        point = self._sent(POINT, camera, observation, nested)
        point = point if batched else point[None]
        if point.dtype.kind != "f" or point.shape != shape:
            raise ValueError(
                f"{POINT}.{camera}: {point.dtype} {list(point.shape)}: must be float {list(shape)}, x and y"
            )
        return point.astype(np.float64)

    def _sent(self, kind: str, camera: str, observation: Mapping[str, Any], nested: bool) -> NDArray[Any]:
        place = observation.get(kind) if nested else observation
        value = place.get(camera if nested else f"{kind}.{camera}") if isinstance(place, Mapping) else None
        if not isinstance(value, np.ndarray):
            needed = MASK if self.views[camera].agent == NoAgent.name else f"{MASK} and {POINT}"
            raise ValueError(
                f"{kind}.{camera} is missing: the policy learned from pictures {self.views[camera]} and acts on no others; send "
                f"{needed} of {camera} beside its picture, and the server paints it"
            )
        return value
