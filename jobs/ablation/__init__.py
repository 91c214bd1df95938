"""Which tier of the pyramid buys what: arms that differ in one thing, at a matched budget, with seeds and intervals.

An `Arm` is a name and a function from `Tiers` and a number of demonstrations to a mixture; `ARMS` has those that giza knows,
`prepare` makes the tiers, `jobs.ablate` runs arms by demonstrations by seeds, and a `Study` says what is shown.
"""

# ruff: noqa: F401 - the names are for type checkers; `door` imports them
from __future__ import annotations

from typing import TYPE_CHECKING

from corpora.door import door

if TYPE_CHECKING:
    from jobs.ablation.arms import ARMS, Arm
    from jobs.ablation.settings import Budget, TierData
    from jobs.ablation.study import Study
    from jobs.ablation.tiers import Tiers, prepare

__getattr__, __dir__, __all__ = door(
    __name__,
    {
        "jobs.ablation.arms": "ARMS Arm",
        "jobs.ablation.settings": "Budget TierData",
        "jobs.ablation.study": "Study",
        "jobs.ablation.tiers": "Tiers prepare",
    },
)
