"""What a report is asked for, and what is known of the model's training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from lapa.reporting.probes.probe import ProbeSettings


@dataclass(frozen=True)
class ReportSettings:
    """What a report is asked for."""

    target: str | None = None
    """Known feature to probe for; by default observation.state, or action where there is no state."""
    dims: tuple[int, ...] = ()
    """Its dimensions; by default those that move."""
    budgets: tuple[int, ...] = (64, 256, 1024)
    """Numbers of labelled pairs at which the probe is fitted, beside all of them."""
    test_groups: tuple[str, ...] = ()
    """Globs over groups (source videos, episodes) to test on, instead of those held out of training."""
    gap_s: float | None = None
    """Only pairs with about this gap, where the latents hold several."""
    bootstrap: int = 1000
    """Resamples of the test groups behind each interval."""
    draws: int = 10
    """Random choices of labelled pairs at each budget."""
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
        for name, least in (("max_pairs", 100), ("max_clips", 2), ("untrained_seeds", 1), ("reconstructions", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least {least}")
        self.probe  # noqa: B018 - its own checks

    @property
    def probe(self) -> ProbeSettings:
        return ProbeSettings(self.budgets, self.draws, self.bootstrap, seed=self.seed)


@dataclass(frozen=True)
class RunFacts:
    """What is known of the model's training, from its run folder."""

    train_groups: tuple[str, ...] = ()
    held_out_groups: tuple[str, ...] = ()
    labelled_clips: int = 0
    model_hash: str = ""

    def unseen(self, groups: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Which of `groups` [N] the model was not trained on; none where nothing is known of its training."""
        if self.train_groups:
            return ~np.isin(groups, self.train_groups)
        return np.isin(groups, self.held_out_groups)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> RunFacts:
        return RunFacts(
            tuple(record.get("train_groups", ())),
            tuple(record.get("held_out_groups", ())),
            int(record.get("labelled_clips", 0)),
            str(record.get("model_hash", "")),
        )
