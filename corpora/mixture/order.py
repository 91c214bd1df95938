"""The order of samples in a mixture of datasets, as a pure function of (seed, batch number).

So a training that resumes in the middle goes on exactly, and the order is the same for any number of workers and ranks.

- **Shares.** In batch n, datasets lie end to end on a line of `batch_size` units, each as long as its share, and one sample
  is drawn at every point v_n + k (systematic sampling); v_n advances by the golden ratio, so after any number of
  batches every dataset's count is within a few samples of its exact share, not within a random walk of it. The line is
  counted in whole ticks of 2^-40, so the count is exact, and a sum of floors (of a linear function, by Euclid's
  algorithm) gives it without walking through the batches.
- **Within a dataset** each epoch is a permutation of its own, without replacement: a Feistel network over the smallest
  power of four that holds the dataset, walking along its cycle until it is back inside (Black and Rogaway, 2002); for
  small datasets, where so small a network would not be uniform, a table.

A batch costs O(batch_size + datasets), however many samples there are and however many batches have gone by.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_TICKS = 1 << 40
_GOLDEN = round(_TICKS * (math.sqrt(5) - 1) / 2) | 1
_FEISTEL_ROUNDS = 6
_TABLE_SIZE = 4096
"""Datasets up to this size are permuted by a table."""
_GAMMA = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


class MixtureOrder:
    """Which samples of which dataset make up a batch.

    `sizes`: samples of each dataset; `weights`: their shares, of any positive sum; 0 leaves a dataset out; `names`: for
    messages. Raises ValueError for negative or infinite weights, for a dataset with weight but without samples, and
    where no weight is positive.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        *,
        batch_size: int,
        seed: int,
        names: Sequence[str] = (),
    ) -> None:
        names = list(names) or [str(index) for index in range(len(sizes))]
        if not len(sizes) == len(weights) == len(names):
            raise ValueError(f"{len(sizes)} sizes, {len(weights)} weights, {len(names)} names: one for each dataset")
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: must be at least 1")
        for name, size, weight in zip(names, sizes, weights, strict=True):
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weight {weight} of dataset '{name}': must be finite and 0 or more")
            if weight > 0 and size < 1:
                raise ValueError(f"dataset '{name}' is empty: give it samples, or the weight 0")
        total = sum(Fraction(weight) for weight in weights)
        if total <= 0:
            raise ValueError(f"weights {list(weights)}: at least one must be above 0")
        self.sizes = tuple(int(size) for size in sizes)
        self.batch_size, self.seed = batch_size, seed
        upto, ends = Fraction(0), [0]
        for weight in weights:
            upto += Fraction(weight)
            ends.append(math.floor(batch_size * _TICKS * upto / total))
        self._ends = ends
        """Datasets lie between these ticks."""
        self._start = _mix(seed & _WORD) % _TICKS

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each dataset; they sum to 1."""
        whole = self.batch_size * _TICKS
        return tuple((end - start) / whole for start, end in itertools.pairwise(self._ends))

    def counts(self, batches: int) -> list[int]:
        """Samples of each dataset in the first `batches` batches."""
        upto = [-_floor_sum(batches, _TICKS, _GOLDEN, self._start - end) for end in self._ends]
        return [after - before for before, after in itertools.pairwise(upto)]

    def epochs(self, batches: int) -> list[float]:
        """How often each dataset has been gone through after `batches` batches; 0 for an empty one."""
        return [count / size if size else 0.0 for count, size in zip(self.counts(batches), self.sizes, strict=True)]

    def batch(self, number: int, *, rank: int = 0, ranks: int = 1) -> list[tuple[int, int]]:
        """(dataset, index) of each sample of batch `number`, dataset after dataset.

        With several ranks, every `ranks`-th from `rank` on: together they are the batch, and each has the datasets'
        shares. Raises ValueError where `batch_size` does not divide, or for a number below 0.
        """
        if number < 0:
            raise ValueError(f"batch number {number}: must be 0 or more")
        if not 0 <= rank < ranks or self.batch_size % ranks:
            raise ValueError(
                f"rank {rank} of {ranks} with batch_size {self.batch_size}: the batch must divide evenly among the ranks"
            )
        before = self.counts(number)
        point = self._start + number * _GOLDEN
        upto = [-((point - end) // _TICKS) for end in self._ends]
        chosen: list[tuple[int, int]] = []
        for dataset, (first, (low, high)) in enumerate(zip(before, itertools.pairwise(upto), strict=True)):
            if high > low:
                chosen += [(dataset, index) for index in self._drawn(dataset, first, first + high - low).tolist()]
        assert len(chosen) == self.batch_size
        return chosen[rank::ranks]

    def _drawn(self, dataset: int, first: int, last: int) -> NDArray[np.uint64]:
        """Indices of the dataset's draws [first, last)."""
        size = self.sizes[dataset]
        parts = []
        while first < last:
            epoch, place = divmod(first, size)
            stop = min(last, (epoch + 1) * size)
            key = _mix(_mix(_mix(self.seed & _WORD) ^ (dataset + 1)) ^ epoch)
            parts.append(permuted(np.arange(place, place + stop - first, dtype=np.uint64), size, key))
            first = stop
        return np.concatenate(parts)


def permuted(places: NDArray[np.uint64], size: int, key: int) -> NDArray[np.uint64]:
    """Where a pseudo-random permutation of range(size), chosen by `key`, sends these places (uint64, below `size`)."""
    if size <= _TABLE_SIZE:
        return _table(size, key)[places]
    half = math.ceil((size - 1).bit_length() / 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    keys = [np.uint64(_mix(key ^ (turn + 1))) for turn in range(_FEISTEL_ROUNDS)]
    values = places.copy()
    outside = np.ones(len(values), np.bool_)
    while outside.any():
        x = values[outside]
        left, right = x >> shift, x & mask
        for round_key in keys:
            left, right = right, left ^ (_scrambled(right ^ round_key) & mask)
        values[outside] = (left << shift) | right
        outside = values >= size
    return values


@functools.lru_cache(maxsize=256)
def _table(size: int, key: int) -> NDArray[np.uint64]:
    order = np.argsort(_scrambled(np.arange(size, dtype=np.uint64) + np.uint64(key)), kind="stable")
    return order.astype(np.uint64)


def _scrambled(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al., 2014); arithmetic modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix(x: int) -> int:
    """One step of splitmix64, for whole numbers."""
    x = (x + _GAMMA) & _WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
    return x ^ (x >> 31)


def _floor_sum(count: int, modulus: int, slope: int, offset: int) -> int:
    """Sum of floor((slope * i + offset) / modulus) over i in [0, count), in O(log modulus)."""
    total = 0
    while count > 0:
        total += (slope // modulus) * (count * (count - 1) // 2) + (offset // modulus) * count
        slope, offset = slope % modulus, offset % modulus
        top = slope * count + offset
        if top < modulus:
            break
        # the points below the line, counted along the other axis
        count, offset = divmod(top, modulus)
        modulus, slope = slope, modulus
    return total
