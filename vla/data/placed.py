"""The samples of a dataset as its slot has them: cameras in their places, numbers in their order."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.mixture.labels import EmbodimentFacts
from corpora.mixture.spec import Frames, Numbers, Sample, SampleDataset
from vla.data.slots import Placement, Slot, same_step

log = logging.getLogger(__name__)


def placed(data: SampleDataset, placement: Placement, slot: Slot) -> SampleDataset:
    """`data`, or what puts it in the order and the steps of its slot. Raises ValueError where its actions do not say what is
    done in such a step."""
    facts = data.embodiment()
    assert facts is not None
    if not same_step(facts.step_s, slot.step_s):
        data = data.at_step(slot.step_s)
        log.info(
            "dataset '%s': its rows are %.4f s apart and are read every %.4f s, as those of embodiment '%s'",
            data.spec.name, facts.step_s, slot.step_s, slot.name,
        )  # fmt: skip
    there = (
        tuple(range(len(data.cameras))),
        tuple(range(len(facts.state_names))),
        tuple(range(len(facts.action_names))),
    )
    return data if dataclasses.astuple(placement) == there else PlacedSamples(data, placement, slot)


class PlacedSamples:
    """A dataset whose cameras or numbers lie otherwise than in its slot."""

    def __init__(self, data: SampleDataset, placement: Placement, slot: Slot) -> None:
        self.data, self.placement = data, placement
        self.spec, self.groups, self.idle_rows, self.cameras = data.spec, data.groups, data.idle_rows, slot.cameras
        self.texts = data.texts

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample, where = self.data[index], self.placement
        return dataclasses.replace(
            sample,
            images=placed_views(sample.images, where),
            image_mask=placed_views(sample.image_mask, where),
            state=self._state(sample.state),
            action=None if sample.action is None else sample.action[:, list(where.action)],
            action_known=None if sample.action_known is None else sample.action_known[..., list(where.action)],
            future=None if sample.future is None else placed_views(sample.future, where),
            before=None if sample.before is None else placed_views(sample.before, where),
        )

    def numbers(self, indices: Sequence[int]) -> Numbers:
        """Of these samples. Raises ValueError where there are no actions."""
        found = self.data.numbers(indices)
        chunks = found.chunks[..., list(self.placement.action)]
        return Numbers(self._state(found.states), chunks, found.mask)

    def frames(self, indices: Sequence[int]) -> Frames:
        """As the dataset's."""
        found = self.data.frames(indices)
        actions = found.actions[:, list(self.placement.action)]
        return Frames(self._state(found.states), actions, self._state(found.moved))

    def embodiment(self) -> EmbodimentFacts | None:
        """As the dataset says, in its own order."""
        return self.data.embodiment()

    def named(self, groups: Iterable[str]) -> tuple[str, ...]:
        """As the dataset's."""
        return self.data.named(groups)

    def at_step(self, step_s: float) -> PlacedSamples:
        """As the dataset's."""
        found = copy.copy(self)
        found.data = self.data.at_step(step_s)
        return found

    def _state(self, values: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        return None if values is None or not self.placement.state else values[..., list(self.placement.state)]


def placed_views(views: NDArray[Any], placement: Placement, axis: int = 0) -> NDArray[Any]:
    """The data's cameras along `axis` as those of the slot; zeros, and False, where the data have none."""
    if placement.cameras == tuple(range(views.shape[axis])):
        return views
    shape = list(views.shape)
    shape[axis] = len(placement.cameras)
    found = np.zeros(shape, views.dtype)
    into, of = np.moveaxis(found, axis, 0), np.moveaxis(views, axis, 0)
    for number, where in enumerate(placement.cameras):
        if where is not None:
            into[number] = of[where]
    return found
