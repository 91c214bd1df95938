"""From datasets of a mixture to batches of a policy: which samples, encoded and padded, in an order that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from corpora.mixture.order import MixtureOrder
from corpora.mixture.spec import Sample, SampleDataset
from vla.actions.space import ActionSpace
from vla.batch import PolicyBatch, newest_features, pad_last
from vla.models.config import PolicyConfig
from vla.models.feature_cache import FeatureCache, Prompt
from vla.policy import ContextTokens, Policy
from vla.trained_on import TrainedOn

LookUp = Callable[[Sequence[str]], ContextTokens]
"""Ids of samples ("dataset/index") -> their features."""


@dataclass(frozen=True)
class TrainingDataset:
    """One dataset of a training: which of its samples are trained on, and how its numbers are encoded."""

    data: SampleDataset
    train: NDArray[np.int64]
    """Samples trained on."""
    held_out: NDArray[np.int64]
    """Samples of held-out episodes or videos."""
    embodiment_id: int
    """The place of its embodiment in the policy."""
    action_space: ActionSpace | None
    """None: it has no actions."""

    @property
    def name(self) -> str:
        return self.data.spec.name

    @property
    def weight(self) -> float:
        """Share in the mixture, of any sum."""
        return self.data.spec.weight

    def record(self) -> TrainedOn:
        """Which of its episodes or videos are trained on, and which are held out."""
        spec, origin = self.data.spec, self.data.spec.data.origin()
        trained, held_out = ({self.data.groups[k] for k in rows.tolist()} for rows in (self.train, self.held_out))
        return TrainedOn(
            spec.name,
            origin.folder,
            origin.fingerprint,
            spec.embodiment,
            origin.kind,
            self.data.named(trained),
            self.data.named(held_out),
            origin.cameras,
            origin.state,
            origin.action,
            spec.label.verdict,
        )


def sample_id(dataset: TrainingDataset, index: int) -> str:
    """Of sample `index` of the dataset, for a cache of features."""
    return f"{dataset.name}/{index}"


def collate(
    datasets: Sequence[TrainingDataset],
    chosen: Sequence[tuple[int, int]],
    config: PolicyConfig,
    *,
    cameras: int,
    look_up: LookUp | None = None,
    kept_future: bool = False,
) -> PolicyBatch:
    """The batch of the samples (dataset, sample of that dataset), padded to the policy's widths and to `cameras`; with
    features where `look_up` knows them, `kept_future`: of the future, too."""
    size = config.image_size
    count, history = len(chosen), len(config.history_s)
    images = np.zeros((count, cameras, history, size, size, 3), np.uint8)
    image_mask = np.zeros((count, cameras, history), np.bool_)
    future = np.zeros((count, cameras, size, size, 3), np.uint8)
    has_future = np.zeros(count, np.bool_)
    before: dict[int, NDArray[np.uint8]] = {}
    state = torch.zeros(count, config.max_state_dim)
    state_mask = torch.zeros(count, config.max_state_dim, dtype=torch.bool)
    action = torch.zeros(count, config.horizon, config.max_action_dim)
    action_mask = torch.zeros(count, config.horizon, config.max_action_dim, dtype=torch.bool)
    samples: list[Sample] = []
    rows: dict[int, list[int]] = {}
    for row, (number, index) in enumerate(chosen):
        sample = datasets[number].data[index]
        samples.append(sample)
        views = len(sample.images)
        images[row, :views] = sample.images
        image_mask[row, :views] = sample.image_mask
        if sample.future is not None:
            future[row, :views] = sample.future
            has_future[row] = True
        if sample.before is not None:
            before[row] = sample.before
        rows.setdefault(number, []).append(row)
    for number, mine in rows.items():
        space = datasets[number].action_space
        if space is None:
            continue
        place, those = torch.tensor(mine), [samples[row] for row in mine]
        states = None if those[0].state is None else np.stack([each.state for each in those])  # type: ignore[misc]
        if states is not None:
            state[place], state_mask[place] = pad_last(
                torch.from_numpy(space.encode_state(states)), config.max_state_dim
            )
        if those[0].action is not None:
            chunks = np.stack([each.action for each in those])  # type: ignore[misc]
            known = None if those[0].action_known is None else np.stack([each.action_known for each in those])  # type: ignore[misc]
            if known is not None:
                known = np.broadcast_to(known if known.ndim == 3 else known[:, None], chunks.shape)
            start = space.origin(len(chunks)) if those[0].from_origin else states
            # where some steps of a number are known, the others are held, and seen: they are taken out of the loss alone
            visible = None if known is None else np.broadcast_to(known.any(1, keepdims=True), chunks.shape)
            encoded = torch.from_numpy(space.encode_action(start, chunks, visible))
            padded, there = pad_last(encoded, config.max_action_dim)
            if known is not None:
                there[..., : encoded.shape[-1]] &= torch.from_numpy(space.known_numbers(known))
            steps = torch.from_numpy(space.known_steps(np.stack([each.action_mask for each in those])))
            horizon = padded.shape[1]
            action[place, :horizon] = padded
            action_mask[place, :horizon] = there & steps[..., None]
    numbers = [number for number, _ in chosen]
    batch = PolicyBatch(
        images=torch.from_numpy(images).permute(0, 1, 2, 5, 3, 4).contiguous(),
        image_mask=torch.from_numpy(image_mask),
        instruction=[sample.instruction for sample in samples],
        state=state,
        state_mask=state_mask,
        action=action,
        action_mask=action_mask,
        embodiment=torch.tensor([datasets[number].embodiment_id for number in numbers]),
        future=torch.from_numpy(future).permute(0, 1, 4, 2, 3).contiguous(),
        has_future=torch.from_numpy(has_future),
        align=torch.tensor([datasets[number].data.spec.align for number in numbers]),
        dataset=torch.tensor(numbers),
    )
    if before:
        shown = images[:, :, -1].copy()
        for row, seen in before.items():
            shown[row, : len(seen)] = seen
        batch["before"] = torch.from_numpy(shown).permute(0, 1, 4, 2, 3).contiguous()
    if look_up is not None:
        tokens = look_up([sample_id(datasets[number], index) for number, index in chosen])
        batch["features"], batch["feature_mask"] = tokens.features, tokens.mask
        batch["feature_is_image"] = tokens.is_image
        if kept_future:
            newest = newest_features(batch)
            followed = dict.fromkeys(has_future.nonzero()[0].tolist(), FUTURE)
            batch["future_features"] = _kept(torch.zeros_like(newest), datasets, chosen, look_up, followed)
            if before:
                batch["before_features"] = _kept(
                    newest.clone(), datasets, chosen, look_up, dict.fromkeys(before, BEFORE)
                )
    return batch


FUTURE, BEFORE = "@future", "@before"
"""Behind a sample's id: features of these images of it."""


