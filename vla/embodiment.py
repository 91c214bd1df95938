"""An embodiment: what a policy must know of one robot to act on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corpora.video.image import SquaredBy
from corpora.video.view import View
from vla.actions.space import ActionSpace


@dataclass(frozen=True)
class Embodiment:
    """Kept in the policy's checkpoint."""

    name: str
    """Also of the weights that act, which its place among the policy's names chooses."""
    action_space: ActionSpace
    """From the robot's numbers to the policy's and back."""
    step_s: float
    """Seconds between two steps of a chunk."""
    cameras: tuple[str, ...]
    """Names of its cameras, in the order in which images are given."""
    modality: dict[str, Any] | None = None
    """Named parts of its state and action, as meta/modality.json has them; None: those of the action space."""
    squared_by: SquaredBy = ""
    """How its images that are not square are made so; "": not known, of earlier versions, or they are square."""
    made_by: str = ""
    """Of latent actions: the model that made them, and the gap of its pairs; "": a robot's own, or not known."""
    views: Mapping[str, View] = field(default_factory=dict)
    """Camera -> how its pictures were painted in training, and must be in acting; others are as the camera sees them."""

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; `from_json` restores the same bits."""
        return {
            "codec": self.action_space.to_json(),
            "step_s": self.step_s,
            "cameras": list(self.cameras),
            "slot": self.name,
            "modality": self.modality,
            **({"squared_by": self.squared_by} if self.squared_by else {}),
            **({"made_by": self.made_by} if self.made_by else {}),
            **({"views": {name: view.to_json() for name, view in self.views.items()}} if self.views else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Embodiment:
        """Inverse of `to_json`. Raises KeyError or ValueError for what is missing or does not fit."""
        space = ActionSpace.from_json(values["codec"])
        cameras = tuple(values["cameras"])
        modality, made_by = values.get("modality"), str(values.get("made_by", ""))
        squared_by = values.get("squared_by", "")
        views = {
            str(name): View.from_json(view, what=f"view of camera {name}")
            for name, view in values.get("views", {}).items()
        }
        return cls(str(values["slot"]), space, float(values["step_s"]), cameras, modality, squared_by, made_by, views)
