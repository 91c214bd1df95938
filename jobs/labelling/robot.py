"""The robot of `giza label`: its samples, those held out, and the embodiment that a policy is to know."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.modality import read_modality
from corpora.episodes.parts import read_parts
from corpora.held_out import hold_out_episodes
from corpora.simulation.episode import EXPERT_ACTIONS
from jobs.labelling.config import LabelConfig

if TYPE_CHECKING:
    from corpora.mixture.episode_samples import EpisodeSamples
    from vla.embodiment import Embodiment

log = logging.getLogger(__name__)

_FIT_CHUNKS = 20_000


def split_robot(config: LabelConfig, quiet: bool) -> tuple[EpisodeSamples, NDArray[np.int64], NDArray[np.int64]]:
    """The robot's samples, and which of them are trained on and held out. Raises ValueError where there are none."""
    from jobs.progress import bar

    with bar("decoding the robot's episodes", quiet=quiet) as tell:
        samples = samples_of(config, tell)
    usable = np.flatnonzero(samples.has_future)
    groups = [samples.groups[index] for index in usable.tolist()]
    seen = [episode for episode in samples.episodes.episodes if episode.group in set(groups)]
    out = hold_out_episodes(seen, config.held_share, config.seed, title=f"robot '{config.robot}'")
    held = np.isin(groups, sorted(out))
    if held.all():
        raise ValueError(
            f"robot '{config.robot}': no moment of its episodes has an image {config.horizon} steps later; give a "
            "shorter --horizon"
        )
    if not held.any():
        log.warning("robot '%s': nothing is held out, so the labels' error is not known", config.robot)
    return samples, usable[~held], usable[held]


def action_done(config: LabelConfig) -> tuple[str, ...]:
    """Dimensions of `action` to learn from, where a policy would read the expert's own; () where that is what was done.

    Of giza simulate's data meta/modality.json names `expert.action`, which is what is to be imitated. No image shows it:
    between two images lies what the robot did, noise included, and that is the column `action`.
    """
    info = config.robot.expanduser() / "meta" / "info.json"
    if config.selection.action or not info.is_file():
        return ()
    try:
        features = json.loads(info.read_text("utf-8"))["features"]
        parts = read_modality(config.robot.expanduser(), features).action
    except (ValueError, KeyError):  # reading the episodes says what is wrong
        return ()
    if "action" not in features or not parts or any(part.column not in EXPERT_ACTIONS for part in parts):
        return ()
    return tuple(f"{part.start}:{part.end}" for part in parts)


def samples_of(config: LabelConfig, progress: Callable[[int, int], None]) -> EpisodeSamples:
    """Samples of the robot's episodes, the future a horizon later."""
    from corpora.episodes.frames import open_episode_frames
    from corpora.episodes.opening import open_episodes
    from corpora.mixture.episode_samples import EpisodeSamples, EpisodesAt
    from corpora.mixture.spec import DatasetSpec
    from corpora.mixture.views import Window

    action = config.selection.action or action_done(config)
    cameras = (config.camera,) if config.camera else config.selection.cameras
    episodes = open_episodes(config.robot, dataclasses.replace(config.selection, cameras=cameras, action=action))
    if episodes.action is None:
        raise ValueError(f"there is nothing to learn from robot '{config.robot}': {episodes.no_action}")
    episodes = episodes.seen_by(episodes.cameras[:1])
    if action != config.selection.action:  # labels lie in the places of the policy's own, and take over their names
        episodes.action_names = tuple(dim for part in episodes.modality.action for dim in part.dims)
    frames = open_episode_frames(episodes, config.image_size, cache=config.cache, progress=progress)
    for said in filter(None, (episodes.left_out, frames.lacking)):
        log.warning("robot '%s': %s", config.robot, said)
    return EpisodeSamples(
        DatasetSpec(config.robot.name, "robot", EpisodesAt(config.robot), embodiment=config.embodiment),
        episodes,
        frames,
        Window(config.horizon, future_s=config.horizon / episodes.fps),
    )


def robot_facts(config: LabelConfig) -> Embodiment:
    """The robot as a model trained on all of its chosen episodes knows it. Raises ValueError as `run`."""
    samples = samples_of(config, lambda done, total: None)
    return facts_of(config, samples, np.arange(len(samples)))


def facts_of(config: LabelConfig, samples: EpisodeSamples, train: NDArray[np.int64]) -> Embodiment:
    """The robot as the policy is to know it, fitted on what the model is trained on."""
    from vla.actions.layout import one_part
    from vla.actions.space import ActionSpace
    from vla.embodiment import Embodiment

    some = np.sort(np.random.default_rng(config.seed).permutation(train)[:_FIT_CHUNKS])
    numbers = samples.numbers(some.tolist())
    facts, frames = samples.embodiment(), samples.frames(train.tolist())
    assert facts is not None
    names = facts.state_names, facts.action_names
    parts = read_parts(config.action_parts) if config.action_parts else ()
    space = ActionSpace.fit(
        numbers.states,
        numbers.chunks,
        numbers.mask,
        parts=parts or one_part(len(names[0]), len(names[1]), "absolute", config.normalisation, names=names),
        frames=(frames.states, frames.actions),
        moved=frames.moved,
        state_normalisation=config.normalisation,
        state_names=names[0],
        action_names=names[1],
    )
    return Embodiment(config.embodiment, space, samples.step_s, tuple(samples.cameras), views=facts.views)
