"""The order of a mixture: exact shares, epochs without replacement, the same wherever one begins."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from corpora.mixture.order import MixtureOrder, permuted

SIZES = (5000, 40, 7, 123_457)
WEIGHTS = (5.0, 1.0, 0.01, 3.0)


def order(**changes: object) -> MixtureOrder:
    settings: dict = {"sizes": SIZES, "weights": WEIGHTS, "batch_size": 32, "seed": 3, **changes}
    return MixtureOrder(settings.pop("sizes"), settings.pop("weights"), **settings)


def test_every_members_count_stays_within_a_few_samples_of_its_share() -> None:
    mixture, counted, shares = order(), Counter(), np.array(WEIGHTS) / sum(WEIGHTS)
    for number in range(600):
        assert mixture.counts(number) == [counted[member] for member in range(4)]
        batch = mixture.batch(number)
        assert len(batch) == 32
        counted.update(member for member, _ in batch)
        exact = shares * 32 * (number + 1)
        assert np.abs([counted[member] - exact[member] for member in range(4)]).max() < 4
    # a random walk of the same length would be off by sqrt(n p (1 - p)), about 69 for the first member
    assert counted[2] in range(19, 24)


def test_the_count_far_along_is_exact_without_walking_there() -> None:
    mixture = order()
    far = 10**9
    shares = np.array(WEIGHTS) / sum(WEIGHTS)
    assert np.abs(np.array(mixture.counts(far)) / (32.0 * far) - shares).max() < 1e-8
    before, after = mixture.counts(far), mixture.counts(far + 1)
    counted = Counter(member for member, _ in mixture.batch(far))
    assert [after[m] - before[m] for m in range(4)] == [counted[m] for m in range(4)]


@pytest.mark.parametrize("size", [1, 2, 3, 40, 4096, 4097, 5000, 70_001])
def test_every_epoch_of_a_member_is_a_permutation(size: int) -> None:
    places = np.arange(size, dtype=np.uint64)
    first, second = permuted(places, size, 11), permuted(places, size, 12)
    assert np.array_equal(np.sort(first), places)
    assert np.array_equal(np.sort(second), places)
    if size >= 40:
        assert np.mean(first == second) < 0.2
        assert np.mean(first == places) < 0.2
        # neighbours do not stay neighbours
        assert np.median(np.abs(np.diff(first.astype(np.int64)))) > size / 6
        some = np.array([size // 2, 0, size - 1], np.uint64)
        assert np.array_equal(permuted(some, size, 11), first[some])


def test_permutations_of_few_are_all_equally_frequent() -> None:
    counts = Counter(tuple(permuted(np.arange(4, dtype=np.uint64), 4, key * 7919).tolist()) for key in range(12_000))
    assert len(counts) == 24
    chi = sum((count - 500) ** 2 / 500 for count in counts.values())
    assert chi < 49.7  # 0.1% of the chi-square distribution with 23 degrees of freedom


def test_a_member_is_gone_through_before_anything_comes_again() -> None:
    mixture = order(sizes=(30, 10), weights=(3, 1), batch_size=8)
    for member, size in enumerate((30, 10)):
        drawn = [index for number in range(20) for m, index in mixture.batch(number) if m == member]
        assert len(drawn) == size * 4
        for epoch in range(4):
            assert sorted(drawn[epoch * size : (epoch + 1) * size]) == list(range(size))
        assert drawn[:size] != drawn[size : 2 * size]
    assert mixture.epochs(20) == [4.0, 4.0]


def test_the_order_is_a_function_of_seed_and_number_alone() -> None:
    walked = [order().batch(number) for number in range(40)]
    resumed = order()
    assert [resumed.batch(number) for number in reversed(range(40))] == walked[::-1]
    assert [order(seed=4).batch(number) for number in range(40)] != walked


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_share_a_batch_and_each_has_the_members_shares(ranks: int) -> None:
    mixture = order()
    for number in range(20):
        parts = [mixture.batch(number, rank=rank, ranks=ranks) for rank in range(ranks)]
        assert sorted(pair for part in parts for pair in part) == sorted(mixture.batch(number))
        for member in range(4):
            counts = [sum(m == member for m, _ in part) for part in parts]
            assert max(counts) - min(counts) <= 1


def test_what_cannot_be_mixed_is_said() -> None:
    with pytest.raises(ValueError, match="weight -1 of dataset 'clips'"):
        order(weights=(1, -1, 1, 1), names=("robot", "clips", "a", "b"))
    with pytest.raises(ValueError, match="dataset 'clips' is empty"):
        order(sizes=(5, 0, 5, 5), names=("robot", "clips", "a", "b"))
    with pytest.raises(ValueError, match="at least one must be above 0"):
        order(weights=(0, 0, 0, 0))
    with pytest.raises(ValueError, match="nan"):
        order(weights=(1, float("nan"), 0, 0))
    with pytest.raises(ValueError, match="4 sizes, 3 weights"):
        order(weights=(1, 1, 1))
    with pytest.raises(ValueError, match="batch_size 32"):
        order().batch(0, rank=0, ranks=3)
    with pytest.raises(ValueError, match="batch_size 0"):
        order(batch_size=0)
    empty_without_weight = order(sizes=(5, 0, 5, 5), weights=(1, 0, 1, 1))
    assert {member for n in range(9) for member, _ in empty_without_weight.batch(n)} == {0, 2, 3}
