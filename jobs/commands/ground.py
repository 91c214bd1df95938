"""`giza ground`: few-demonstration post-training of a policy on one robot, or its training from scratch."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import OmitArgPrefixes

from corpora.episodes.parts import ActionPart, read_parts
from corpora.episodes.selection import ALL_DEMONSTRATIONS, EpisodeSelection
from corpora.mixture.embodiments import NEW_EMBODIMENT, SLOTS
from corpora.store.inputs import READ
from corpora.store.told import misspelt
from jobs.cli import parse
from jobs.training.logs import check_logger
from jobs.training.settings import SETS, TrainPolicy
from vla.recipes import FIELDS

if TYPE_CHECKING:
    from corpora.mixture.mixture import MixtureSpec

log = logging.getLogger(__name__)

DEMONSTRATIONS = "demonstrations"
"""Name of the dataset that --data is."""


@dataclass(frozen=True, kw_only=True)
class GroundConfig(TrainPolicy):
    """Train a policy on demonstrations of one robot."""

    data: Path = field(metadata=READ)
    """LeRobot dataset (v2.0, v2.1 or v3.0), or the folder of an RLDS dataset's features.json."""
    selection: OmitArgPrefixes[EpisodeSelection] = ALL_DEMONSTRATIONS
    """What is trained on."""
    held_episodes: str = ""
    """Hold these out; default: about a tenth of the dataset, of the episodes not trained on where there are such."""
    embodiment: str = ""
    """The robot's name. Default: the only robot that --policy knows, and without --policy new_embodiment."""
    new_embodiment: bool = False
    """--embodiment is a robot that --policy does not know: its weights begin afresh (but see --start-from)."""
    start_from: str | None = None
    """Begin the embodiment's weights with those of this trained one."""
    representation: str = ""
    """absolute, delta or relative (to the state at the chunk's beginning), of the whole action with its gripper (see
    --action-parts); default: the embodiment's where the policy knows it, else absolute."""
    normalisation: str = ""
    """min_max, mean_std or q01_q99; default: the embodiment's where the policy knows it, else q01_q99."""
    action_parts: Path | None = field(default=None, metadata=READ)
    """TOML file of [[action_parts]]: name, dims, state_dims, representation, rotation, frame, per_step, ... of each part of the
    action, instead of one part of --representation."""
    co_train: Path | None = field(default=None, metadata=READ)
    """Pyramid file whose datasets are trained on beside the demonstrations."""
    co_train_share: float = 0.5
    """Share of the samples that come from `co_train`."""
    anyway: bool = False
    """Also train on latents of which giza report said 'do not trust'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.co_train_share < 1:
            raise ValueError(f"--co-train-share {self.co_train_share}: within 0 and 1")
        if self.co_train is None and self.co_train_share != 0.5:
            raise ValueError(
                f"--co-train-share {self.co_train_share} without --co-train: there is nothing to share with"
            )


def run(config: GroundConfig, parts: Sequence[ActionPart] = (), *, quiet: bool = False) -> dict[str, Any]:
    """Trains (or resumes) and saves the policy to `config.out`; returns the summary."""
    check_logger(config.logger)
    config = dataclasses.replace(config, embodiment=embodiment_in(config))
    from jobs.training.verdicts import heed_verdicts

    parts = tuple(parts) or parts_of(config)
    mixture = mixture_of_demonstrations(config, parts)
    heed_verdicts(mixture, anyway=config.anyway)
    from jobs.training.policy_run import train_on  # it brings torch: what is wrong is told before

    folder = None if config.co_train is None else config.co_train.expanduser().parent
    beside = [spec.to_json(relative_to=folder) for spec in mixture.datasets if spec.name != DEMONSTRATIONS]
    return train_on(
        config,
        mixture,
        {"action_parts": [dataclasses.asdict(part) for part in parts], **({"beside": beside} if beside else {})},
        paths=("data", "co_train", "action_parts", "anyway", "new_embodiment"),
        job="ground",
        quiet=quiet,
        held_out_episodes={DEMONSTRATIONS: config.held_episodes},
        start_from={config.embodiment: config.start_from} if config.start_from else {},
    )


def embodiment_in(config: GroundConfig) -> str:
    """The robot that is trained. Raises ValueError for a name that the policy does not know and that is not said to be new (its
    weights would silently be no trained ones), and for one that every policy has, misspelt."""

    named = config.embodiment
    fresh = config.new_embodiment or bool(config.start_from) or named in ("", *SLOTS)
    if not config.policy:
        if not fresh and (meant := misspelt(named, SLOTS)):
            raise ValueError(f"--embodiment '{named}'{meant}: else give --new-embodiment")
        return named or NEW_EMBODIMENT
    from vla.stored import known_robots

    known = known_robots(config.policy)
    told = f"--policy '{config.policy}' knows {', '.join(known) or 'no robot'}"
    if named in known:
        if config.new_embodiment:
            raise ValueError(
                f"--new-embodiment beside --embodiment {named}: {told}; leave it out, or give another name"
            )
        return named
    if not named and len(known) == 1:
        log.info("embodiment %s, the only robot that the policy knows", *known)
        return known[0]
    if not named and known:
        raise ValueError(f"{told}: name one with --embodiment, or a new one with --new-embodiment")
    if known and not (config.new_embodiment or config.start_from):
        raise ValueError(
            f"--embodiment '{named}': {told}; give one of these, or --new-embodiment for a robot whose weights begin afresh"
        )
    if not known:
        if not fresh:
            raise ValueError(
                f"--embodiment '{named}'{misspelt(named, SLOTS)}: {told}; give one of {', '.join(SLOTS[1:])}, or --new-embodiment"
            )
        log.warning("%s: the weights of '%s' begin afresh", told, named or NEW_EMBODIMENT)
    return named or NEW_EMBODIMENT


def parts_of(config: GroundConfig) -> tuple[ActionPart, ...]:
    """Those of --action-parts. Raises ValueError where the file is none, or beside --representation."""
    if config.action_parts is None:
        return ()
    if config.representation:
        raise ValueError("--representation beside --action-parts: give each part its own")
    return read_parts(config.action_parts)


def mixture_of_demonstrations(config: GroundConfig, parts: Sequence[ActionPart] = ()) -> MixtureSpec:
    """The demonstrations, and what `co_train` adds to them."""
    from corpora.mixture.episode_samples import EpisodesAt
    from corpora.mixture.label_type import Actions
    from corpora.mixture.mixture import MixtureSpec, read_mixture
    from corpora.mixture.spec import DatasetSpec

    demonstrations = DatasetSpec(
        DEMONSTRATIONS,
        "robot",
        EpisodesAt(config.data.expanduser().resolve(), config.selection),
        Actions(config.representation, config.normalisation, tuple(parts)),
        embodiment=config.embodiment,
    )
    alone = MixtureSpec((demonstrations,))
    if config.co_train is None:
        return alone
    base = read_mixture(config.co_train)
    if any(spec.name == DEMONSTRATIONS or spec.planned for spec in base.datasets):
        raise ValueError(
            f"--co-train '{config.co_train}': its datasets must have data, and none may be called '{DEMONSTRATIONS}', "
            "which is what --data is called; rename it"
        )
    return alone + base.weighing(config.co_train_share / (1 - config.co_train_share))


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    run(parse(GroundConfig, argv, job="ground", recipes=FIELDS, sets=SETS))
