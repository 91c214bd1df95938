"""`giza ground`: few-demonstration post-training of a policy on one robot, or its training from scratch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from corpora.episodes.episode import ALL_DEMONSTRATIONS, EpisodeSelection
from corpora.mixture.spec import Pyramid, PyramidMember, read_pyramid
from jobs.cli import parse
from jobs.policy_recipes import FIELDS
from jobs.policy_settings import TrainPolicy

DEMONSTRATIONS = "demonstrations"
"""Name of the member that --data is."""


@dataclass(frozen=True, kw_only=True)
class GroundConfig(TrainPolicy):
    """Train a policy on demonstrations of one robot."""

    data: Path
    """LeRobot dataset (v2.0, v2.1 or v3.0), or the folder of an RLDS dataset's features.json."""
    selection: OmitArgPrefixes[EpisodeSelection] = ALL_DEMONSTRATIONS
    """What is trained on."""
    held_episodes: str = ""
    """Hold these out; default: a tenth of the dataset, of the episodes not trained on where there are such."""
    embodiment: str = "new_embodiment"
    """Slot of the robot; a new name takes a free slot."""
    start_from: str | None = None
    """Begin the slot's weights with those of this trained slot."""
    representation: str = "absolute"
    """absolute, delta or relative (to the state at the chunk's beginning)."""
    normalisation: str = "q01_q99"
    """min_max, mean_std or q01_q99."""
    linear_base: bool = False
    """The policy learns only what a ridge from the state leaves of a chunk: strong open loop with few demonstrations; with
    --previous-action it may copy itself in closed loop."""
    co_train: Path | None = None
    """Pyramid file whose members are trained on beside the demonstrations."""
    co_train_share: float = 0.5
    """Share of the samples that come from `co_train`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.co_train_share < 1:
            raise ValueError(f"--co-train-share {self.co_train_share}: within 0 and 1")


def run(config: GroundConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Trains (or resumes) and saves the policy to `config.out`; returns the summary."""
    from jobs.policy_run import data_fingerprint, train_on

    return train_on(
        config,
        pyramid_of_demonstrations(config),
        {"data_fingerprint": data_fingerprint(config.data)},
        paths=("data", "co_train"),
        job="ground",
        quiet=quiet,
        held_episodes={DEMONSTRATIONS: config.held_episodes},
        start_from={config.embodiment: config.start_from} if config.start_from else {},
    )


def pyramid_of_demonstrations(config: GroundConfig) -> Pyramid:
    """The demonstrations as a pyramid of one member, on what `co_train` adds below it."""
    demonstrations = PyramidMember(
        name=DEMONSTRATIONS,
        tier="robot",
        label="action",
        embodiment=config.embodiment,
        dataset=str(config.data.expanduser().resolve()),
        **vars(config.selection),
        representation=config.representation,
        normalisation=config.normalisation,
        linear_base=config.linear_base,
    )
    if config.co_train is None:
        return Pyramid("", (demonstrations,), Path())
    base = read_pyramid(config.co_train)
    if any(member.name == DEMONSTRATIONS or member.planned for member in base.members):
        raise ValueError(
            f"--co-train '{config.co_train}': its members must have data, and none may be called '{DEMONSTRATIONS}', "
            "which is what --data is called; rename it"
        )
    total = sum(member.weight for member in base.members)
    share = config.co_train_share / (1 - config.co_train_share) / total
    rest = [dataclasses.replace(member, weight=member.weight * share) for member in base.members]
    return Pyramid(base.name, (demonstrations, *rest), base.folder)


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    run(parse(GroundConfig, argv, job="ground", recipes=FIELDS))
