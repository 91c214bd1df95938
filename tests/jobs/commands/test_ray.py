"""Ray: what it makes on a cluster is what one process makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora.ingestion.pipeline import IngestRun, make_corpus
from corpora.ingestion.settings import IngestSettings
from corpora.sources.source import SourceDefaults
from jobs.benchmarks.extract import random_model
from jobs.commands.extract import ExtractConfig, run
from lapa.recipes import RECIPES
from tests.builders.corpora import corpus_files
from tests.builders.latents import assert_same_rows, parts, rows
from tests.builders.videos import numbered_video, turn_clockwise

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_ray_ingests_the_same_bytes(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for seed, name in enumerate(("a.mp4", "b.mkv", "c.webm", "d.mp4")):
        how = {"codec": "libvpx-vp9"} if name.endswith("webm") else {}
        numbered_video(videos / name, 30, seed=seed % 3, **how)  # the last is a copy of the first
    (videos / "e.mp4").write_bytes(b"no video")
    turn_clockwise(numbered_video(videos / "f.mp4", 20, seed=4, audio=True), 1)
    numbered_video(videos / "g.mkv", 20, seed=5, times=np.cumsum([0.04, 0.08] * 10))
    settings = IngestSettings(size=64, clip_s=1.0, camera_gap_s=0.2)
    for out, engine in ((tmp_path / "alone", "local"), (tmp_path / "ray", "ray")):
        make_corpus([str(videos)], settings, SourceDefaults(), IngestRun(out, engine, 2))
    assert corpus_files(tmp_path / "ray") == corpus_files(tmp_path / "alone")


@pytest.mark.usefixtures("cluster")
def test_ray_extracts_the_same_rows(tiny_corpus: Path, tmp_path: Path) -> None:
    random_model(RECIPES["debug"].model, tmp_path / "lam", 0)

    def extract(out: str, **how: object) -> dict[str, object]:
        common = {"gap_s": 0.5, "part_frames": 70, "batch_size": 8, "device": "cpu", "measure_s": 0.0}
        return run(ExtractConfig(lam=tmp_path / "lam", corpus=tiny_corpus, out=tmp_path / out, **{**common, **how}))

    extract("alone")
    summary = extract("ray", engine="ray", measure_s=0.1)
    assert extract("ray", engine="ray")["already_finished"]
    assert_same_rows(rows(tmp_path / "ray"), rows(tmp_path / "alone"))
    assert sorted(parts(tmp_path / "ray")) == sorted(parts(tmp_path / "alone")) and len(parts(tmp_path / "ray")) > 2
    assert summary["skipped_reasons"] == {"shorter_than_gap": 1} and summary["decode_pairs_per_s"] > 0


@pytest.mark.usefixtures("cluster")
def test_where_the_model_runs_is_what_the_cluster_has_and_not_this_machine(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_model(RECIPES["debug"].model, tmp_path / "lam", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = ExtractConfig(
        lam=tmp_path / "lam", corpus=tiny_corpus, out=tmp_path / "out", engine="ray", measure_s=0.0, part_frames=1000
    )
    assert run(config)["device"] == "cpu"
    with pytest.raises(ValueError, match="device 'cuda': no machine of the cluster has a GPU"):
        run(dataclasses.replace(config, device="cuda", out=tmp_path / "other"))
