"""FLARE's settings; this module imports no torch, so that a command can list them at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

TargetKind = Literal["frozen", "backbone", "action_aware", "ema"]


@dataclass(frozen=True)
class ActionAwareConfig:
    """Sizes of the encoder that learns its embedding by predicting actions, and of the head that teaches it."""

    dim: int = 256
    """D: width of the target (the paper: that of its vision-language model)."""
    layers: int = 4
    """Layers of self-attention over image and word tokens."""
    reads: int = 2
    """Layers in which the M queries read them."""
    heads: int = 8
    """Attention heads of both."""
    words: bool = False
    """Read the instruction too, by the text tower of `target_name` (SigLIP2, CLIP)."""
    head_dim: int = 256
    """Width of the flow-matching head, which serves training alone."""
    head_layers: int = 4
    """Its depth (the paper: 8)."""


@dataclass(frozen=True)
class FlareConfig:
    """What is aligned with what, and how strongly. How many future tokens there are and after which layer they are read is
    the policy's (model.future-tokens, model.dit.future-layer): 32 and 6 of 8 in the paper; 4 of 8 was clearly worse."""

    coefficient: float = 0.2
    """Weight of the alignment beside the flow-matching loss; in the paper anything in 0.1-0.5 does."""
    future_s: float = 0.8
    """Seconds from the present to the observation that is aligned: 16 steps in the paper, which is 0.8 s at 20 Hz."""
    target: TargetKind = "ema"
    """frozen: a Hugging Face vision model, pooled; backbone: the policy's own frozen vision model, pooled, its features computed
    once a frame and kept; ema: a slow copy of the policy's own vision, pooled; action_aware: a slow copy of an encoder that is
    trained beside the policy to predict the actions."""
    target_name: str = ""
    """Hub name or folder of the vision model (frozen; action_aware: empty for a copy of the policy's own vision)."""
    ema: float = 0.995
    """Decay of the slow copy per update; 1: it does not move."""
    change: bool = False
    """The target is the future's embedding less the present's: what changes. The embedding itself is mostly what the image shows
    anyway."""
    hidden: int = 0
    """Inner width of the alignment's MLP; 0: the DiT's."""
    standardise: bool = False
    """Subtract each feature's running mean, token by token, and divide by its deviation before the cosine. Features of vision
    models share one big mean, and a still camera's tokens each a background, which alone reach a cosine of 0.9 and more:
    without it the loss says little."""
    action_aware: ActionAwareConfig = field(default_factory=ActionAwareConfig)
    """The encoder of target action_aware."""

    def __post_init__(self) -> None:
        if self.coefficient < 0:
            raise ValueError(f"coefficient {self.coefficient}: 0 (off) or positive; 0.2 is FLARE's")
        if self.future_s <= 0:
            raise ValueError(
                f"future_s {self.future_s}: the target is an observation later than the present, in seconds"
            )
        if self.target not in get_args(TargetKind):
            raise ValueError(f"target '{self.target}': choose frozen, backbone, action_aware or ema")
        if self.target == "frozen" and not self.target_name:
            raise ValueError("target 'frozen' without target_name: give a vision model, e.g. facebook/dinov2-base")
        if not 0 <= self.ema <= 1:
            raise ValueError(f"ema {self.ema}: a decay in [0, 1]; 0.995 is FLARE's, 1 freezes the target")
        if self.target == "action_aware" and self.ema == 1:
            raise ValueError("ema 1 with target 'action_aware': the target would stay random; 0.995 is FLARE's")
        if self.action_aware.words and not self.target_name:
            raise ValueError("action_aware.words without target_name: give a model with a text tower, e.g. SigLIP2")
        if self.hidden < 0:
            raise ValueError(f"hidden {self.hidden}: a width, or 0 for the DiT's")
