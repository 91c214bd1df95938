"""Which tier of the pyramid buys what: arms that differ in one thing, at a matched budget, with seeds and intervals.

An `Arm` is a name and a function from `Tiers` and a number of demonstrations to a mixture; `ARMS` has those that giza knows,
`prepare` makes the tiers, `jobs.ablate` runs arms by demonstrations by seeds, and a `Study` says what is shown.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.ablation.arms import ARMS, Arm
    from jobs.ablation.settings import Budget, TierData
    from jobs.ablation.study import Study
    from jobs.ablation.tiers import Tiers, prepare

_HOME = {
    "ARMS": "arms",
    "Arm": "arms",
    "Budget": "settings",
    "Study": "study",
    "TierData": "settings",
    "Tiers": "tiers",
    "prepare": "tiers",
}

__all__ = ["ARMS", "Arm", "Budget", "Study", "TierData", "Tiers", "prepare"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jobs.ablation' has no attribute '{name}'")
    return getattr(importlib.import_module(f"jobs.ablation.{_HOME[name]}"), name)
