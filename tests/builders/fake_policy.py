"""A policy without weights whose actions can be computed by hand from what it was given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from vla.noise import drawn

STATE_DIM, ACTION_DIM, HORIZON, SIZE = 5, 4, 3, 6
MODALITY = {
    "video": {
        "ego_view": {"original_key": "observation.images.ego"},
        "wrist": {"original_key": "observation.images.w"},
    },
    "state": {"hand": {"start": 3, "end": 5}, "arm": {"start": 0, "end": 3}},
    "action": {"arm": {"start": 0, "end": 3}, "gripper": {"start": 3, "end": 4}},
    "annotation": {"human.validity": {}, "human.action.task_description": {}},
}


def expected(images: Any, instruction: list[str], state: Any) -> np.ndarray[Any, Any]:
    """Actions [B, H, Da]: step + state, the brightness of both cameras, and the instruction's length."""
    steps = np.arange(HORIZON)[None, :, None]
    first, last = np.asarray(images[:, 0]), np.asarray(images[:, -1])
    columns = [
        np.asarray(state)[:, 0] + 10 * np.asarray(state)[:, 3],
        first[:, 0, 0].mean((1, 2)),
        last[:, -1, 2].mean((1, 2)),
        np.array([len(text) for text in instruction]),
    ]
    return (np.stack(columns, 1)[:, None] + steps).astype(np.float32)


class FakePolicy:
    """Two cameras ("wrist" before "ego_view"), two frames of history, 5 states, 4 actions, chunks of 3 steps of 0.05 s."""

    device = torch.device("cpu")

    def __init__(self, *, modality: dict[str, Any] | None = MODALITY) -> None:
        self.config = SimpleNamespace(history_s=(0.25, 0.0), image_size=SIZE, horizon=HORIZON)
        parts = [
            SimpleNamespace(name="claw", dims=(3,), state_dims=(3, 4)),
            SimpleNamespace(name="body", dims=(0, 1, 2), state_dims=(0, 1, 2)),
        ]
        # what the space makes of them is wider, with rotations as 6D
        space = SimpleNamespace(
            state_dim=STATE_DIM, action_dim=ACTION_DIM, parts=parts, encoded_state_dim=8, encoded_action_dim=9
        )
        cameras = ("observation.images.w", "observation.images.ego")
        self.facts = SimpleNamespace(
            name="gr1",
            action_space=space,
            step_s=0.05,
            cameras=cameras,
            modality=modality,
            squared_by="",
            views={},
        )
        self.noise: list[float] = []

    def embodiment(self, embodiment: str) -> Any:
        if embodiment != "gr1":
            raise ValueError(f"embodiment '{embodiment}': this policy was trained on gr1")
        return self.facts

    def act_batch(
        self, images: Any, image_mask: Any, instruction: Any, state: Any, embodiment: str, *, noise: Any
    ) -> Any:
        assert images.dtype == torch.uint8 and images.shape[1:] == (2, 2, 3, SIZE, SIZE)
        assert image_mask.dtype == torch.bool and image_mask.shape == images.shape[:3] and image_mask.all()
        assert isinstance(state, np.ndarray) and state.dtype == np.float32
        self.noise.append(float(drawn(noise, (len(images), 1))[0, 0]))
        return expected(images, instruction, state)
