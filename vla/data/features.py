"""Features of a frozen vision-language model for a training's samples: computed once, then read instead of the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from vla.data.loader import TrainingDataset, sample_id
from vla.models.feature_cache import FeatureCache, Prompt
from vla.policy import Policy


def cacheable(policy: Policy) -> bool:
    """Whether System 2 says the same of a sample at every step: a model by name, and none of it is trained."""
    return policy.system2 is not None and policy.system2.is_constant


def cached_features(
    policy: Policy,
    datasets: Sequence[TrainingDataset],
    folder: Path,
    *,
    cameras: int,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureCache:
    """The cache in `folder`, filled for all samples that are trained on or held out; goes on where a killed job was."""
    assert policy.system2 is not None
    cache = FeatureCache(folder, policy.system2)
    total = sum(len(dataset.train) + len(dataset.held) for dataset in datasets)
    show = None if progress is None else (lambda done: progress(done, total))
    cache.fill(_prompts(datasets, cameras), batch=batch, progress=show)
    return cache


def _prompts(datasets: Sequence[TrainingDataset], cameras: int) -> Iterator[Prompt]:
    """As `collate` shows the samples: padded to `cameras`."""
    for dataset in datasets:
        for index in (*dataset.train.tolist(), *dataset.held.tolist()):
            sample = dataset.data[index]
            views, history, size = sample.pictures.shape[:3]
            pictures = torch.zeros(cameras, history, 3, size, size, dtype=torch.uint8)
            mask = torch.zeros(cameras, history, dtype=torch.bool)
            pictures[:views] = torch.from_numpy(sample.pictures).permute(0, 1, 4, 2, 3)
            mask[:views] = torch.from_numpy(sample.picture_mask)
            yield Prompt(sample_id(dataset, index), pictures, mask, sample.instruction)
