"""Batches of a policy: collate against a slow loop, the same for any number of workers and after resuming, hold-out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from corpora.mixture.clip_samples import ClipsAt
from corpora.mixture.label_kinds import Unlabelled
from corpora.mixture.spec import DatasetSpec, Sample
from tests.builders.policies import space_of
from vla.batch import PolicyBatch, check_batch
from vla.data.loader import (
    PolicyBatches,
    TrainingDataset,
    collate,
    held_out_batches,
    split_samples,
)
from vla.recipes import DEBUG

CONFIG = dataclasses.replace(DEBUG, image_size=8, history_s=(0.5, 0.0))
HISTORY = 2


class MadeSamples:
    """Samples made of their own number; some lack a camera, a future, or the steps past an end."""

    def __init__(
        self,
        name: str,
        *,
        views: int,
        state: int,
        action: int,
        future: bool,
        weight: float,
        align: float,
        size: int = 12,
    ) -> None:
        self.spec = DatasetSpec(name, "human", ClipsAt(Path()), Unlabelled(), weight, align)
        self.idle_rows = 0
        self.cameras = tuple(f"camera{k}" for k in range(views))
        self.widths, self.future, self.size = (state, action), future, size
        self.groups = [f"{name}/{index // 3}" for index in range(size)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([index, len(self.spec.name)])
        shape = (len(self.cameras), HISTORY, 8, 8, 3)
        mask = np.ones(shape[:2], np.bool_)
        mask[0, 0] = index % 3 > 0
        state, action = self.widths
        known = np.arange(CONFIG.horizon) < 3 + index
        return Sample(
            rng.integers(0, 256, shape).astype(np.uint8),
            mask,
            "" if index % 4 == 0 else f"do {index}",
            rng.normal(2, 3, state).astype(np.float32) if state else None,
            rng.normal(2, 3, (CONFIG.horizon, action)).astype(np.float32) if action else None,
            known if action else np.zeros(CONFIG.horizon, np.bool_),
            rng.integers(0, 256, (len(self.cameras), 8, 8, 3)).astype(np.uint8) if self.future and index % 2 else None,
        )


def members() -> list[TrainingDataset]:
    """A robot with a relative codec and two cameras, latents without a state, clips without anything."""
    made = [
        MadeSamples("robot", views=2, state=5, action=5, future=True, weight=0.5, align=1.0),
        MadeSamples("latent", views=1, state=0, action=3, future=False, weight=0.2, align=0.5, size=7),
        MadeSamples("clips", views=1, state=0, action=0, future=True, weight=0.3, align=0.0, size=20),
    ]
    codecs = [space_of(5, 5, representation="relative"), space_of(0, 3), None]
    return [
        TrainingDataset(data, *split_samples(data.groups, {data.groups[0]}), slot, codec)
        for data, slot, codec in zip(made, (3, 0, 9), codecs, strict=True)
    ]


def test_a_batch_is_that_of_a_slow_loop() -> None:
    mixture = members()
    chosen = [(0, 1), (2, 3), (1, 2), (0, 8), (2, 4), (0, 0), (1, 6)]
    batch = collate(mixture, chosen, CONFIG, cameras=2)
    check_batch(batch, horizon=CONFIG.horizon, state_dim=CONFIG.max_state_dim, action_dim=CONFIG.max_action_dim)
    for row, (number, index) in enumerate(chosen):
        member, sample = mixture[number], mixture[number].data[index]
        views, (ds, da) = len(member.data.cameras), member.data.widths  # type: ignore[attr-defined]
        for view, age in itertools.product(range(2), range(HISTORY)):
            image = batch["images"][row, view, age].permute(1, 2, 0).numpy()
            if view < views:
                assert np.array_equal(image, sample.images[view, age])
                assert batch["image_mask"][row, view, age] == bool(sample.image_mask[view, age])
            else:
                assert image.max() == 0 and not batch["image_mask"][row, view, age]
        assert bool(batch["has_future"][row]) == (sample.future is not None)
        if sample.future is not None:
            assert np.array_equal(batch["future"][row, :views].permute(0, 2, 3, 1).numpy(), sample.future)
        assert batch["instruction"][row] == sample.instruction
        state, action = batch["state"][row].numpy(), batch["action"][row].numpy()
        assert batch["state_mask"][row].tolist() == [dim < ds for dim in range(CONFIG.max_state_dim)]
        assert not state[ds:].any()
        if ds:
            np.testing.assert_allclose(state[:ds], member.action_space.encode_state(sample.state), atol=1e-6)
        for step, dim in itertools.product(range(CONFIG.horizon), range(CONFIG.max_action_dim)):
            known = da > 0 and dim < da and bool(sample.action_mask[step])
            assert bool(batch["action_mask"][row, step, dim]) == known
        assert not action[:, da:].any()
        if da:  # past the end, too: what stands there is seen, and in no loss
            decoded = member.action_space.decode_action(sample.state, action[:, :da])
            np.testing.assert_allclose(decoded, sample.action, atol=1e-4)
        assert batch["embodiment"][row] == member.embodiment_id and batch["dataset"][row] == number
        assert batch["align"][row] == member.data.spec.align


def test_what_a_future_follows_is_in_the_batch_where_it_is_not_what_is_seen() -> None:
    mixture = members()
    chosen = [(0, 1), (2, 3), (2, 5)]
    assert "before" not in collate(mixture, chosen, CONFIG, cameras=2)
    inner, other = mixture[2].data, np.full((1, 8, 8, 3), 7, np.uint8)

    class OfOthers(MadeSamples):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return dataclasses.replace(sample, before=other) if index == 3 else sample

    of_others = OfOthers("clips", views=1, state=0, action=0, future=True, weight=0.3, align=0.0, size=len(inner))
    mixture[2] = dataclasses.replace(mixture[2], data=of_others)
    batch = collate(mixture, chosen, CONFIG, cameras=2)
    assert (batch["before"][1, 0] == 7).all() and not batch["before"][1, 1].any()
    assert torch.equal(batch["before"][[0, 2]], batch["images"][[0, 2], :, -1])


def batches(**changes) -> PolicyBatches:
    return PolicyBatches(members(), CONFIG, **{"batch_size": 6, "cameras": 2, "seed": 3, **changes})


def same(a: PolicyBatch, b: PolicyBatch) -> bool:
    assert set(a) == set(b)
    return all(
        torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]  # type: ignore[literal-required]
        for name, value in a.items()
    )


def first(dataset: PolicyBatches, count: int, workers: int) -> list[PolicyBatch]:
    loader: Iterator[PolicyBatch] = iter(DataLoader(dataset, batch_size=None, num_workers=workers))
    return list(itertools.islice(loader, count))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # three on two cores: it is the order that counts
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("start", [0, 4])
def test_batches_are_the_same_for_any_number_of_workers_and_after_resuming(workers: int, start: int) -> None:
    straight = [batches().batch(number) for number in range(9)]
    found = first(batches(start=start), 9 - start, workers)
    assert all(same(a, b) for a, b in zip(found, straight[start:], strict=True))
    assert not same(straight[0], straight[1])
    assert not same(batches(seed=4).batch(0), straight[0])


def test_ranks_share_a_batch() -> None:
    whole = batches().batch(2)
    parts = [batches(rank=rank, ranks=3).batch(2) for rank in range(3)]
    assert [len(part["instruction"]) for part in parts] == [2, 2, 2]
    for rank, part in enumerate(parts):
        assert torch.equal(part["images"], whole["images"][rank::3])
        assert part["instruction"] == whole["instruction"][rank::3]


def test_shares_are_the_weights_and_an_epoch_is_every_training_sample_once() -> None:
    dataset = batches()
    drawn = [dataset.order.batch(number) for number in range(100)]
    counts = np.bincount([member for batch in drawn for member, _ in batch], minlength=3) / 600
    assert counts == pytest.approx([0.5, 0.2, 0.3], abs=0.01)
    seen = [index for batch in drawn for member, index in batch if member == 0]
    assert sorted(seen[:9]) == list(range(9))
    images = {row.numpy().tobytes() for batch in first(dataset, 8, 0) for row in batch["images"]}
    for entry in members():
        for index in entry.held_out.tolist():
            padded = collate(members(), [(0, 0)], CONFIG, cameras=2)["images"] * 0
            shown = torch.from_numpy(entry.data[index].images).permute(0, 1, 4, 2, 3)
            padded[0, : len(shown)] = shown
            assert padded[0].numpy().tobytes() not in images  # what is held out is never trained on


def test_held_batches_are_even_and_only_of_what_is_held_out() -> None:
    mixture = members()
    found = held_out_batches(mixture, CONFIG, batch_size=4, cameras=2, samples=2)
    number = torch.cat([batch["dataset"] for batch in found]).tolist()
    assert number == [0, 0, 1, 1, 2, 2]
    first_of_robot = mixture[0].data[int(mixture[0].held_out[0])]
    assert np.array_equal(found[0]["images"][0].permute(0, 1, 3, 4, 2).numpy(), first_of_robot.images)
    again = held_out_batches(mixture, CONFIG, batch_size=4, cameras=2, samples=2)
    assert all(same(a, b) for a, b in zip(found, again, strict=True))
    nothing = [dataclasses.replace(entry, held_out=np.zeros(0, np.int64)) for entry in mixture]
    assert held_out_batches(nothing, CONFIG, batch_size=4, cameras=2, samples=2) == []


def test_hold_out_is_by_groups() -> None:
    groups = [f"video{index // 5}" for index in range(50)]
    held = {"video3", "video8"}
    train, out = split_samples(groups, held)
    assert sorted([*train, *out]) == list(range(50))
    assert {groups[index] for index in out} == held and not {groups[index] for index in train} & held
