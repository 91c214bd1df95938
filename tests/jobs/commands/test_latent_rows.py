"""A folder of latents is one table for whoever reads Parquet, and its rows say which frame of which video they are of."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpora.clips.corpus import Corpus
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.mixture.judged import judged
from corpora.mixture.label_kinds import Latents as LatentLabel
from corpora.sources.source import SourceDefaults
from jobs.benchmarks.extract import random_model
from jobs.commands import extract, report
from lapa.latent_dataset import LatentDataset
from lapa.latents import SCHEMA, SUMMARY, Latents
from lapa.recipes import RECIPES
from tests.builders.foreign import records_of, write_npz
from tests.builders.latents import rows
from tests.builders.reports import QUICK
from tests.builders.videos import number_of, numbered_video


def as_table(folder: Path) -> pa.Table:
    """As `pandas.read_parquet(folder)` reads it, and by pandas itself where it is installed."""
    table = pq.read_table(str(folder))
    if importlib.util.find_spec("pandas"):
        import pandas

        frame = pandas.read_parquet(str(folder))
        assert list(frame.columns) == table.column_names and len(frame) == table.num_rows
        assert frame["t_s"].tolist() == table["t_s"].to_pylist()
    return table


def test_a_folder_reads_as_one_table_after_extract_and_report(
    tiny_corpus: Path, tiny_lam: Path, tmp_path: Path
) -> None:
    out = tmp_path / "latents"
    config = extract.ExtractConfig(
        lam=tiny_lam, corpus=tiny_corpus, out=out, gap_s=0.5, measure_s=0.0, device="cpu", part_frames=40
    )
    summary = extract.run(config)
    report.run(report.ReportConfig(tiny_corpus, out, tmp_path / "report", lam=tiny_lam, settings=QUICK, threads=1))
    assert judged(out) is not None and len(list(out.glob("part-*.parquet"))) > 1
    table = as_table(out)
    assert table.schema.names == SCHEMA.names and table.num_rows == summary["pairs"]
    assert table.to_pylist() == rows(out)


def test_so_do_latents_that_came_from_elsewhere(tiny_corpus: Path, tiny_latents: Path, tmp_path: Path) -> None:
    theirs = write_npz(tmp_path / "theirs.npz", records_of(rows(tiny_latents)))
    report.run(report.ReportConfig(tiny_corpus, theirs, tmp_path / "report", settings=QUICK, threads=1))
    table = as_table(tmp_path / "report" / "latents")
    assert table.schema.names == SCHEMA.names and table.num_rows == len(rows(tiny_latents))


def test_rows_say_which_frame_of_which_video_they_are_of(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.15, 90)).tolist()
    numbered_video(tmp_path / "even.mp4", 90, seed=1, fps=30)
    numbered_video(tmp_path / "uneven.mp4", 90, seed=2, times=times)
    lines = [
        {"path": "even.mp4", "start": 1.0, "end": 2.5, "text": "open the door"},
        {"path": "uneven.mp4", "text": "close the door"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    settings = IngestSettings(size=64, clip_s=2.0, camera_gap_s=0.2)
    make_corpus([str(tmp_path / "list.jsonl")], settings, SourceDefaults(), IngestRun(tmp_path / "corpus"))
    random_model(RECIPES["debug"].model, tmp_path / "lam", 0)
    extract.run(
        extract.ExtractConfig(
            lam=tmp_path / "lam",
            corpus=tmp_path / "corpus",
            out=tmp_path / "latents",
            gap_s=0.3,
            measure_s=0.0,
            device="cpu",
        )
    )
    found = as_table(tmp_path / "latents").to_pylist()
    clips = {clip.row.clip_id: clip for clip in Corpus(tmp_path / "corpus").read()}
    assert len(found) > 20 and {row["group"] for row in found} == {row.row.group for row in clips.values()}
    for row in found:
        clip = clips[row["clip_id"]]
        image = clip.frames[np.abs(clip.t_s - row["t_s"]).argmin()]
        assert row["frame_index"] == number_of(image)  # a frame's picture is its number in the file
        even = row["source"].endswith("/even.mp4") or row["source"] == "even.mp4"
        assert row["text"] == ("open the door" if even else "close the door")
        if even:
            assert row["t_s"] == pytest.approx(row["frame_index"] / 30, abs=1e-3)
    read = Latents(tmp_path / "latents").read(clips)
    assert read.frame_index.tolist() == [row["frame_index"] for row in found]
    assert read.text.tolist() == [row["text"] for row in found]
    dataset = LatentDataset(tmp_path / "corpus", tmp_path / "latents", cache=tmp_path / "cache")
    for number in (0, len(dataset) - 1):
        sample = dataset[number]
        assert number_of(sample["frames"][0].permute(1, 2, 0).numpy()) == sample["frame_index"]


def test_a_folder_of_the_earlier_format_is_refused_in_one_line(tiny_latents: Path, tmp_path: Path) -> None:
    before = tmp_path / "latents"
    before.mkdir()
    for path in tiny_latents.iterdir():
        name = path.name.removeprefix("_")
        if path.suffix == ".parquet":
            table = pq.read_table(path).drop_columns(["text", "frame_index"])
            made = json.loads(table.schema.metadata[b"giza"])
            made["key"]["format"] = 2
            pq.write_table(table.replace_schema_metadata({b"giza": json.dumps(made).encode()}), before / name)
        else:
            (before / name).write_bytes(path.read_bytes())
    with pytest.raises(
        ValueError, match="are of format 2, this version of giza reads 3: make them again with giza extr"
    ):
        Latents(before)
    (fault,) = LatentLabel(before).faults()
    assert fault == (
        f"latents '{before}' was written by an earlier version of giza (extract.json, now {SUMMARY}): make it again by the same "
        "job, in another folder"
    )
