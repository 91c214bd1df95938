"""The bench measures what it says, and the stages of an extraction overlap."""

from __future__ import annotations

import itertools
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from corpora.clips.corpus import Corpus
from corpora.clips.parts import plan_parts
from jobs.benchmarks import command, train
from jobs.benchmarks.command import BenchExtractConfig, BenchTrainConfig, main
from jobs.benchmarks.extract import random_model, run, table
from lapa.extraction import throughput
from lapa.extraction.engine import BatchEncoder, latent_key, open_pipeline
from lapa.extraction.settings import ExtractionSettings
from lapa.extraction.throughput import end_to_end, feed_alone, model_alone, prepared_sample
from lapa.pairs.batches import StoredBatches
from lapa.pairs.reader import PairReader
from lapa.recipes import RECIPES
from tests.builders.corpora import write_corpus


@pytest.fixture(scope="module")
def lam(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lam")
    random_model(RECIPES["debug"].model, folder, 0)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c", [4, 8, 12, 16, 20, 24])


def test_bench_writes_its_numbers(lam, corpus, tmp_path):
    config = BenchExtractConfig(lam=lam, corpus=corpus, out=tmp_path, gap_s=0.5, rounds=2, seconds=0.2, device="cpu")
    summary = run(config)
    assert json.loads((tmp_path / "bench.json").read_text())["ratio"] == summary["ratio"]
    assert min(summary[name] for name in ("pairs_per_s", "decode_pairs_per_s", "model_pairs_per_s")) > 0
    assert len(summary["rounds"]) == 2 and all(0 <= entry["others_share"] <= 1 for entry in summary["rounds"])
    assert not (tmp_path / "latents").exists()
    assert table(summary).row_count == 4


def test_decoding_and_model_overlap(lam, corpus, tmp_path, monkeypatch):
    """While the model has a batch, a clip is prepared that the model has not been given."""
    settings = ExtractionSettings(lam, corpus, 0.5, 0.1, batch_size=16, workers=1)
    pipeline = open_pipeline(settings)
    prepare, add, encode = PairReader.prepare, BatchEncoder.add, pipeline.model.encode
    parts = plan_parts(Corpus(corpus).clips, 4096)
    clips, begun, given, waited = sum(len(part.rows) for part in parts), 0, 0, 0
    changed = threading.Condition()

    def counted_prepare(self, clip):
        nonlocal begun
        with changed:
            begun += 1
            changed.notify()
        return prepare(self, clip)

    def counted_add(self, pairs):
        nonlocal given
        given += 1
        return add(self, pairs)

    def waiting_encode(pairs):
        nonlocal waited
        if given < clips:
            waited += 1
            with changed:
                assert changed.wait_for(lambda: begun > given, timeout=60)
        return encode(pairs)

    monkeypatch.setattr(PairReader, "prepare", counted_prepare)
    monkeypatch.setattr(BatchEncoder, "add", counted_add)
    monkeypatch.setattr(pipeline.model, "encode", waiting_encode)
    list(pipeline.write(corpus, parts, latent_key(settings, Corpus(corpus)), tmp_path))
    assert (begun, given) == (clips, clips) and waited


def test_stages_are_pairs_over_seconds(lam, corpus, tmp_path, monkeypatch):
    """By a clock that gains a second at each look."""
    settings = ExtractionSettings(lam, corpus, 0.5, 0.1, batch_size=16, workers=1)
    pipeline, parts = open_pipeline(settings), plan_parts(Corpus(corpus).clips, 4096)
    sample = prepared_sample(pipeline, corpus, parts)
    sizes = [len(clip) for clip in sample]
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    assert feed_alone(pipeline, corpus, parts, 3) == sum(sizes[:3]) / 3
    assert model_alone(pipeline, sample, 2) == 2 * sum(sizes) / 2
    key = latent_key(settings, Corpus(corpus))
    speed = end_to_end(pipeline, corpus, parts, key, tmp_path, 2 * sum(sizes))
    assert speed == sum(pq.read_metadata(path).num_rows for path in tmp_path.iterdir()) >= 2 * sum(sizes)


def test_what_cannot_be_measured_is_refused(lam, corpus, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"no bench 'extrat'\. Did you mean 'extract'"):
        main(["extrat"])
    with pytest.raises(ValueError, match="exclude each other"):
        BenchExtractConfig(corpus=corpus, video=(tmp_path,))
    with pytest.raises(ValueError, match="smaller --gap-s"):
        run(BenchExtractConfig(lam=lam, corpus=corpus, out=tmp_path, gap_s=60.0))
    main(["--help"])
    assert "extract" in capsys.readouterr().out


def test_a_training_that_waits_for_its_data_is_told(corpus, tmp_path, monkeypatch):
    config = BenchTrainConfig(recipe="debug", corpus=corpus, out=tmp_path / "quick", steps=20)
    quick = train.run(config)
    assert quick["goal_met"] == (quick["data_wait_share"] < 0.05) and 0 < quick["share_of_ceiling"] < 1

    read = StoredBatches.batch
    monkeypatch.setattr(StoredBatches, "batch", lambda self, number: time.sleep(0.2) or read(self, number))
    slow = train.run(BenchTrainConfig(recipe="debug", corpus=corpus, out=tmp_path / "slow", steps=20))
    assert slow["data_wait_share"] > max(0.5, quick["data_wait_share"]) and slow["ratio"] < quick["ratio"]
    assert not slow["goal_met"] and "missed" in _text(train.table(slow))


def _text(table) -> str:
    return " ".join(str(cell) for column in table.columns for cell in column.cells)


def test_all_benches_run_one_after_another(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(command, "_show", lambda name, config: ran.append((name, config.out)))
    main(["all", "--out", str(tmp_path)])
    assert ran == [(name, tmp_path / name) for name in command.BENCHES]
