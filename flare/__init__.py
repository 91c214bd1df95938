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

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flare.collapse import AlignmentReport, CollapseAlarm, CollapseMonitor
    from flare.config import ActionAwareConfig, FlareConfig
    from flare.objective import AlignmentHead, alignment_loss
    from flare.targets import TargetEncoder, build_target
    from flare.vision import FrozenText, FrozenVision

_HOMES = {
    "collapse": ("AlignmentReport", "CollapseAlarm", "CollapseMonitor"),
    "config": ("ActionAwareConfig", "FlareConfig"),
    "objective": ("AlignmentHead", "alignment_loss"),
    "targets": ("TargetEncoder", "build_target"),
    "vision": ("FrozenText", "FrozenVision"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ActionAwareConfig",
    "AlignmentHead",
    "AlignmentReport",
    "CollapseAlarm",
    "CollapseMonitor",
    "FlareConfig",
    "FrozenText",
    "FrozenVision",
    "TargetEncoder",
    "alignment_loss",
    "build_target",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flare' has no attribute '{name}'")
    return getattr(importlib.import_module(f"flare.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
