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
from corpora.store.run import claim, recipe_in
from jobs.cli import parse
from jobs.policy_recipes import RECIPES, recipe_named
from vla.models.config import PolicyConfig
from vla.training_config import PolicyTrainingConfig, TuningConfig

DEMONSTRATIONS = "demonstrations"
"""Name of the member that --data is."""
EVERYTHING = TuningConfig(vision=True)
"""What a small policy trains: all of it."""


@dataclass(frozen=True)
class GroundConfig:
    """Train a policy on demonstrations of one robot."""

    data: Path
    """LeRobot dataset (v2.0, v2.1 or v3.0), or the folder of an RLDS dataset's features.json."""
    out: Path
    """Run folder; the same command again resumes. It holds the policy when the run is done."""
    policy: str = ""
    """A pretrained policy: run folder or hub name; empty: from scratch, by --recipe."""
    recipe: str = "small"
    """small, bc, debug, n1, n1_5 or n1_6: the policy (from scratch) and training that the other flags override."""
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
    cache: Path | None = None
    """Folder for decoded pictures; default GIZA_CACHE, else the user's cache."""
    seed: int = 0
    """Of weights, order and noise."""
    steps: int | None = None
    """Optimiser steps, instead of the recipe's budget."""
    minutes: float | None = None
    """Wall-clock minutes, instead of the recipe's budget."""
    tuning: TuningConfig = EVERYTHING
    """What is trained; of a policy with a vision-language model by name, projector and DiT are GR00T's choice."""
    model: PolicyConfig = RECIPES["small"].policy
    """The policy, from scratch."""
    training: PolicyTrainingConfig = RECIPES["small"].training
    """The training."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps {self.steps}: at least 1")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"--minutes {self.minutes}: more than 0")
        if not 0 < self.co_train_share < 1:
            raise ValueError(f"--co-train-share {self.co_train_share}: within 0 and 1")


def run(config: GroundConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Trains (or resumes) and saves the policy to `config.out`; returns the summary."""
    import lightning

    from jobs.policy_run import budget, data_fingerprint, policy_fingerprint, train_policy
    from jobs.run_progress import member_bar
    from jobs.trainer import process_rank
    from vla.checkpoint import build_policy, load_policy
    from vla.data.open import open_members
    from vla.tuning import apply_tuning

    pyramid = pyramid_of_demonstrations(config)
    settings = dataclasses.asdict(config)
    settings |= settings.pop("selection")
    for moved in ("out", "data", "cache", "policy", "co_train"):
        del settings[moved]
    settings["data_fingerprint"] = data_fingerprint(config.data)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    policy = load_policy(config.policy) if config.policy else build_policy(config.model)
    settings["policy_fingerprint"] = policy_fingerprint(config.policy) if config.policy else None
    claim(config.out, settings)
    training = budget(config.training, config.steps, config.minutes)
    members = open_members(
        pyramid,
        policy,
        seed=config.seed,
        held_episodes={DEMONSTRATIONS: config.held_episodes},
        future_s=training.alignment.future_s if training.flare else None,
        cache=config.cache,
        start_from={config.embodiment: config.start_from} if config.start_from else {},
        progress=None if quiet else member_bar,
    )
    if hasattr(policy, "dit"):
        apply_tuning(policy, config.tuning, log=(lambda text: None) if quiet else print)
    summary = train_policy(policy, members, training, config.out, seed=config.seed, cache=config.cache, quiet=quiet)
    if not quiet and process_rank() == 0:
        from jobs.run_progress import print_run

        print_run(summary, f"giza ground: {config.out}")
    return summary


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
    """Parses the recipe first: its fields are the defaults that the other flags override."""
    import tyro

    name = recipe_in(argv, "small")
    recipe = recipe_named(name)
    default = GroundConfig(
        data=tyro.MISSING, out=tyro.MISSING, recipe=name, model=recipe.policy, training=recipe.training
    )
    run(parse(GroundConfig, argv, job="ground", default=default))
