"""Batches of pairs for training: which pairs, augmented how, is a function of (seed, rank, batch number) alone.

So a resumed training sees just what an uninterrupted one would have seen. A corpus larger than the disk budget is streamed
from its shards through a pool of clips; there the order depends on the number of loader workers as well.
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
    """Batches number `start`, `start` + 1, ... of a table; endless."""

    def __init__(self, table: PairTable, batch_size: int, *, seed: int, rank: int = 0, start: int = 0) -> None:
        self.table, self.batch_size, self.seed, self.rank, self.start = table, batch_size, seed, rank, start

    def batch(self, number: int) -> PairBatch:
        """Batch `number`, the same at every call."""
        rng = np.random.default_rng((self.seed, self.rank, number))
        return self.table.batch(self.table.draw(rng.random(self.batch_size))).floats().augmented(rng)

    def __iter__(self) -> Iterator[PairBatch]:
        worker = get_worker_info()
        offset, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = self.start + offset
        while True:
            yield self.batch(number)
            number += step


class StreamedBatches(IterableDataset):  # type: ignore[type-arg]
    """Batches from a pool of clips that is refilled from the shards in random order; memory is that of the pool.

    What enters the pool and what is drawn from it is a function of the seed and the manifest's rows, not of what the clips
    hold, so batch `start` of a resumed training is found by counting, without decoding what came before.
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
        pool: int = 64,
        pairs_per_clip: int = 32,
    ) -> None:
        """Raises ValueError where no clip is long enough for a pair."""
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
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # batch n is that of stream n % workers, whichever loader the resumed session asks first
        number += self.start
        stream, streams = self.rank * workers + number % workers, self.ranks * workers
        mine = self._of_stream(stream, streams)
        pool = _Pool(min(self.pool, len(mine)), self.pairs_per_clip, np.random.default_rng((self.seed, stream)))
        for _ in range(number // workers * self.batch_size):
            pool.draw()
        tables = self._resumed(mine, stream, [entry for entry, _ in pool.entries])
        coming = self._tables(mine, stream, pool.entered)
        for batch in itertools.count(number // workers):
            pairs = [self._pair(pool, tables, coming) for _ in range(self.batch_size)]
            rng = np.random.default_rng((self.seed, stream, batch))
            yield PairBatch.cat(pairs).floats().augmented(rng)

    def _pair(
        self, pool: _Pool, tables: dict[int, PairTable | None], coming: Iterator[tuple[int, PairTable | None]]
    ) -> PairBatch:
        entry, share = pool.draw()
        while entry not in tables:
            tables |= [next(coming)]
        for gone in tables.keys() - {entry} - {kept for kept, _ in pool.entries}:
            del tables[gone]
        # in the place of a clip without a pair, the next one that has some
        others = sorted(tables, key=lambda other: (other < entry, other))
        table = next((found for other in others if (found := tables[other]) is not None), None)
        if table is None:
            raise ValueError(
                f"{len(tables)} clips in a row hold no pair {min(self.reader.gaps_s):g} s apart: choose a shorter "
                "--model.pair.gap-s"
            )
        return table.batch(table.draw(np.array([share])), flow=self.reader.flow)

    def _of_stream(self, stream: int, streams: int) -> list[int]:
        """Places in `rows` that one of the streams reads: whole shards where there are enough, else some clips of each."""
        shards = sorted({self.rows[n].shard for n in self._long})
        if len(shards) >= streams:
            mine = set(shards[stream::streams])
            return [n for n in self._long if self.rows[n].shard in mine]
        return self._long[stream::streams] or self._long

    def _order(self, mine: list[int], stream: int, epoch: int) -> list[int]:
        """The stream's clips in the order of an epoch: shards at random, each from its beginning to its end."""
        by_shard: dict[str, list[int]] = {}
        for n in mine:
            by_shard.setdefault(self.rows[n].shard, []).append(n)
        shards = list(by_shard)
        random.Random(f"{self.seed} {stream} {epoch}").shuffle(shards)
        return [n for shard in shards for n in by_shard[shard]]

    def _tables(self, mine: list[int], stream: int, entry: int) -> Iterator[tuple[int, PairTable | None]]:
        """(entry, pairs of its clip) from `entry` on; entry e is clip e % C of epoch e // C."""

        def parts() -> Iterator[Part]:
            skip = entry % len(mine)
            for epoch in itertools.count(entry // len(mine)):
                order = self._order(mine, stream, epoch)[skip:]
                skip = 0
                for shard, places in itertools.groupby(order, key=lambda n: self.rows[n].shard):
                    yield Part(0, shard, tuple(self.rows[n] for n in places))

        place = {self.rows[n].clip_id: n for n in mine}
        for number, (_, row, item) in enumerate(self.reader.read_tables(self.corpus.root, parts()), entry):
            yield number, _placed(decoded(item), place[row.clip_id])

    def _resumed(self, mine: list[int], stream: int, entries: list[int]) -> dict[int, PairTable | None]:
        """The pairs of the clips that are in the pool where a session resumes."""
        tables: dict[int, PairTable | None] = {}
        for entry in entries:
            n = self._order(mine, stream, entry // len(mine))[entry % len(mine)]
            part = Part(0, self.rows[n].shard, (self.rows[n],))
            ((_, _, item),) = self.reader.read_tables(self.corpus.root, [part])
            tables[entry] = _placed(decoded(item), n)
        return tables


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
