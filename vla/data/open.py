"""Opening a mixture for a policy: its datasets, what is held out of each, and the embodiments with their action spaces."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import Opening, SampleDataset
from corpora.mixture.views import Window
from corpora.store.frames import Progress
from corpora.text import unread
from vla.data.embodiments import Opened, learn_embodiments
from vla.data.loader import TrainingDataset, split_samples
from vla.policy import Policy

log = logging.getLogger(__name__)

Bars = Callable[[str], AbstractContextManager[Progress | None]]
"""Title -> a bar."""


def open_mixture(
    mixture: MixtureSpec,
    policy: Policy,
    *,
    seed: int = 0,
    held_out: float = 0.1,
    held_out_episodes: Mapping[str, str] = MappingProxyType({}),
    future_s: float | None = None,
    stride_s: float = 0.0,
    cache: Path | None = None,
    start_from: Mapping[str, str] = MappingProxyType({}),
    refit: bool = False,
    progress: Bars | None = None,
) -> list[TrainingDataset]:
    """The datasets with a weight; the policy learns their embodiments and action spaces.

    `held_out`: share of each dataset's episodes or videos that is held out; of a dataset whose episodes are chosen, some of
    the others; `held_out_episodes` (dataset -> "0:20" or "0,3,5") names them instead. `future_s`: seconds to FLARE's future;
    None: no future. `start_from`: a new embodiment -> the one whose weights it begins with. An embodiment that the policy
    knows keeps its weights, and its statistics unless `refit`. Raises ValueError for a dataset that does not fit the policy, naming it.
    """
    window = Window(policy.config.horizon, history_s=tuple(-age for age in policy.config.history_s), future_s=future_s)
    opening = Opening(window, policy.config.image_size, seed, held_out, stride_s, cache)
    opened: list[Opened] = []
    for spec in mixture.datasets:
        if spec.weight <= 0:
            continue
        named = held_out_episodes.get(spec.name, "")
        with (progress or (lambda _: nullcontext()))(spec.name) as bar, spec.errors_named():
            data, groups = spec.data.open(spec, replace(opening, held_out_episodes=named, progress=bar))
        train, out = split_samples(data.groups, groups)
        if not len(train):
            raise ValueError(
                f"dataset '{spec.name}': all of its {len(data)} samples are held out; it has one source only"
            )
        opened.append((data, train, out))
    in_slots = learn_embodiments(opened, policy, seed, start_from, refit=refit)
    _check_views(in_slots, policy)
    texts = {text for data, _, _ in opened for text in data.texts}
    for said in unread(texts, policy.read_text, "the policy"):
        log.warning("%s", said)
    return [
        TrainingDataset(
            data,
            train,
            out,
            policy.embodiment_id(data.spec.embodiment),
            policy.embodiments[data.spec.embodiment].action_space if data.spec.label.acts else None,
        )
        for data, (_, train, out) in zip(in_slots, opened, strict=True)
    ]


def _check_views(datasets: Sequence[SampleDataset], policy: Policy) -> None:
    """Raises ValueError where there is no place in the policy for all cameras of an embodiment, or for its history."""
    if policy.most_views is None:
        return
    cameras, frames = policy.most_views
    remedy = "train another recipe's policy" if cameras == 1 else "train from scratch with --model.small.{} {}"
    for data in datasets:
        if len(data.cameras) > cameras:
            raise ValueError(
                f"dataset '{data.spec.name}': embodiment '{data.spec.embodiment}' has {len(data.cameras)} cameras, those of all "
                f"its datasets together: {', '.join(data.cameras)}; the policy has places for {cameras}. Choose some (--cameras, "
                f"in a pyramid file cameras = [...]), or {remedy.format('cameras', len(data.cameras))}"
            )
    if (asked := len(policy.config.history_s)) > frames:
        raise ValueError(
            f"history_s {policy.config.history_s}: {asked} frames, and the policy has places for {frames}; give fewer "
            f"(--model.history-s), or {remedy.format('history', asked)}"
        )
