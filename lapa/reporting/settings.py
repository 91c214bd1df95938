"""What a report is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import tyro

Progress = Callable[[str, int, int], None]
"""Called with (what, done, of how many)."""


@dataclass(frozen=True)
class ReportSettings:
    """What a report is asked for."""

    target: str | None = None
    """Known feature to probe for; by default observation.state, or action where there is no state."""
    dims: tuple[int, ...] = ()
    """Its dimensions; by default those that move."""
    budgets: tuple[int, ...] = (64, 256, 1024)
    """Numbers of labelled pairs, of as few whole episodes, at which the probe is fitted, beside all of them."""
    test_groups: tuple[str, ...] = ()
    """Globs over groups (source videos, episodes) to test on, instead of those held out of training."""
    vision: str = ""
    """A frozen vision model (hub name or folder) whose features' change stands among the baselines: DINOv2, SigLIP2 ..."""
    features: str = ""
    """A frozen vision model (hub name or folder) that stands among the baselines as it is: the difference of all its tokens of the
    two frames, at 112 pixels, by 512 principal components, however few numbers the latent has."""
    gap_s: float | None = None
    """Only pairs with about this gap, where the latents hold several."""
    bootstrap: int = 1000
    """Resamples of the test groups behind each interval."""
    draws: int = 10
    """Random choices of labelled episodes at each budget."""
    untrained_seeds: int = 3
    """Random initialisations that the untrained baseline is averaged over."""
    max_pairs: int = 20000
    """Pairs that are looked at; bounds memory and time."""
    max_clips: int = 3000
    """Clips that are looked at."""
    reconstructions: int = 384
    """Held-out pairs that are decoded."""
    seed: Annotated[int, tyro.conf.Suppress] = 0
    """Of all that is drawn at random; the job's own --seed sets it."""

    def __post_init__(self) -> None:
        least = {"max_pairs": 100, "max_clips": 2, "reconstructions": 8}
        least |= dict.fromkeys(("untrained_seeds", "draws", "bootstrap"), 1)
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least {value}")
        if any(budget < 4 for budget in self.budgets):
            raise ValueError(f"budgets {self.budgets}: each must be at least 4 labelled pairs")
