"""What each arm of an ablation is for: a baseline to beat, an arm that is asked about, or a check of the instrument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from jobs.ablation.arms import ARMS, DESIGNS, POLICIES, Role


@dataclass(frozen=True)
class ArmRole:
    """An arm as the statistics see it."""

    name: str
    role: Role
    controls: tuple[str, ...] = ()
    """Arms that it must beat too, or its lift is not told from what they have without its labels."""
    loss: str = ""
    """Which of its actions its policy learns by."""
    demos: tuple[int, ...] | None = None
    """Numbers of demonstrations that it is run with; None: all of the ablation's."""


def arm_roles(result: Mapping[str, Any]) -> tuple[ArmRole, ...]:
    """Of an ablation's result, in its order; what files of old do not say is as of giza's own arms: of design joint where they
    say no role. Raises ValueError for a role that giza does not know."""
    names = {arm["name"] for arm in result["arms"]}
    known = DESIGNS.get(result["settings"].get("design", "joint"), {})
    found = []
    for arm in result["arms"]:
        name = arm["name"]
        joint, same = ARMS.get(name), known.get(name)
        role = arm.get("role", joint.role if joint else "arm")
        if role not in get_args(Role):
            raise ValueError(f"arm '{name}': role '{role}' must be among {', '.join(get_args(Role))}")
        old = [control for control in (joint.controls if joint else ()) if control in names]
        recipe = arm.get("recipe", same.recipe if same else "small")
        demos = tuple(arm["demos"]) if "demos" in arm else None
        found.append(ArmRole(name, role, tuple(arm.get("controls", old)), POLICIES[recipe].loss, demos))
    return tuple(found)
