"""What a mixture holds, dataset by dataset and tier by tier, from manifests and metadata: no image is decoded.

Whatever cannot be trained on (dimensions that do not fit, labels of another corpus, a tier without samples) is gathered, so
that all of it can be reported at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from corpora.clips.manifest import TIERS
from corpora.mixture.label_type import Count, PolicyLimits
from corpora.mixture.spec import DatasetSpec


@dataclass(frozen=True)
class Contents:
    """What there is of a dataset, or of those of a tier together."""

    clips: int = 0
    """Clips or episodes; 0 for what is only drawn."""
    frames: int = 0
    """Frames, those of one camera."""
    hours: float = 0.0
    samples: int = 0
    """Moments that can be trained on; some of them training holds out."""
    share: float = 0.0
    """Of the samples that are drawn, by the weights; of the hours where the pyramid is only drawn."""
    epochs: float | None = None
    """How often each sample comes in the planned budget; None where none is planned, or there is no sample."""


@dataclass(frozen=True)
class DatasetSurvey:
    """One dataset."""

    spec: DatasetSpec
    contents: Contents
    dims: str
    """Of its states and actions, as people read it."""
    told: str = ""
    """What is odd about it, and no fault."""


@dataclass(frozen=True)
class TierSurvey:
    """All datasets of one tier together."""

    tier: str
    datasets: tuple[DatasetSurvey, ...]
    contents: Contents


@dataclass(frozen=True)
class MixtureSurvey:
    """Tiers from the base to the top, only those that the mixture has."""

    name: str
    tiers: tuple[TierSurvey, ...]
    contents: Contents
    """Of all."""
    steps: int
    """Planned optimiser steps; 0: none planned."""
    batch_size: int
    planned: bool
    """Only drawn, from hours."""
    faults: tuple[str, ...]

    @property
    def datasets(self) -> tuple[DatasetSurvey, ...]:
        return tuple(found for tier in self.tiers for found in tier.datasets)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return {
            "name": self.name,
            "planned": self.planned,
            "steps": self.steps,
            "batch_size": self.batch_size,
            **dataclasses.asdict(self.contents),
            "tiers": [
                {
                    "tier": tier.tier,
                    **dataclasses.asdict(tier.contents),
                    "members": [
                        {
                            **{
                                name: getattr(found.spec, name)
                                for name in ("name", "weight", "align", "licence", "source", "embodiment")
                            },
                            "label": found.spec.label.words[0],
                            "dimensions": found.dims,
                            **({"verdict": found.spec.label.verdict} if found.spec.label.verdict else {}),
                            **({"told": found.told} if found.told else {}),
                            **dataclasses.asdict(found.contents),
                        }
                        for found in tier.datasets
                    ],
                }
                for tier in self.tiers
            ],
            "faults": list(self.faults),
        }


def survey_datasets(
    specs: Sequence[DatasetSpec],
    name: str = "",
    *,
    steps: int = 0,
    batch_size: int = 0,
    limits: PolicyLimits | None = None,
) -> MixtureSurvey:
    """Counts what a mixture holds. What is wrong with a dataset is in `faults`, and the dataset counts as empty.

    `steps`, `batch_size`: the budget that epochs are counted for. Raises ValueError for a budget below 0.
    """
    if steps < 0 or batch_size < 0:
        raise ValueError(f"steps {steps}, batch_size {batch_size}: 0 (none planned) or more")
    limits = limits or PolicyLimits()
    faults: list[str] = []
    counts: list[Count] = []
    for spec in specs:
        try:
            found = spec.data.count(spec.label, spec.embodiment, limits)
            faults += [f"dataset '{spec.name}': {fault}" for fault in found.faults]
        except ValueError as error:
            found = Count(broken=True)
            faults.append(f"dataset '{spec.name}': {error}")
        counts.append(found)
    planned = bool(specs) and all(spec.planned for spec in specs)
    sizes = [found.hours if planned else spec.weight for spec, found in zip(specs, counts, strict=True)]
    total = sum(sizes)
    made = []
    for spec, found, size in zip(specs, counts, sizes, strict=True):
        share = size / total if total else 0.0
        epochs = steps * batch_size * share / found.samples if steps and batch_size and found.samples else None
        contents = Contents(found.clips, found.frames, found.hours, found.samples, share, epochs)
        made.append(DatasetSurvey(spec, contents, found.dims, found.of_other_tiers(spec.tier)))
        if spec.weight > 0 and not (found.samples or found.broken or spec.planned):
            faults.append(f"dataset '{spec.name}': no sample to train on; leave it out, or give it weight = 0")
    tiers = []
    for tier in TIERS:
        mine = tuple(found for found in made if found.spec.tier == tier)
        if mine:
            tiers.append(TierSurvey(tier, mine, _together(mine, steps * batch_size)))
            if not planned and not tiers[-1].contents.samples:
                faults.append(f"tier '{tier}' has no sample: none of its datasets holds any")
    faults += _embodiment_faults(specs, counts)
    whole = _together(made, steps * batch_size)
    return MixtureSurvey(name, tuple(tiers), whole, steps, batch_size, planned, tuple(faults))


def _together(datasets: Sequence[DatasetSurvey], drawn: int) -> Contents:
    """Of all of them. Clips, frames and hours that several datasets have, under labels of their own, count once."""
    parts = [found.contents for found in datasets]
    samples, share = sum(part.samples for part in parts), sum(part.share for part in parts)
    seen = [found.spec.data for found in datasets]
    once = [
        found.contents
        for place, found in enumerate(datasets)
        if found.spec.planned or found.spec.data not in seen[:place]
    ]
    return Contents(
        sum(part.clips for part in once),
        sum(part.frames for part in once),
        sum(part.hours for part in once),
        samples,
        share,
        drawn * share / samples if drawn and samples else None,
    )


def _embodiment_faults(specs: Sequence[DatasetSpec], counts: Sequence[Count]) -> list[str]:
    """Datasets of one embodiment have actions of one width."""
    widths: dict[str, dict[int, str]] = {}
    for spec, found in zip(specs, counts, strict=True):
        if found.action_dim and spec.weight > 0:
            widths.setdefault(spec.embodiment, {}).setdefault(found.action_dim, spec.name)
    return [
        f"embodiment '{embodiment}': "
        + ", ".join(f"'{name}' has actions of {width} dimensions" for width, name in sorted(found.items()))
        + "; give them embodiments of their own"
        for embodiment, found in widths.items()
        if len(found) > 1
    ]
