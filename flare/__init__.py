"""FLARE: future latent representation alignment (arXiv 2505.15659), and the frozen models that embeddings stand on.

A video without actions still shows what happens next. FLARE gives a policy's diffusion transformer M extra tokens, the
future tokens, and asks that their states, midway through the network, point where an embedding of the observation a horizon
later points (0.8 s, say):

    loss = flow matching + coefficient * (1 - cosine(head(states of the future tokens), target(future images)))

A sample without actions (people's video) trains by the second part alone, one without a future by the first alone.

    FlareConfig       the settings: what the target is, how far ahead, how strongly
    build_target      settings -> TargetEncoder: future images [B, V, 3, S, S] -> M tokens [B, M, D], no gradients
    AlignmentHead     states [B, M, W] -> predictions [B, M, D]
    alignment_loss    predictions and targets -> [B]
    CollapseMonitor   is the loss worth anything? what the mean target, or a copy of the present, would reach
    FrozenVision, FrozenText   patch and word tokens of Hugging Face models; also the feature targets of lapa

The policy needs none of it to act. Names are imported when they are first used, so that `import flare` is cheap.
"""

# ruff: noqa: F401 - the names are for type checkers; `door` imports them
from __future__ import annotations

from typing import TYPE_CHECKING

from corpora.door import door

if TYPE_CHECKING:
    from flare.collapse import AlignmentReport, CollapseAlarm, CollapseMonitor
    from flare.config import ActionAwareConfig, FlareConfig
    from flare.objective import AlignmentHead, alignment_loss
    from flare.targets import TargetEncoder, build_target
    from flare.vision import FrozenText, FrozenVision

__getattr__, __dir__, __all__ = door(
    __name__,
    {
        "flare.collapse": "AlignmentReport CollapseAlarm CollapseMonitor",
        "flare.config": "ActionAwareConfig FlareConfig",
        "flare.objective": "AlignmentHead alignment_loss",
        "flare.targets": "TargetEncoder build_target",
        "flare.vision": "FrozenText FrozenVision",
    },
)
