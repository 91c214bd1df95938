"""The decoder is chosen by a measurement on the machine, is named in ingest.json, and changes no clip."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.ingestion import pipeline, quicker
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.source import SourceDefaults
from tests.builders.videos import numbered_video

SETTINGS = IngestSettings(size=64, clip_s=1.0, camera_gap_s=0.2)


@pytest.fixture
def video(tmp_path):
    return numbered_video(tmp_path / "v.mp4", 60, fps=30)


def test_decord_is_chosen_only_where_it_takes_much_less():
    assert quicker.choice({"pyav": 1.0, "decord": 0.7}) == "decord"
    assert quicker.choice({"pyav": 1.0, "decord": 0.9}) == "pyav"
    assert quicker.choice({"pyav": 1.0}) == "pyav"


def test_it_is_measured_once_a_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("GIZA_CACHE", str(tmp_path))
    found = quicker.quicker_decoder()
    assert found["cpu_s"]["pyav"] > 0
    assert found["chosen"] == quicker.choice(found["cpu_s"])
    monkeypatch.setattr(quicker, "IsolatedWorker", None)
    assert quicker.quicker_decoder() == found


def test_where_it_cannot_be_measured_pyav_is_taken(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("GIZA_CACHE", str(tmp_path))
    monkeypatch.setattr(quicker, "__name__", "tests.corpora.ingestion.test_quicker")
    assert quicker.quicker_decoder()["chosen"] == "pyav"
    assert "cannot be measured" in caplog.text


def measure(task, heartbeat):
    raise RuntimeError("no decoder at all")


def ingested(video, out, monkeypatch, chosen: str) -> Corpus:
    monkeypatch.setattr(pipeline, "quicker_decoder", lambda: {"chosen": chosen, "cpu_s": {chosen: 1.0}})
    make_corpus([str(video)], SETTINGS, SourceDefaults(), IngestRun(out))
    return Corpus(out)


def test_the_choice_is_named_and_both_decoders_make_the_same_clips(video, tmp_path, monkeypatch):
    pyav, decord = (ingested(video, tmp_path / name, monkeypatch, name) for name in ("pyav", "decord"))
    for corpus, name in ((pyav, "pyav"), (decord, "decord")):
        assert corpus.summary["decoder"] == name
        assert corpus.summary["config"]["settings"]["decoder"] == "auto"
        assert {row.decoder for row in corpus.clips} == {name}
        assert json.loads((corpus.root / "timing.json").read_text())["decoder_cpu_s"] == {name: 1.0}
    for one, other in zip(pyav.read(), decord.read(), strict=True):
        assert one.row.clip_id == other.row.clip_id
        np.testing.assert_array_equal(one.t_s, other.t_s)
        assert cv2.absdiff(one.frames, other.frames).mean() < 2


def test_an_ingest_goes_on_with_the_decoder_that_it_began_with(video, tmp_path, monkeypatch):
    out = tmp_path / "c"

    def stop(phase: str, done: int, total: int, seconds: float) -> None:
        if phase == "writing shards":
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "quicker_decoder", lambda: {"chosen": "decord", "cpu_s": {}})
    with pytest.raises(KeyboardInterrupt):
        make_corpus([str(video)], SETTINGS, SourceDefaults(), IngestRun(out), stop)
    assert ingested(video, out, monkeypatch, "pyav").summary["decoder"] == "decord"
