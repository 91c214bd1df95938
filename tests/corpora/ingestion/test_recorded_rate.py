"""Video that is stored at another rate than it was recorded: where the rate is said, all times are those of recording."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from corpora.clips.corpus import Clip, Corpus
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.source import SourceDefaults
from jobs import cli
from tests.builders.datasets import lerobot_v2
from tests.builders.videos import number_of, numbered_video

SETTINGS = IngestSettings(size=64, clip_s=10.0)


def ingested(out: Path, path: Path, settings: IngestSettings = SETTINGS, **defaults) -> list[Clip]:
    make_corpus([str(path)], settings, SourceDefaults(**defaults), IngestRun(out))
    return list(Corpus(out).read())


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("avi", "libx264"), ("h264", "libx264")]
)
def test_time_lapse_counts_as_it_was_recorded(tmp_path, suffix, codec):
    """3 Hz stored as 30: by its own clock the whole is too short for any clip."""
    path = numbered_video(tmp_path / f"v.{suffix}", 24, codec=codec, fps=30)
    assert ingested(tmp_path / "plain", path) == []
    (clip,) = ingested(tmp_path / "c", path, fps=3.0)
    np.testing.assert_allclose(clip.t_s, np.arange(24) / 3, atol=1e-6)
    assert [number_of(image) for image in clip.frames] == list(range(24))
    assert (clip.row.start_s, clip.row.end_s, clip.row.fps) == (0.0, pytest.approx(24 / 3), pytest.approx(3.0))
    gaps = clip.t_s[clip.camera["second"]] - clip.t_s[clip.camera["first"]]
    np.testing.assert_allclose(gaps[:-1], 2 / 3, atol=1e-6)  # nearest to half a second, as recorded; then the clip ends


def test_slow_motion_counts_as_it_was_recorded_and_most_frames_are_left_out(tmp_path):
    path = numbered_video(tmp_path / "v.mp4", 240, fps=30)
    (clip,) = ingested(tmp_path / "c", path, fps=120.0)
    np.testing.assert_allclose(clip.t_s, np.arange(0, 240, 6) / 120, atol=1e-6)  # max_fps 20
    assert clip.row.end_s == pytest.approx(2.0)


def test_a_flag_of_the_command_says_it(tmp_path):
    path = numbered_video(tmp_path / "v.mp4", 24, fps=30)
    flags = ["--fps", "3", "--size", "64", "--workers", "1", "--out", str(tmp_path / "c")]
    assert cli.main(["ingest", str(path), *flags]) == 0
    (row,) = Corpus(tmp_path / "c").rows()
    assert (row.kept, row.end_s) == (True, pytest.approx(8.0))


def test_lists_say_it_a_line_and_their_spans_count_alike(tmp_path):
    numbered_video(tmp_path / "v.mp4", 60, fps=30)
    numbered_video(tmp_path / "w.mp4", 60, seed=7, fps=30)
    lines = [{"path": "v.mp4", "fps": 3, "start": 4, "end": 12}, {"path": "w.mp4"}]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    first, second = ingested(tmp_path / "c", tmp_path / "list.jsonl")
    assert [number_of(image) for image in first.frames] == list(range(12, 36))
    assert (first.row.start_s, first.row.end_s) == (pytest.approx(4.0), pytest.approx(12.0))
    assert second.row.end_s == pytest.approx(2.0)


def test_what_breaks_off_is_missing_as_long_as_it_was_recorded(tmp_path):
    path = numbered_video(tmp_path / "v.mkv", 60, fps=30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    make_corpus([str(path)], SETTINGS, SourceDefaults(fps=3.0), IngestRun(tmp_path / "c"))
    rows = list(Corpus(tmp_path / "c").rows())
    assert rows[-1].reason == "truncated"
    assert rows[-1].end_s == pytest.approx(20.0, abs=0.5)


def test_a_wrong_rate_is_refused(tmp_path):
    numbered_video(tmp_path / "v.mp4", 3)
    (tmp_path / "list.jsonl").write_text('{"path": "v.mp4", "fps": -1}')
    with pytest.raises(ValueError, match="line 1: fps -1 is no rate"):
        ingested(tmp_path / "c", tmp_path / "list.jsonl")
    with pytest.raises(ValueError, match="fps -3: give frames a second"):
        SourceDefaults(fps=-3.0)
    with pytest.raises(ValueError, match="fps 3: .*is of a dataset, whose rows say when"):
        ingested(tmp_path / "d", lerobot_v2(tmp_path / "arm"), fps=3.0)