def _kept(
    features: torch.Tensor,
    datasets: Sequence[TrainingDataset],
    chosen: Sequence[tuple[int, int]],
    look_up: LookUp,
    shown: Mapping[int, str],
) -> torch.Tensor:
    """[B, V, N, D], those of `shown` (row -> which images of the sample) in the place of what `features` has there."""
    if shown:
        ids = [sample_id(datasets[chosen[row][0]], chosen[row][1]) + which for row, which in shown.items()]
        features[list(shown)] = look_up(ids).features.unflatten(1, features.shape[1:3])
    return features


class PolicyBatches(IterableDataset):  # type: ignore[type-arg]
    """Batches number `start`, `start` + 1, ... of a mixture; endless, the same for any number of loaders and ranks."""

    def __init__(
        self,
        datasets: Sequence[TrainingDataset],
        config: PolicyConfig,
        *,
        batch_size: int,
        cameras: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        start: int = 0,
        look_up: LookUp | None = None,
        kept_future: bool = False,
    ) -> None:
        self.datasets, self.config, self.cameras = list(datasets), config, cameras
        self.look_up, self.kept_future = look_up, kept_future
        self.order = MixtureOrder(
            [len(dataset.train) for dataset in datasets],
            [dataset.weight for dataset in datasets],
            batch_size=batch_size,
            seed=seed,
            names=[dataset.name for dataset in datasets],
        )
        self.rank, self.ranks, self.start = rank, ranks, start

    def batch(self, number: int) -> PolicyBatch:
        """Batch `number`, the same at every call."""
        chosen = [
            (dataset, int(self.datasets[dataset].train[index]))
            for dataset, index in self.order.batch(number, rank=self.rank, ranks=self.ranks)
        ]
        return collate(
            self.datasets,
            chosen,
            self.config,
            cameras=self.cameras,
            look_up=self.look_up,
            kept_future=self.kept_future,
        )

    def __iter__(self) -> Iterator[PolicyBatch]:
        worker = get_worker_info()
        offset, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = self.start + offset
        while True:
            yield self.batch(number)
            number += step


