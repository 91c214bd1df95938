"""What each arm of an ablation is for: a baseline to beat, an arm that is asked about, or a check of the instrument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from jobs.ablation.arms import Role

OLD_ROLES: dict[str, Role] = {
    "robot-only": "baseline",
    "bc": "baseline",
    "shuffled": "control",
    "human-true": "ceiling",
}
"""Of ablations that were written before arms had roles; the others are arms."""
OLD_CONTROLS = {"human-latent": ("shuffled",)}
"""Likewise, where the control is among the arms."""


@dataclass(frozen=True)
class ArmRole:
    """An arm as the statistics see it."""

    name: str
    role: Role
    controls: tuple[str, ...] = ()
    """Arms that it must beat too, or its lift is not told from what they have without its labels."""


def arm_roles(result: Mapping[str, Any]) -> tuple[ArmRole, ...]:
    """Of an ablation's result, in its order. Raises ValueError for a role that giza does not know."""
    names = {arm["name"] for arm in result["arms"]}
    found = []
    for arm in result["arms"]:
        name = arm["name"]
        role = arm.get("role", OLD_ROLES.get(name, "arm"))
        if role not in get_args(Role):
            raise ValueError(f"arm '{name}': role '{role}' must be among {', '.join(get_args(Role))}")
        old = tuple(control for control in OLD_CONTROLS.get(name, ()) if control in names)
        found.append(ArmRole(name, role, tuple(arm.get("controls", old))))
    return tuple(found)
