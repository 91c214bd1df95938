"""How the pictures of a camera were changed after it took them: the agent was taken out, and another put in.

A policy learns from pictures of one view and acts on pictures of the same; `corpora.agent.painting.painter_of` makes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from corpora.store.decode import decode

ROBOT, NOBODY, DOT = "robot", "none", "dot"
"""Agents of giza's own."""
DOT_RADIUS: Final = 0.035
AS_CUT: Final = "as_cut"
"""Where nothing else is asked for."""


@dataclass(frozen=True)
class View:
    """What decides how a picture is painted. Two views that are equal are the same pictures."""

    agent: str
    """Who was put in: none, dot, or an agent of one's own."""
    background: str
    """What was put behind: before, inpaint."""
    margin: float
    """By how much the mask was grown, of the picture's side."""
    dot_radius: float = 0.0
    """Of the picture's side; 0 where there is no dot."""
    identity: str = ""
    """Of what an agent of one's own is made of."""
    scale: str = ""
    """How large an agent of one's own is drawn; "": as it was cut."""

    def __str__(self) -> str:
        dot = f", radius {self.dot_radius:g}" if self.dot_radius else ""
        own = f", {self.identity[:8]}" if self.identity else ""
        own += f", scale {self.scale}" if self.scale else ""
        return f"painted (agent {self.agent}{dot}{own}, background {self.background}, margin {self.margin:g})"

    @classmethod
    def painted(cls, how: Mapping[str, Any]) -> View | None:
        """Of pictures that were painted with these settings (those of `PaintSettings`, and agent_identity); None where a robot
        was put in as its own camera sees it, at whatever scale, for the robot is not painted where it acts.

        Nobody and a dot are the same at every scale, and nobody with every dot. What an agent of one's own makes of either
        is not known, so they count.
        """
        agent, radius, scale = str(how["agent"]), float(how["dot_radius"]), str(how.get("scale", AS_CUT))
        if agent == ROBOT:
            return None
        own = agent not in (NOBODY, DOT)
        return cls(
            agent,
            str(how["background"]),
            float(how["margin"]),
            radius if agent == DOT or (own and radius != DOT_RADIUS) else 0.0,
            str(how["agent_identity"]),
            scale if own and scale != AS_CUT else "",
        )

    def to_json(self) -> dict[str, Any]:
        """`from_json` restores it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, what: str) -> View:
        """Inverse of `to_json`. Raises ValueError, which names `what`, for what does not fit."""
        return decode(cls, values, what=what)


def view_told(view: View | None) -> str:
    """In a sentence about a camera; None: nothing was changed."""
    return "as the camera saw them" if view is None else str(view)
