"""FLARE's objective: the states of future tokens, aligned with an embedding of the observation a horizon later.

arXiv 2505.15659: M learned future tokens join the sequence of the policy's diffusion transformer (DiT); their states
after layer 6 of 8 pass an MLP and meet the target by 1 - cosine over the *feature* axis.
    loss = flow matching + coefficient * alignment
A sample without actions takes the alignment only, a sample without a future the flow matching only.
Shapes: B batch, M future tokens, W width of the DiT, D width of the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TargetKind = Literal["frozen", "action_aware", "ema"]


@dataclass(frozen=True)
class FlareConfig:
    """What is aligned with what, and how strongly."""

    tokens: int = 32
    """M: future tokens in the DiT's sequence, and tokens of the target."""
    layer: int = 6
    """The DiT's layer, counted from 1, whose output is aligned: 6 of 8 in the paper; 4 of 8 was clearly worse."""
    coefficient: float = 0.2
    """Weight of the alignment beside the flow-matching loss; in the paper anything in 0.1-0.5 does."""
    future_s: float = 0.8
    """Seconds from the present to the observation that is aligned: 16 steps in the paper, which is 0.8 s at 20 Hz."""
    target: TargetKind = "ema"
    """frozen: a Hugging Face vision model, pooled; action_aware: self-attention and Q-former pre-trained on actions; ema:
    a slow copy of the policy's own vision, pooled."""
    target_name: str = ""
    """Hub name or folder of the vision model (frozen, and action_aware where its vision is a hub's)."""
    ema: float = 0.995
    """Decay of the target's average per update (ema, action_aware); 1: the target does not move."""
    hidden: int = 0
    """Inner width of the alignment's MLP; 0: the DiT's."""
    standardise: bool = False
    """Subtract each feature's running mean, token by token, and divide by its deviation before the cosine. Features of vision
    models share one big mean, and a still camera's tokens each a background, which alone reach a cosine of 0.9 and more: without
    it the loss says little."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens {self.tokens}: at least one future token; 32 is FLARE's")
        if self.layer < 1:
            raise ValueError(
                f"layer {self.layer}: layers count from 1; three quarters of the depth is FLARE's (6 of 8)"
            )
        if self.coefficient < 0:
            raise ValueError(f"coefficient {self.coefficient}: 0 (off) or positive; 0.2 is FLARE's")
        if self.future_s <= 0:
            raise ValueError(
                f"future_s {self.future_s}: the target is an observation later than the present, in seconds"
            )
        if self.target not in ("frozen", "action_aware", "ema"):
            raise ValueError(f"target '{self.target}': choose frozen, action_aware or ema")
        if self.target == "frozen" and not self.target_name:
            raise ValueError("target 'frozen' without target_name: give a vision model, e.g. facebook/dinov2-base")
        if not 0 <= self.ema <= 1:
            raise ValueError(f"ema {self.ema}: a decay in [0, 1]; 0.995 is FLARE's, 1 freezes the target")
        if self.hidden < 0:
            raise ValueError(f"hidden {self.hidden}: a width, or 0 for the DiT's")

    def check_depth(self, layers: int) -> None:
        """Raises ValueError where a DiT of `layers` layers has no layer `layer`."""
        if self.layer > layers:
            raise ValueError(
                f"FLARE reads layer {self.layer} of a DiT of {layers} layers: choose 1 to {layers}; FLARE's place is "
                f"{max(1, round(0.75 * layers))}"
            )


class AlignmentHead(nn.Module):
    """Three-layer MLP from the DiT's width to the target's, on each future token alone.

    `hidden` 0 is `width`. Not started at zero: the cosine of a zero vector has no direction.
    """

    def __init__(self, width: int, target_dim: int, *, tokens: int = 32, hidden: int = 0) -> None:
        super().__init__()
        self.tokens = tokens
        self.width = width
        hidden = hidden or width
        self.net = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, target_dim),
        )

    def forward(self, states: Tensor) -> Tensor:
        """States of the future tokens [B, M, W] -> predicted targets [B, M, D]. Raises ValueError on another shape."""
        if states.ndim != 3 or states.shape[1:] != (self.tokens, self.width):
            raise ValueError(
                f"states {list(states.shape)} for a head of [B, {self.tokens}, {self.width}]: pass the future tokens alone, cut "
                "from the DiT's sequence"
            )
        return self.net(states)


def alignment_loss(
    predicted: Tensor, target: Tensor, has_future: Tensor, *, token_mask: Tensor | None = None
) -> Tensor:
    """Mean of 1 - cosine(predicted, target) over tokens, then over the samples that have a future; float32, in [0, 2].

        loss = mean_{b: has_future} mean_m (1 - <p_bm, t_bm> / (|p_bm| |t_bm|))        <,> and | | over the D features

    `predicted`, `target` [B, M, D]; `has_future` bool [B]; `token_mask` bool [B, M]: False where the target's token shows a
    camera that is missing (default: none is). No gradients reach the target. A batch without any future gives exactly 0
    and zero gradients; what stands in `target` there, NaN included, does not matter.

    Raises ValueError on shapes or kinds that do not fit, with both of them, and where a target that counts is not finite.
    """
    _check_shapes(predicted, target, has_future, token_mask)
    counts = has_future[:, None].expand(predicted.shape[:2])
    if token_mask is not None:
        counts = counts & token_mask
    # masked_fill rather than a product: 0 * NaN is NaN, and zero gradients still reach every parameter (DDP waits for them)
    predicted = predicted.float().masked_fill(~counts[..., None], 0.0)
    target = target.detach().float().masked_fill(~counts[..., None], 0.0)
    if not bool(target.isfinite().all()):
        broken = (~target.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"targets of samples {broken[:8]} hold NaN or infinity: the target encoder or its pictures are broken; look at them "
            "before training on"
        )
    distance = (1 - F.cosine_similarity(predicted, target, dim=-1, eps=1e-6)).masked_fill(~counts, 0.0)
    per_sample = distance.sum(1) / counts.sum(1).clamp_min(1)
    return per_sample.sum() / counts.any(1).sum().clamp_min(1)


def _check_shapes(predicted: Tensor, target: Tensor, has_future: Tensor, token_mask: Tensor | None) -> None:
    if predicted.ndim != 3 or predicted.shape != target.shape:
        raise ValueError(
            f"predicted {list(predicted.shape)} against target {list(target.shape)}: both are [B, M, D]; set the number of future "
            "tokens and the head's width by the target encoder's `tokens` and `dim`"
        )
    if has_future.dtype != torch.bool or has_future.shape != predicted.shape[:1]:
        raise ValueError(
            f"has_future {has_future.dtype} {list(has_future.shape)} for predicted {list(predicted.shape)}: it is bool [B], "
            "True where a sample has a future"
        )
    if token_mask is not None and (token_mask.dtype != torch.bool or token_mask.shape != predicted.shape[:2]):
        raise ValueError(
            f"token_mask {token_mask.dtype} {list(token_mask.shape)} for predicted {list(predicted.shape)}: it is bool [B, M]"
        )
