"""What a policy is made of, as it is written to config.json and read back."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from vla.models.dit import DitConfig
from vla.models.flow_matching import FlowConfig
from vla.models.small import SmallBackboneConfig


@dataclass(frozen=True)
class VlmConfig:
    """A Hugging Face vision-language model as System 2."""

    name: str = ""
    """On the hub, or a folder; empty: the `small` backbone."""
    layer: int = 12
    """Hidden states of this layer are read; those above are cut off."""
    self_attention_layers: int = 0
    """Layers of self-attention over its tokens before the DiT (N1.5: 4)."""
    project_to: int = 0
    """A linear layer to this width before the DiT (N1: 1536); 0: none."""
    layer_norm: bool = True
    """A layer norm before the DiT (N1.5 and later)."""


@dataclass(frozen=True)
class PolicyConfig:
    """A policy's parts and sizes. What belongs to one robot (dimensions, statistics, rates) is in its `RobotFacts`."""

    head: Literal["flow", "regression"] = "flow"
    """flow: the dual system; regression: plain convolutional behaviour cloning, the baseline `bc`."""
    image_size: int = 84
    """Height and width of the pictures that come in."""
    history_s: tuple[float, ...] = (0.0,)
    """Ages of the frames that are seen, in seconds, oldest first; 0 is the present one."""
    horizon: int = 16
    """Steps of an action chunk."""
    max_state_dim: int = 64
    """Width that states are padded to."""
    max_action_dim: int = 32
    """Width that actions are padded to."""
    future_tokens: int = 0
    """Learned tokens in the DiT's sequence (N1.5 and FLARE: 32)."""
    state_dropout: float = 0.0
    """Share of training samples whose state is hidden, so that pictures are looked at."""
    slots: int = 32
    """Embodiments that there is room for (GR00T: 32)."""
    hidden: int = 1024
    """Inner width of the state encoders and action decoders."""
    small: SmallBackboneConfig = field(default_factory=SmallBackboneConfig)
    """The backbone where `vlm` names none."""
    vlm: VlmConfig = field(default_factory=VlmConfig)
    """The backbone by name."""
    dit: DitConfig = field(default_factory=DitConfig)
    """System 1."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Its objective and sampler."""

    def __post_init__(self) -> None:
        for name in ("image_size", "horizon", "max_state_dim", "max_action_dim", "hidden", "slots"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.future_tokens < 0:
            raise ValueError(f"future_tokens {self.future_tokens}: must be at least 0")
        if not 0 <= self.state_dropout < 1:
            raise ValueError(f"state_dropout {self.state_dropout}: must be within 0 and 1")
        ages = list(self.history_s)
        if not ages or ages != sorted(set(ages), reverse=True) or ages[-1] != 0:
            raise ValueError(f"history_s {self.history_s}: ages in seconds, oldest first, the last 0; e.g. 1.0 0.5 0")
        if self.head == "regression" and self.vlm.name:
            raise ValueError("head 'regression' is the plain convolutional baseline: it takes no vlm.name")


def to_dict(config: PolicyConfig) -> dict[str, Any]:
    """As JSON has it."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> PolicyConfig:
    """The inverse of `to_dict`, also after JSON. Raises ValueError for a field that this version does not know."""
    config = _build(PolicyConfig, values, "")
    assert isinstance(config, PolicyConfig)
    return config


def _build(kind: type, values: dict[str, Any], path: str) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"policy configuration: unknown field {path}{unknown[0]}; it was written by another version of giza"
        )
    made: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            made[name] = _build(hint, value, f"{path}{name}.")
        elif typing.get_origin(hint) in (tuple, types.GenericAlias):
            made[name] = tuple(value)
        else:
            made[name] = value
    return kind(**made)
