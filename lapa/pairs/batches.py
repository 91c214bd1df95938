"""Batches of pairs for training: which pairs, augmented how, is a function of (seed, batch number) alone.

So a resumed training sees just what an uninterrupted one would have seen, whatever the number of processes and loaders; each
process has its rows of every batch. Images are in uint8: they become floats (`PairBatch.floats`) on the device. A corpus larger
than the disk budget is streamed from its shards through pools of clips.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.parts import Part
from lapa.pairs.batch import PairBatch
from lapa.pairs.cache import decoded
from lapa.pairs.reader import PairReader
from lapa.pairs.table import PairTable


class StoredBatches(IterableDataset):  # type: ignore[type-arg]
    """Batches number `start`, `start` + 1, ... of a table; endless. Of each, every `ranks`-th pair from `rank` on."""

    def __init__(
        self, table: PairTable, batch_size: int, *, seed: int, rank: int = 0, ranks: int = 1, start: int = 0
    ) -> None:
        self.table, self.batch_size, self.seed, self.start = table, batch_size, seed, start
        self.rank, self.ranks = rank, ranks

    def batch(self, number: int) -> PairBatch:
        """This rank's part of batch `number`, the same at every call."""
        rng = np.random.default_rng((self.seed, 0, number))
        chosen = self.table.draw(rng.random(self.batch_size)[self.rank :: self.ranks])
        return self.table.batch(chosen).augmented(rng, rank=self.rank, ranks=self.ranks)

    def __iter__(self) -> Iterator[PairBatch]:
        worker = get_worker_info()
        offset, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = self.start + offset
        while True:
            yield self.batch(number)
            number += step


BATCHES = 2
"""Raised when the same settings would make other batches. 1 had a batch for each device, and streams in another order."""
LANES = 4
"""Batch n is of lane n % LANES: of so many loaders each reads clips of its own."""
PARTS = 8
"""Pair i of a batch is of part i % PARTS: of so many processes each reads clips of its own."""


class StreamedBatches(IterableDataset):  # type: ignore[type-arg]
    """Batches from pools of clips that are refilled from the shards in random order; memory is that of the pools. Of each batch,
    every `ranks`-th pair from `rank` on.

    Each part of each lane is a stream of its own, with its share of the clips and its pool. What enters a pool and what is drawn
    from it is a function of the seed and the manifest's rows, not of what the clips hold, so batch `start` of a resumed training
    is found by counting, without decoding what came before; other numbers of loaders and processes only read other streams.
    """

    def __init__(
        self,
        corpus: Corpus,
        rows: Sequence[ClipRow],
        reader: PairReader,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        start: int = 0,
        pool: int = 8,
        pairs_per_clip: int = 32,
    ) -> None:
        """`pool`: clips of each stream. Raises ValueError where no clip is long enough for a pair."""
        gap_s = min(reader.gaps_s)
        long = [n for n, row in enumerate(rows) if row.frames > 1 and row.seconds > 0.9 * gap_s - 1 / max(row.fps, 1)]
        if not long:
            raise ValueError(
                f"no clip is long enough for a pair {gap_s:g} s apart: choose a shorter --model.pair.gap-s"
            )
        self.corpus, self.rows, self.reader, self.batch_size = corpus, rows, reader, batch_size
        self.seed, self.rank, self.ranks, self.start = seed, rank, ranks, start
        self.pool, self.pairs_per_clip = pool, pairs_per_clip
        self._long = sorted(long, key=lambda n: (rows[n].shard, rows[n].index_in_shard))

    def __iter__(self) -> Iterator[PairBatch]:
        worker = get_worker_info()
        first, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        mine = range(self.rank, self.batch_size, self.ranks)
        streams: dict[int, _Stream] = {}
        for number in itertools.count(self.start + first, workers):
            turn, lane = divmod(number, LANES)
            pairs: dict[int, PairBatch] = {}
            for part in sorted({row % PARTS for row in mine}):
                rows = range(part, self.batch_size, PARTS)
                place = lane * PARTS + part
                if place not in streams:
                    streams[place] = _Stream(self, self._of_stream(place), place, turn * len(rows))
                pairs |= streams[place].pairs(rows, turn * len(rows), set(mine))
            rng = np.random.default_rng((self.seed, 0, number))
            batch = PairBatch.cat([pairs[row] for row in mine])
            yield batch.augmented(rng, rank=self.rank, ranks=self.ranks)

    def _of_stream(self, stream: int) -> list[int]:
        """Places in `rows` that one of the streams reads: whole shards where there are many, else some clips of each."""
        shards, streams = sorted({self.rows[n].shard for n in self._long}), LANES * PARTS
        if len(shards) >= 8 * streams:  # else some streams, and so their clips, would have far fewer shards than others
            mine = set(shards[stream::streams])
            return [n for n in self._long if self.rows[n].shard in mine]
        return self._long[stream::streams] or self._long


