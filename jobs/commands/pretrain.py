"""`giza pretrain`: a policy on a pyramid: human video (latent actions, FLARE), synthetic and robot data in one mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.store.inputs import READ
from jobs.cli import parse
from jobs.training.logs import check_logger
from jobs.training.settings import SETS, TrainPolicy
from vla.recipes import FIELDS

if TYPE_CHECKING:
    from corpora.mixture.mixture import MixtureSpec


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainPolicy):
    """Train a policy on the datasets of a pyramid file."""

    pyramid: Path = field(metadata=READ)
    """TOML file of datasets; see giza pyramid."""
    held_share: float = 0.1
    """Share, about, of each dataset's episodes or videos that is held out."""
    stride_s: float = 0.0
    """Clips without labels: seconds between two samples; 0: every frame."""
    anyway: bool = False
    """Also train on latents of which giza report said 'do not trust'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.held_share < 1:
            raise ValueError(f"--held-share {self.held_share}: within 0 and 1")


def run(config: PretrainConfig, *, quiet: bool = False, mixture: MixtureSpec | None = None) -> dict[str, Any]:
    """Trains (or resumes) and saves the policy to `config.out`; returns the summary. `mixture`: instead of the file.

    Raises ValueError for a wrong pyramid (all its faults together) and for datasets that do not fit the policy.
    """
    check_logger(config.logger)
    from corpora.mixture.mixture import read_mixture
    from jobs.training.verdicts import heed_verdicts

    folder = None
    if mixture is None:
        mixture, folder = read_mixture(config.pyramid), config.pyramid.expanduser().parent
    heed_verdicts(mixture, anyway=config.anyway)
    from jobs.training.policy_run import train_on  # it brings torch: what is wrong is told before

    return train_on(
        config,
        mixture,
        {"datasets": [spec.to_json(relative_to=folder) for spec in mixture.datasets]},
        paths=("pyramid", "anyway"),
        job="pretrain",
        quiet=quiet,
        held_out=config.held_share,
        stride_s=config.stride_s,
    )


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    run(parse(PretrainConfig, argv, job="pretrain", recipes=FIELDS, sets=SETS))
