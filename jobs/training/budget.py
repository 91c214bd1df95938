"""How long a training is: --steps and --minutes over those of a recipe."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from corpora.training_config import Training

T = TypeVar("T", bound=Training)


def check_budget(steps: int | None, minutes: float | None) -> None:
    """Raises ValueError for a budget that is none."""
    if steps is not None and steps < 1:
        raise ValueError(f"--steps {steps}: at least 1")
    if minutes is not None and minutes <= 0:
        raise ValueError(f"--minutes {minutes}: more than 0")


def with_budget(training: T, steps: int | None, minutes: float | None) -> T:
    """The training with what is given: steps span the schedule, minutes end it early."""
    changes: dict[str, Any] = {
        name: value for name, value in (("steps", steps), ("minutes", minutes)) if value is not None
    }
    return dataclasses.replace(training, **changes)