def held_out_batches(
    datasets: Sequence[TrainingDataset],
    config: PolicyConfig,
    *,
    batch_size: int,
    cameras: int,
    samples: int,
    look_up: LookUp | None = None,
    kept_future: bool = False,
) -> list[PolicyBatch]:
    """Batches of at most `samples` held-out samples of each dataset, evenly spaced, the same at every call."""
    chosen = [
        (number, int(index))
        for number, dataset in enumerate(datasets)
        for index in dataset.held_out[
            np.linspace(0, len(dataset.held_out) - 1, min(samples, len(dataset.held_out))).astype(int)
        ]
    ]
    return [
        collate(
            datasets,
            chosen[first : first + batch_size],
            config,
            cameras=cameras,
            look_up=look_up,
            kept_future=kept_future,
        )
        for first in range(0, len(chosen), batch_size)
    ]


def split_samples(groups: Sequence[str], held_out: set[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(trained on, held out): indices of samples by the group (episode or source video) that they come from."""
    out = np.array([group in held_out for group in groups], np.bool_)
    return np.nonzero(~out)[0], np.nonzero(out)[0]


def cacheable(policy: Policy) -> bool:
    """Whether System 2 says the same of a sample at every step: a model by name, and none of it is trained."""
    return policy.system2 is not None and policy.system2.is_constant


def cached_features(
    policy: Policy,
    datasets: Sequence[TrainingDataset],
    folder: Path,
    *,
    cameras: int,
    kept_future: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureCache:
    """The cache in `folder`, filled for all samples that are trained on or held out; goes on where a killed job was."""
    assert policy.system2 is not None
    cache = FeatureCache(folder, policy.system2)
    total = sum(len(dataset.train) + len(dataset.held_out) for dataset in datasets)
    show = None if progress is None else (lambda done: progress(done, total))
    cache.fill(_prompts(datasets, cameras, kept_future), progress=show)
    return cache


def some_images(dataset: TrainingDataset) -> list[torch.Tensor]:
    """uint8 [V, T, 3, S, S] of at most 256 samples that are trained on, evenly spread over them."""
    rows = np.linspace(0, len(dataset.train) - 1, min(256, len(dataset.train))).round().astype(int)
    samples = [dataset.data[int(dataset.train[row])] for row in rows]
    return [torch.from_numpy(sample.images).permute(0, 1, 4, 2, 3) for sample in samples]


def _prompts(datasets: Sequence[TrainingDataset], cameras: int, kept_future: bool) -> Iterator[Prompt]:
    """As `collate` shows the samples: padded to `cameras`."""
    for dataset in datasets:
        for index in (*dataset.train.tolist(), *dataset.held_out.tolist()):
            sample, name = dataset.data[index], sample_id(dataset, index)
            yield _prompt(name, sample.images, sample.image_mask, sample.instruction, cameras)
            for which, images in ((FUTURE, sample.future), (BEFORE, sample.before)):
                if kept_future and images is not None:
                    shown = np.ones((len(images), 1), np.bool_)
                    yield _prompt(name + which, images[:, None], shown, sample.instruction, cameras)


def _prompt(name: str, images: NDArray[np.uint8], mask: NDArray[np.bool_], instruction: str, cameras: int) -> Prompt:
    """`images` [V, T, S, S, 3], `mask` [V, T]."""
    views, history, size = images.shape[:3]
    padded = torch.zeros(cameras, history, 3, size, size, dtype=torch.uint8)
    shown = torch.zeros(cameras, history, dtype=torch.bool)
    padded[:views] = torch.from_numpy(images).permute(0, 1, 4, 2, 3)
    shown[:views] = torch.from_numpy(mask)
    return Prompt(name, padded, shown, instruction)
