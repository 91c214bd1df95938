"""What every policy of this house can do, whatever is inside: act on raw observations, and be saved and loaded."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vla.actions.space import ActionCodec
from vla.batch import PolicyBatch, pad_last
from vla.models.config import PolicyConfig
from vla.models.small import Tokens


@dataclass(frozen=True)
class RobotFacts:
    """What a policy must know of a robot to act on it: kept in the checkpoint."""

    codec: ActionCodec
    """From the robot's numbers to the policy's and back."""
    step_s: float
    """Seconds between two steps of a chunk."""
    cameras: tuple[str, ...]
    """Names of its cameras, in the order in which pictures are given."""
    slot: str = ""
    """Embodiment slot whose weights act."""
    modality: dict[str, Any] | None = None
    """Named parts of its state and action, as meta/modality.json has them; None: those of the codec."""

    def to_json(self) -> dict[str, Any]:
        return {
            "codec": self.codec.to_json(),
            "step_s": self.step_s,
            "cameras": list(self.cameras),
            "slot": self.slot,
            "modality": self.modality,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RobotFacts:
        codec = ActionCodec.from_json(values["codec"])
        modality = values.get("modality")
        return cls(codec, float(values["step_s"]), tuple(values["cameras"]), str(values["slot"]), modality)


@dataclass(frozen=True)
class PolicyOutput:
    """Of one training batch."""

    action_loss: Tensor
    """[B]: mean square error over the known entries of each sample; 0 where none is known."""
    has_action: Tensor
    """bool [B]."""
    future_states: Tensor | None
    """[B, K, M, W]: the future tokens' states for each of K flow draws; None without future tokens."""
    tokens: Tokens
    """Of System 2."""


class ChunkPolicy(nn.Module, ABC):
    """A policy that answers an observation by a chunk of actions."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.robots: dict[str, RobotFacts] = {}
        """Embodiment -> what it is; filled by training."""
        self.measured: dict[str, Any] = {}
        """What was measured of this policy; its model card shows it."""

    @abstractmethod
    def forward(self, batch: PolicyBatch) -> PolicyOutput:
        """Losses of a batch."""

    @abstractmethod
    def think(self, pictures: Tensor, picture_mask: Tensor, instruction: Sequence[str]) -> Tokens:
        """System 2: tokens of uint8 [B, V, T, 3, S, S] and B instructions."""

    @abstractmethod
    def sample(
        self,
        tokens: Tokens,
        state: Tensor,
        state_mask: Tensor,
        slot: Tensor,
        action_dim: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """System 1: encoded actions [B, H, max_action_dim] for encoded, padded states [B, Ds] and slots int64 [B]."""

    @abstractmethod
    def slot(self, name: str) -> int:
        """Number of an embodiment's slot. Raises ValueError where there is none."""

    @abstractmethod
    def add_embodiment(self, name: str, *, start_from: str | None = None) -> int:
        """A slot for a new robot, with the weights of another where `start_from` names it."""

    @property
    def frame_encoder(self) -> nn.Module | None:
        """uint8 [B, 3, S, S] -> tokens [B, N, D], what FLARE's targets are copied from; None where there is none."""
        return None

    @property
    def future_tokens(self) -> int:
        """M: learned tokens whose states FLARE aligns with the future; 0 where there are none."""
        return 0

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def codecs(self) -> dict[str, ActionCodec]:
        """Embodiment -> codec."""
        return {name: facts.codec for name, facts in self.robots.items()}

    def robot(self, embodiment: str) -> RobotFacts:
        """Raises ValueError for a robot that the policy was not trained on."""
        if embodiment not in self.robots:
            known = ", ".join(self.robots) or "none"
            raise ValueError(
                f"embodiment '{embodiment}': this policy was trained on {known}; ground it first with giza ground "
                f"--embodiment {embodiment}"
            )
        return self.robots[embodiment]

    def step_s(self, embodiment: str) -> float:
        """Seconds between the steps of a chunk."""
        return self.robot(embodiment).step_s

    @torch.no_grad()
    def act(
        self,
        pictures: Tensor,
        picture_mask: Tensor,
        instruction: Sequence[str],
        state: NDArray[np.floating[Any]] | None,
        embodiment: str,
        *,
        generator: torch.Generator | None = None,
    ) -> NDArray[np.float32]:
        """Raw actions float32 [B, H, Da] for pictures uint8 [B, V, T, 3, S, S] and raw states [B, Ds]."""
        tokens = self.think(pictures.to(self.device), picture_mask.to(self.device), instruction)
        return self.act_on(tokens, state, embodiment, generator=generator)

    @torch.no_grad()
    def act_on(
        self,
        tokens: Tokens,
        state: NDArray[np.floating[Any]] | None,
        embodiment: str,
        *,
        generator: torch.Generator | None = None,
    ) -> NDArray[np.float32]:
        """As `act`, from tokens that System 2 made before."""
        facts = self.robot(embodiment)
        codec, size = facts.codec, len(tokens.features)
        if state is None:
            encoded = torch.zeros(size, self.config.max_state_dim)
            state_mask = torch.zeros(size, self.config.max_state_dim, dtype=torch.bool)
        else:
            encoded, state_mask = pad_last(
                torch.from_numpy(np.asarray(codec.encode_state(state), np.float32)), self.config.max_state_dim
            )
        slot = torch.full((size,), self.slot(facts.slot or embodiment), device=self.device)
        actions = self.sample(
            tokens, encoded.to(self.device), state_mask.to(self.device), slot, codec.action_dim, generator
        )
        chunk = actions[..., : codec.action_dim].float().cpu().numpy()
        return np.asarray(codec.decode_action(state, chunk), np.float32)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json, model.safetensors and README.md (the model card); see vla/checkpoint.py."""
        from vla.checkpoint import save_policy

        save_policy(self, Path(folder))

    @staticmethod
    def from_pretrained(name: str | Path, *, revision: str | None = None) -> ChunkPolicy:
        """A policy from a folder, or from the hub by name. Raises ValueError where there is none."""
        from vla.checkpoint import load_policy

        return load_policy(name, revision=revision)

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Uploads what `save_pretrained` writes; returns the address."""
        from vla.checkpoint import push_policy

        return push_policy(self, repo_id, private=private, token=token)

    def robots_json(self) -> str:
        return json.dumps({name: facts.to_json() for name, facts in self.robots.items()}, indent=1)


def shown_state(state_mask: Tensor, dropout: float) -> Tensor:
    """bool [B, Ds]: the mask without the states of a random share `dropout` of the samples."""
    if not dropout:
        return state_mask
    hidden: Tensor = torch.rand(len(state_mask), 1, device=state_mask.device) < dropout
    return state_mask & ~hidden