class _Stream:
    """The clips `mine` (places in the batches' rows) through a pool: entry e is clip e % C of epoch e // C."""

    def __init__(self, batches: StreamedBatches, mine: list[int], stream: int, drawn: int) -> None:
        """`drawn`: pairs of it in the batches before."""
        self._rows, self._reader, self._root = batches.rows, batches.reader, batches.corpus.root
        self._mine, self._name = mine, f"{batches.seed} {stream}"
        rng = np.random.default_rng((batches.seed, stream))
        self._pool = _Pool(min(batches.pool, len(mine)), batches.pairs_per_clip, rng)
        self._drawn = 0
        self._skip(drawn)
        self._tables: dict[int, PairTable | None] = {}
        for entry, _ in self._pool.entries:
            self._tables[entry] = self._read(entry)
        self._next = self._pool.entered
        self._coming = self._read_on(self._next)

    def pairs(self, rows: Sequence[int], drawn: int, wanted: set[int]) -> dict[int, PairBatch]:
        """Its pairs of one batch, behind which `drawn` were drawn before: those for the rows `wanted`."""
        self._skip(drawn)
        self._drawn += len(rows)
        draws = {row: self._pool.draw() for row in rows}
        found = {}
        for row in (row for row in rows if row in wanted):
            entry, share = draws[row]
            table = self._from(entry)
            found[row] = table.batch(table.draw(np.array([share])), flow=self._reader.flow)
        for gone in self._tables.keys() - {entry for entry, _ in self._pool.entries}:
            del self._tables[gone]
        return found

    def _skip(self, drawn: int) -> None:
        for _ in range(drawn - self._drawn):
            self._pool.draw()
        self._drawn = drawn

    def _from(self, entry: int) -> PairTable:
        """The pairs of this entry; in the place of a clip without a pair, those of the next one that has some."""
        for other in range(entry, entry + len(self._mine)):
            if (table := self._table(other)) is not None:
                return table
        raise ValueError(
            f"{len(self._mine)} clips in a row hold no pair {min(self._reader.gaps_s):g} s apart: choose a shorter "
            "--model.pair.gap-s"
        )

    def _table(self, entry: int) -> PairTable | None:
        while entry >= self._next:
            self._tables[self._next] = next(self._coming)
            self._next += 1
        if entry not in self._tables:
            self._tables[entry] = self._read(entry)
        return self._tables[entry]

    def _order(self, epoch: int) -> list[int]:
        """Its clips in the order of an epoch: shards at random, each from its beginning to its end."""
        by_shard: dict[str, list[int]] = {}
        for n in self._mine:
            by_shard.setdefault(self._rows[n].shard, []).append(n)
        shards = list(by_shard)
        random.Random(f"{self._name} {epoch}").shuffle(shards)
        return [n for shard in shards for n in by_shard[shard]]

    def _read_on(self, entry: int) -> Iterator[PairTable | None]:
        """The pairs of clip after clip, from `entry` on."""

        def parts() -> Iterator[Part]:
            skip = entry % len(self._mine)
            for epoch in itertools.count(entry // len(self._mine)):
                order = self._order(epoch)[skip:]
                skip = 0
                for shard, places in itertools.groupby(order, key=lambda n: self._rows[n].shard):
                    yield Part(0, shard, tuple(self._rows[n] for n in places))

        place = {self._rows[n].clip_id: n for n in self._mine}
        for _, row, item in self._reader.read_tables(self._root, parts()):
            yield _placed(decoded(item), place[row.clip_id])

    def _read(self, entry: int) -> PairTable | None:
        """The pairs of one clip alone."""
        n = self._order(entry // len(self._mine))[entry % len(self._mine)]
        part = Part(0, self._rows[n].shard, (self._rows[n],))
        ((_, _, item),) = self._reader.read_tables(self._root, [part])
        return _placed(decoded(item), n)


class _Pool:
    """Entries 0, 1, 2, ... come in as others leave; a pair is drawn from one of those that are in."""

    def __init__(self, size: int, pairs_per_clip: int, rng: np.random.Generator) -> None:
        self.entries: list[tuple[int, int]] = []
        """(entry, pairs drawn of it)."""
        self.entered = 0
        self._size, self._pairs_per_clip, self._rng = size, pairs_per_clip, rng

    def draw(self) -> tuple[int, float]:
        """An entry, and which of its pairs, in [0, 1)."""
        while len(self.entries) < self._size:
            self.entries.append((self.entered, 0))
            self.entered += 1
        place = int(self._rng.integers(self._size))
        entry, drawn = self.entries.pop(place)
        if drawn + 1 < self._pairs_per_clip:
            self.entries.insert(place, (entry, drawn + 1))
        return entry, float(self._rng.random())


def _placed(table: PairTable | None, place: int) -> PairTable | None:
    return None if table is None else dataclasses.replace(table, clip=np.full(len(table), place, np.int64))


def loader_workers(wanted: int | None) -> int:
    """Loader processes: as wanted, else one where a second core is free for it, at most 8."""
    if wanted is not None:
        return wanted
    return max(0, min(8, (os.cpu_count() or 1) - 1))
