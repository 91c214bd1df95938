"""What tells the actions of a corpus' clips: an inverse dynamics model, or tracks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from corpora.mixture.pseudo_actions import ClipLabels
from vla.embodiment import Embodiment


class Labeller(Protocol):
    """What tells the actions of a clip."""

    kind: ClassVar[str]
    """As a pyramid file names the label."""

    @property
    def facts(self) -> Embodiment: ...

    @property
    def identity(self) -> str:
        """Changes with whatever changes the labels."""

    @property
    def unknown(self) -> Sequence[str]:
        """Names of the action's dimensions that it does not tell."""

    def chunks(self, clip_id: str) -> ClipLabels | None:
        """None where no frame of the clip has a label."""


Maker = Callable[[], tuple[Labeller, dict[str, Any]]]
"""Makes a labeller, and what was measured of it; writes."""
