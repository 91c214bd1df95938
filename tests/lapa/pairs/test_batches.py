"""Batches of pairs, from a store and from a stream: what they hold, and that a resumed run repeats them."""

from __future__ import annotations

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from corpora.clips.corpus import Corpus
from corpora.video.nearest import pair_indices
from lapa.pairs import batches
from lapa.pairs.batch import BRIGHTNESS, CONTRAST, SHIFT, PairBatch, _shift, _shift_flow
from lapa.pairs.batches import StoredBatches, StreamedBatches
from lapa.pairs.cache import open_table
from lapa.pairs.config import LabelSpec
from lapa.pairs.known_motion import SeenLabels, relative_motion
from lapa.pairs.pair import resize_frames
from lapa.pairs.reader import PairReader
from tests.builders.lam import TINY


@pytest.fixture(scope="module")
def store(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    read = Corpus(tiny_corpus)
    labelled = {row.clip_id for row in read.clips[:5]}
    labels = SeenLabels(LabelSpec("observation.state", (0, 1, 2), 0.5), frozenset(labelled), 3)
    reader = PairReader(TINY.pair, TINY.pair.gap_s, training=True, labels=labels)
    cache = tmp_path_factory.mktemp("cache")
    with ThreadPoolExecutor(2) as pool:  # of two that want it at once, one makes it
        made, again = pool.map(lambda _: open_table(read, read.clips, reader, cache=cache), range(2))
    (folder,) = cache.glob("pairs-*")
    before = folder.stat().st_mtime_ns
    assert open_table(read, read.clips, reader, cache=cache) is not None
    assert folder.stat().st_mtime_ns == before and not list(cache.glob(".partial*"))  # decoded nothing
    np.testing.assert_array_equal(made.frames, again.frames)
    return made, reader


def test_a_corpus_made_in_another_way_is_decoded_again(tiny_corpus: Path, tmp_path: Path) -> None:
    """L8: the clips' ids alone are those of a corpus at another frame rate, too."""
    first, other = Corpus(tiny_corpus), Corpus(tiny_corpus)
    other.summary = {**first.summary, "config": {"settings": {"fps": 10.0}}}
    for read in (first, other, first):
        open_table(read, read.clips[:2], PairReader(TINY.pair), cache=tmp_path)
    assert len(list(tmp_path.glob("pairs-*"))) == 2


def test_pairs_of_the_store_are_those_of_the_clips(store, tiny_corpus: Path) -> None:  # type: ignore[no-untyped-def]
    made, reader = store
    count = 0
    for number, clip in enumerate(Corpus(tiny_corpus).read()):
        small = resize_frames(clip.frames, reader.config.image_size)
        first, second = np.concatenate([pair_indices(clip.t_s, gap) for gap in reader.gap_s], 1)
        rows = np.flatnonzero(made.clip == number)
        np.testing.assert_array_equal(made.frames[made.first[rows]], small[first])
        np.testing.assert_array_equal(made.frames[made.second[rows]], small[second])
        np.testing.assert_array_equal(made.t_s[rows], clip.t_s[first])
        np.testing.assert_array_equal(made.gap_s[rows], clip.t_s[second] - clip.t_s[first])
        if clip.row.clip_id in reader.labels.clips:
            gap_s = clip.t_s[second] - clip.t_s[first]
            wanted = relative_motion(clip.truth, "observation.state", clip.t_s[first], gap_s)  # type: ignore[arg-type]
            np.testing.assert_allclose(made.label[rows], wanted, atol=1e-6)
        else:
            assert np.isnan(made.label[rows]).all()
        count += len(rows)
    assert count == len(made) > 100
    assert len(np.unique(made.first)) < len(made.frames) <= sum(row.frames for row in Corpus(tiny_corpus).clips)


def test_a_batch_is_a_function_of_its_number(store) -> None:  # type: ignore[no-untyped-def]
    made, _ = store
    straight = StoredBatches(made, 8, seed=3)
    resumed = StoredBatches(made, 8, seed=3, start=5)
    wanted = [straight.batch(n) for n in range(5, 8)]
    for a, b in zip(wanted, resumed, strict=False):
        assert_same(a, b)
    halves = [StoredBatches(made, 8, seed=3, rank=rank, ranks=2).batch(5) for rank in range(2)]
    assert_same(interleaved(halves), wanted[0])


def interleaved(parts: list[PairBatch]) -> PairBatch:
    """The batch of which each process has its rows."""
    count = len(parts) * len(parts[0])
    return PairBatch.cat(parts).take(np.arange(count).reshape(len(parts), -1).T.ravel())


def assert_same(a: PairBatch, b: PairBatch) -> None:
    for field in dataclasses.fields(PairBatch):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert (one is None) == (other is None), field.name
        assert one is None or torch.equal(one.nan_to_num(), other.nan_to_num()), field.name


def test_augmentation_keeps_what_happened(store, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Both frames get one change, so the difference is the shifted difference times the contrast."""
    made, _ = store
    plain = made.batch(np.arange(8)).floats()
    monkeypatch.setattr("lapa.pairs.batch.CONTRAST", 0.0)
    monkeypatch.setattr("lapa.pairs.batch.BRIGHTNESS", 0.3)
    seen = made.batch(np.arange(8)).augmented(np.random.default_rng(0)).floats()
    change = plain.second - plain.first
    moved = seen.second - seen.first
    same = [
        torch.allclose(moved[..., 4:-4, 4:-4], torch.roll(change, (dy, dx), (-2, -1))[..., 4:-4, 4:-4], atol=1e-6)
        for dx in range(-2, 3)
        for dy in range(-2, 3)
    ]
    assert any(same)


def in_floats(pairs: PairBatch, rng: np.random.Generator) -> PairBatch:
    """Augmented as floats on the CPU, which is what loaders did before images went to the device in uint8."""
    plain, margin = pairs.floats(), round(SHIFT * pairs.first.shape[-1])
    dx, dy = (int(value) for value in rng.integers(-margin, margin + 1, 2))
    light, shade = (torch.from_numpy(rng.uniform(-1, 1, (len(pairs), 1, 1, 1))).float() for _ in range(2))
    first, second = (
        (_shift(image, dx, dy) - 0.5) * (1 + CONTRAST * light) + 0.5 + BRIGHTNESS * shade
        for image in (plain.first, plain.second)
    )
    assert plain.valid is not None and plain.flow is not None
    valid, flow = _shift(plain.valid, dx, dy), _shift_flow(plain.flow, dx, dy)
    return dataclasses.replace(plain, first=first, second=second, valid=valid, flow=flow)


def test_images_go_to_the_device_in_uint8_and_are_there_what_they_were_as_floats(store) -> None:  # type: ignore[no-untyped-def]
    made, _ = store
    for number in range(4):
        rng = np.random.default_rng((3, 0, number))
        wanted = in_floats(made.batch(made.draw(rng.random(8))), rng)
        loaded = StoredBatches(made, 8, seed=3).batch(number)
        assert loaded.first.dtype == loaded.second.dtype == torch.uint8 and loaded.valid.dtype == torch.bool
        there = loaded.to("cpu").floats()
        assert_same(there, wanted)
        assert there.first.is_contiguous() and there.second.is_contiguous()  # else networks round in another way
        assert_same(there.floats(), wanted)


def test_streaming_gives_the_same_kind_of_batch(store, tiny_corpus: Path) -> None:  # type: ignore[no-untyped-def]
    made, reader = store
    read = Corpus(tiny_corpus)
    batch = next(iter(StreamedBatches(read, read.clips, reader, 8, seed=0, pool=4)))
    stored = StoredBatches(made, 8, seed=0).batch(0)
    for field in dataclasses.fields(PairBatch):
        one, other = getattr(batch, field.name), getattr(stored, field.name)
        assert (None if one is None else (one.shape, one.dtype)) == (
            None if other is None else (other.shape, other.dtype)
        )
    assert 0 < batch.flow.abs().mean() < 20
    # each is a pair of the table: the same clip, time and gap
    known = set(zip(made.clip.tolist(), made.t_s.tolist(), made.gap_s.tolist(), strict=True))
    assert set(zip(batch.clip.tolist(), batch.t_s.tolist(), batch.gap_s.tolist(), strict=True)) <= known


def test_each_gap_has_its_share_however_few_pairs_it_has(tiny_corpus: Path, tmp_path: Path) -> None:
    """L11: a clip of two seconds holds four times as many pairs 0.3 s apart as 1.5 s."""
    read, gaps_s = Corpus(tiny_corpus), (0.3, 1.0, 1.5)
    pair = dataclasses.replace(TINY.pair, gap_s=gaps_s)
    reader = PairReader(pair, gaps_s, training=True)
    table = open_table(read, read.clips, reader, cache=tmp_path)
    assert table is not None
    held = [int((abs(table.gap_s - gap_s) < 0.2).sum()) for gap_s in gaps_s]
    assert held[0] > 2.5 * held[2] > 0
    streamed = iter(StreamedBatches(read, read.clips, reader, 64, seed=0, pool=8))
    stored = StoredBatches(table, 64, seed=0)
    for some in ([stored.batch(n) for n in range(8)], list(itertools.islice(streamed, 8))):
        drawn = torch.cat([batch.gap_s for batch in some])
        for gap_s in gaps_s:
            assert 0.27 < ((drawn - gap_s).abs() < 0.2).double().mean() < 0.42
        assert (
            len({(int(c), round(float(t), 3)) for batch in some for c, t in zip(batch.clip, batch.t_s, strict=True)})
            > 90
        )


@pytest.mark.parametrize(("workers", "ranks"), [(3, 1), (2, 3)])
def test_a_resumed_stream_goes_on_where_it_was(
    store,
    tiny_corpus: Path,
    workers: int,
    ranks: int,
    monkeypatch,  # type: ignore[no-untyped-def]
) -> None:
    """Without decoding what came before, and with any number of loaders and processes: only the clips in the pools are read
    again."""
    _, reader = store
    read = Corpus(tiny_corpus)

    def stream(start: int, count: int, workers: int = 1, rank: int = 0, ranks: int = 1) -> list[PairBatch]:
        """As a loader with so many workers asks for them."""
        loaders = []
        for worker in range(workers):
            monkeypatch.setattr(
                batches, "get_worker_info", lambda worker=worker: SimpleNamespace(id=worker, num_workers=workers)
            )
            layout = {"rank": rank, "ranks": ranks, "pool": 3, "pairs_per_clip": 4}
            made = StreamedBatches(read, read.clips, reader, 12, seed=5, start=start, **layout)
            loaders.append(iter(list(itertools.islice(iter(made), count // workers))))
        return [next(loaders[n % workers]) for n in range(count)]

    straight = stream(0, 18)
    parts = [stream(6, 12, workers, rank, ranks) for rank in range(ranks)]
    for a, *b in zip(straight[6:], *parts, strict=True):
        assert_same(a, interleaved(b))
    assert len({int(clip) for batch in straight for clip in batch.clip}) > 5  # the pool moves on
    assert not torch.equal(straight[0].t_s, straight[6].t_s)
