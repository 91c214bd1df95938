"""The bench measures what it says, and the stages of an extraction overlap."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from corpora.clips.corpus import Corpus
from corpora.clips.parts import plan_parts
from jobs.benchmarks.command import BenchExtractConfig, main
from jobs.benchmarks.extract import random_model, run, table
from lapa.extraction.engine import latent_key, open_pipeline
from lapa.extraction.settings import ExtractionSettings
from lapa.extraction.throughput import end_to_end, feed_alone, model_alone, prepared_sample
from lapa.pairs.reader import PairReader
from lapa.recipes import RECIPES
from tests.builders.corpora import write_corpus

STAGE_S = 0.03
"""What each stage sleeps for a clip: long beside the work itself, and no processor is needed for it."""


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
    """Two stages that take equally long end in little more than the time of one."""
    settings = ExtractionSettings(lam, corpus, 0.5, 0.1, batch_size=16, workers=1)
    pipeline = open_pipeline(settings)
    work, encode = PairReader.prepare, pipeline.model.encode

    def slow_prepare(self, clip):
        time.sleep(STAGE_S)
        return work(self, clip)

    def slow_encode(pairs):
        time.sleep(STAGE_S * len(pairs) / pairs_per_clip)
        return encode(pairs)

    parts = plan_parts(Corpus(corpus).clips, 4096)
    sample = prepared_sample(pipeline, corpus, parts)
    pairs_per_clip = sum(len(clip) for clip in sample) / len(sample)
    monkeypatch.setattr(PairReader, "prepare", slow_prepare)
    monkeypatch.setattr(pipeline.model, "encode", slow_encode)
    # seconds of each: a machine that is busy for a moment must not decide
    decode, model = feed_alone(pipeline, corpus, parts, 2.0), model_alone(pipeline, sample, 2.0)
    whole = end_to_end(
        pipeline, corpus, parts, latent_key(settings, Corpus(corpus)), tmp_path, int(4 * min(decode, model))
    )
    serial = 1 / (1 / decode + 1 / model)
    assert whole > 1.35 * serial
    assert whole < 1.1 * min(decode, model)


def test_what_cannot_be_measured_is_refused(lam, corpus, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"no bench 'extrat'\. Did you mean 'extract'"):
        main(["extrat"])
    with pytest.raises(ValueError, match="exclude each other"):
        BenchExtractConfig(corpus=corpus, video=(tmp_path,))
    with pytest.raises(ValueError, match="smaller --gap-s"):
        run(BenchExtractConfig(lam=lam, corpus=corpus, out=tmp_path, gap_s=60.0))
    main(["--help"])
    assert "extract" in capsys.readouterr().out
