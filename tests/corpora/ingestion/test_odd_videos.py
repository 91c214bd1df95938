"""Odd and broken videos of every kind (tests/builders/odd): each is a row that is right, or one that says why not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.source import SourceDefaults
from corpora.video.decode import DecodingReport, FrameSampler, read_frames
from corpora.video.probe import Unusable, probe
from tests.builders.odd import KINDS, pictures, places
from tests.builders.odd.case import COUNT, scene, write
from tests.builders.videos import display_as, number_of, numbered_video
from tests.corpora.ingestion.odd_videos import ingest, judge, main, make_videos


def read(path: Path) -> tuple[list[float], list[int], DecodingReport]:
    facts, report = probe(path), DecodingReport()
    frames = list(read_frames(path, facts, side=144, sampler=FrameSampler(facts, 1000.0), report=report))
    return [t_s for t_s, _ in frames], [number_of(rgb) for _, rgb in frames], report


def test_a_sample_of_odd_videos_is_used_or_recorded(tmp_path):
    made = make_videos(tmp_path / "videos", 36, seed=6)
    found = judge(ingest(tmp_path / "videos", tmp_path / "corpus"), made)
    assert [each for each in found if each[3]] == []
    assert {kind for kind, *_ in found} >= set(list(KINDS)[:20])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_odd_videos_are_used_or_recorded(tmp_path):
    assert main([str(tmp_path), "--count", "1000"]) == 0


@pytest.mark.parametrize("suffix", ["mkv", "nut", "asf", "avi", "m1v"])
def test_a_decoder_that_might_reorder_and_does_not_moves_no_times(tmp_path, suffix):
    """MPEG-1 and MPEG-2 say so whether there are B-frames or not."""
    images = scene(np.random.default_rng(0))
    path = write(tmp_path / f"v.{suffix}", [images(number) for number in range(COUNT)], codec="mpeg1video")
    times, numbers, report = read(path)
    assert (numbers, report.lost) == (list(range(COUNT)), 0)
    np.testing.assert_allclose(times, np.arange(COUNT) / 25, atol=0.002)


def test_a_still_before_the_video_is_not_shown_whatever_its_size_and_mark(tmp_path):
    for seed in range(8):
        (case,) = places.beside_others(tmp_path, f"{seed}", np.random.default_rng(seed))
        assert read(tmp_path / case.source)[1] == list(range(COUNT))


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_side_data_that_is_unknown_costs_no_video_and_no_rotation(tmp_path, matrix):
    """TIFF has EXIF, which PyAV cannot name; and FFmpeg's decoder takes its own files for damaged where it is strict."""
    images = scene(np.random.default_rng(0))
    stored = pictures.TURNS[matrix][0] if matrix in pictures.TURNS else np.asarray
    frames = [stored(images(number)) for number in range(6)]
    path = display_as(write(tmp_path / "v.mov", frames, codec="tiff", pixel="rgb24"), matrix)
    _, numbers, report = read(path)
    assert (numbers, report.lost) == (list(range(6)), 0)


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n"]
)
def test_a_list_that_is_named_as_a_video_opens_no_other_file(tmp_path, text):
    numbered_video(tmp_path / "other.mp4", 10)
    for suffix in ("mp4", "m3u8"):
        path = tmp_path / f"v.{suffix}"
        path.write_text(text)
        with pytest.raises(Unusable, match="unreadable"):
            probe(path)


def test_a_video_of_one_frame_is_too_short(tmp_path):
    numbered_video(tmp_path / "v.mp4", 1)
    make_corpus([str(tmp_path / "v.mp4")], IngestSettings(size=64), SourceDefaults(), IngestRun(tmp_path / "c"))
    ((row,),) = [list(Corpus(tmp_path / "c").rows())]
    assert (row.reason, row.frames, row.width) == ("too_short", 1, 160)


def test_a_packet_without_a_frame_is_counted(tmp_path):
    """FFmpeg's MPEG-2 decoder forgets the frame before a change of size."""
    parts = []
    for index, size in enumerate(((352, 288), (176, 144))):
        images = scene(np.random.default_rng(0), *size)
        path = write(tmp_path / "part.m2v", [images(20 * index + n) for n in range(20)], codec="mpeg2video")
        parts.append(path.read_bytes())
    (tmp_path / "v.m2v").write_bytes(b"".join(parts))
    _, numbers, report = read(tmp_path / "v.m2v")
    assert len(numbers) + report.lost == 40
    assert report.lost == 0 or re.search("packets give no frame", report.first_error)
