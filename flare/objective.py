"""FLARE's objective: the states of future tokens, aligned with an embedding of the observation a horizon later.

arXiv 2505.15659: M learned future tokens join the sequence of the policy's diffusion transformer (DiT); their states
after layer 6 of 8 pass an MLP and meet the target by 1 - cosine over the *feature* axis.
    loss = flow matching + coefficient * alignment
A sample without actions takes the alignment only, a sample without a future the flow matching only; `align` says how much
each sample's alignment counts.
Shapes: B batch, M future tokens, W width of the DiT, D width of the target.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corpora.store.told import listed
from flare import ranks


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
    """[B]: 1 - cosine(predicted, target), the mean over a sample's tokens; float32, in [0, 2], 0 without a future.

        loss_b = mean_m (1 - <p_bm, t_bm> / (|p_bm| |t_bm|))        <,> and | | over the D features

    `predicted`, `target` [B, M, D]; `has_future` bool [B]; `token_mask` bool [B, M]: False where the target's token shows a
    camera that is missing (default: none is). No gradients reach the target. A sample without a future gives exactly 0 and
    zero gradients; what stands in `target` there, NaN included, does not matter.

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
            f"targets of samples {listed(broken)} hold NaN or infinity: the target encoder or its images are broken; look at them "
            "before training on"
        )
    distance = (1 - F.cosine_similarity(predicted, target, dim=-1, eps=1e-6)).masked_fill(~counts, 0.0)
    return distance.sum(1) / counts.sum(1).clamp_min(1)


def mean_alignment(loss: Tensor, counted: Tensor, align: Tensor | None = None) -> Tensor:
    """The batch's scalar: mean of `loss` [B] over the samples of all ranks that are `counted` (bool [B]), each times its dataset's weight
    `align` [B] (default 1; 2 doubles the coefficient for that dataset, 0 leaves its future alone)."""
    weighted = loss if align is None else loss * align
    return weighted.sum() / ranks.counted(counted.sum())


def _check_shapes(predicted: Tensor, target: Tensor, has_future: Tensor, token_mask: Tensor | None) -> None:
    if predicted.ndim != 3 or predicted.shape != target.shape:
        raise ValueError(
            f"predicted {list(predicted.shape)} against target {list(target.shape)}: both are [B, M, D]; set the number of future "
            "tokens and the head's width by the target encoder's `tokens` and `dim`"
        )
    check_mask("has_future", has_future, "predicted", predicted, "[B]")
    if token_mask is not None:
        check_mask("token_mask", token_mask, "predicted", predicted, "[B, M]")


def check_mask(name: str, mask: Tensor, of: str, values: Tensor, axes: str) -> None:
    """Raises ValueError unless `mask` is bool, of the first axes of `values`, which are called `axes`."""
    if mask.dtype != torch.bool or mask.shape != values.shape[: axes.count(",") + 1]:
        raise ValueError(
            f"{name} {mask.dtype} {list(mask.shape)} for {of} {list(values.shape)}: it is bool {axes}, True where there is one"
        )
