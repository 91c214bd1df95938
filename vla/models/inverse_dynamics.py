"""An inverse dynamics model: from two images, present and a horizon later, to the chunk of actions between them.

present, future  -->  [present | future | future - present] (9 channels)  -->  convolutions  -->  MLP  -->  [H, Da]

Trained on a robot's episodes it labels video without actions with pseudo-actions (Baker et al. 2022, VPT; GR00T N1, 2025).
GR00T's is a flow-matching transformer; this one regresses the mean chunk, and trains in minutes on a CPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from corpora.store.decode import decode
from corpora.store.files import write_json, written_whole
from corpora.store.told import listed
from vla.embodiment import Embodiment
from vla.evaluating import evaluating
from vla.models.config import InverseDynamicsConfig
from vla.models.small import crop_images, scaled

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT = 1
"""Of CONFIG."""
_GRID = 4
"""Cells a side that features are pooled to: where something moved matters, to a fraction of the image."""


class InverseDynamics(nn.Module):
    """The chunk, encoded in the robot's action space, of two images of one camera."""

    def __init__(self, config: InverseDynamicsConfig, facts: Embodiment) -> None:
        """Raises ValueError for an action space that needs the state: video without actions has none."""
        super().__init__()
        if facts.action_space.needs_state:
            raise ValueError(
                "the action is delta or relative to the state, which video without actions does not show: use absolute "
                "actions"
            )
        self.config, self.facts = config, facts
        widths = (9, *config.channels)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(widths[-1] * _GRID**2, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.horizon * facts.action_space.encoded_action_dim),
        )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, present: Tensor, future: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] twice -> encoded chunk [B, H, Da']. Raises ValueError for images of another size."""
        size = self.config.image_size
        if present.shape != future.shape or tuple(present.shape[1:]) != (3, size, size):
            raise ValueError(
                f"images {list(present.shape)} and {list(future.shape)}: both must be [B, 3, {size}, {size}]"
            )
        pair = scaled(crop_images(torch.stack([present, future], 1), self.config.crop, self.training))
        if self.training and self.config.light:
            change = self.config.light * (2 * torch.rand(2, len(pair), 1, 1, 1, 1, device=pair.device) - 1)
            pair = pair * (1 + change[0]) + 2 * change[1]
        first, second = pair.unbind(1)
        features = self.encoder(torch.cat([first, second, second - first], 1))
        pooled = F.adaptive_avg_pool2d(features, _GRID).flatten(1)
        return self.head(pooled).unflatten(1, (self.config.horizon, -1))

    def loss(self, present: Tensor, future: Tensor, action: Tensor, mask: Tensor) -> Tensor:
        """Mean square error over the known steps: encoded chunks [B, H, Da'], mask bool [B, H]; 0 where none is known."""
        error = (self(present, future) - action).square().mean(-1)
        return torch.where(mask, error, 0.0).sum() / mask.sum().clamp(min=1)

    @torch.no_grad()
    def predict(self, present: Tensor, future: Tensor) -> NDArray[np.float32]:
        """Raw chunks [B, H, Da] for uint8 images [B, 3, S, S]; in evaluation mode, whatever the mode is."""
        with evaluating(self):
            encoded = self(present.to(self.device), future.to(self.device)).float().cpu().numpy()
        return self.facts.action_space.decode_action(None, encoded)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes model.safetensors and config.json (with the robot and its action space), the latter last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / WEIGHTS) as temporary:
            save_model(self, str(temporary), metadata={"format": "pt"})
        values = {
            "giza_inverse_dynamics": FORMAT,
            "model": dataclasses.asdict(self.config),
            "robot": self.facts.to_json(),
        }
        write_json(folder / CONFIG, values)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> InverseDynamics:
        """Inverse of `save_pretrained`, in evaluation mode. Raises ValueError where the folder holds no such model."""
        folder = Path(folder).expanduser()
        path = folder / CONFIG
        if not path.is_file() or not (folder / WEIGHTS).is_file():
            raise ValueError(f"'{folder}' holds no inverse dynamics model: it lacks {CONFIG} or {WEIGHTS}")
        try:
            values = json.loads(path.read_text("utf-8"))
            if values["giza_inverse_dynamics"] != FORMAT:
                raise ValueError(f"format {values['giza_inverse_dynamics']!r}, this version reads {FORMAT}")
            config = decode(InverseDynamicsConfig, values["model"], what="model")
            model = cls(config, Embodiment.from_json(values["robot"]))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no inverse dynamics model of this version: {error}") from error
        missing, unexpected = load_model(model, str(folder / WEIGHTS), strict=False)
        if missing or unexpected:
            raise ValueError(f"{folder / WEIGHTS}: weights do not fit {CONFIG}: {listed([*missing, *unexpected], 3)}")
        return model.eval()


def saved_hash(folder: str | Path) -> str:
    """16 hex digits of a saved model's weights and configuration."""
    digest = hashlib.blake2b(digest_size=8)
    for name in (CONFIG, WEIGHTS):
        digest.update((Path(folder) / name).read_bytes())
    return digest.hexdigest()
