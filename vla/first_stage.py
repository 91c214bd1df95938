"""What a policy may want trained before the rest of it: a first stage of the same run."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from vla.batch import PolicyBatch


class FirstStage(Protocol):
    """A part of a policy that is trained before the rest, alone; a module."""

    @property
    def config(self) -> Any:
        """With `steps` and `lr`."""

    def loss(self, batch: PolicyBatch) -> Tensor:
        """A scalar."""

    def measure(self, batch: PolicyBatch) -> dict[str, Tensor]:
        """Scalars, of held-out samples."""

    def settle(self) -> None:
        """It is trained: from now on it stays as it is."""
