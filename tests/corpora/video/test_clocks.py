"""Every frame once, in order, on the player's clock: containers whose clock restarts, gives the order of decoding or none."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.source import SourceDefaults
from corpora.video.clock import of_their_own
from corpora.video.decode import DecodingReport, FrameSampler, read_frames
from corpora.video.probe import VideoFacts, probe
from corpora.video.seek import unsuited
from corpora.video.settings import ShotSettings
from corpora.video.shots import label_shots
from tests.builders.videos import HEIGHT, number_of, numbered_frame, numbered_video

REORDERED = {"x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0"}


def read(path: Path, **span: float) -> tuple[VideoFacts, list[float], list[int], DecodingReport]:
    facts, report = probe(path), DecodingReport()
    frames = list(read_frames(path, facts, side=HEIGHT, sampler=FrameSampler(facts, 1000.0), report=report, **span))
    return facts, [t_s for t_s, _ in frames], [number_of(rgb) for _, rgb in frames], report


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("b.avi", "libx264", 15), ("b.asf", "libx264", 15), ("b.h264", "libx264", 25), ("b.hevc", "libx265", 15)],
)
def test_frames_come_in_order_where_packets_know_only_the_order_of_decoding(tmp_path, name, codec, rate):
    """Raw H.264 that gives no rate is shown at 25 frames a second, as ffmpeg does."""
    options = REORDERED if codec == "libx264" else None
    path = numbered_video(tmp_path / name, 45, codec=codec, options=options)
    facts, times, numbers, report = read(path)
    assert numbers == list(range(45))
    np.testing.assert_allclose(times, np.arange(45) / rate, atol=0.0011)
    np.testing.assert_allclose(times, facts.times)
    assert report.lost == 0
    assert unsuited(facts, "decord", 0.0, np.inf) == "decord is not used for a variable frame rate"
    part = read(path, start_s=times[20], end_s=times[30])
    assert part[2] == list(range(20, 30))


def test_after_damage_the_order_of_decoding_is_right_again(tmp_path):
    path = numbered_video(tmp_path / "b.avi", 60, options=REORDERED, gop=10)
    data = bytearray(path.read_bytes())
    place = data.index(b"movi") + (len(data) - data.index(b"movi")) // 3
    data[place : place + 300] = bytes(300)
    path.write_bytes(data)
    _, times, numbers, report = read(path)
    assert report.lost > 0
    assert len(numbers) > 30
    late = [(t_s, number) for t_s, number in zip(times, numbers, strict=True) if number >= 40]
    np.testing.assert_allclose([t_s for t_s, _ in late], [number / 15 for _, number in late], atol=1e-3)


def test_a_clock_that_restarts_goes_on_and_begins_a_shot(tmp_path):
    once = numbered_video(tmp_path / "a.ts", 45, options=REORDERED).read_bytes()
    path = tmp_path / "twice.ts"
    path.write_bytes(once + once)
    facts, times, numbers, report = read(path)
    assert numbers == [*range(45), *range(45)]
    np.testing.assert_allclose(times, np.arange(90) / 15, atol=1e-3)
    assert (report.lost, facts.breaks) == (0, pytest.approx([3.0]))
    assert read(path, start_s=2.0, end_s=4.0)[2] == [*range(30, 45), *range(15)]
    assert unsuited(facts, "decord", 0.0, np.inf)
    alike = ((t_s, numbered_frame(0)) for t_s in times)
    shots = [shot for shot, _, _ in label_shots(alike, ShotSettings(), facts.breaks)]
    assert shots == [0] * 45 + [1] * 45


def test_frames_whose_times_do_not_ascend_are_counted(tmp_path):
    path = tmp_path / "v.mkv"
    times = [0.0, 0.1, 0.2, 0.2, 0.3, 0.4]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuvj420p"
        for index, t_s in enumerate(times):
            packets = stream.encode(av.VideoFrame.from_ndarray(numbered_frame(index), format="rgb24"))
            for packet in packets:
                packet.pts = packet.dts = round(t_s / packet.time_base)
                container.mux(packet)
    _, _, numbers, report = read(path)
    assert numbers == [0, 1, 2, 4, 5]
    assert report.lost == 1
    assert "does not ascend" in report.first_error


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_what_a_late_matroska_file_lacks_is_counted_from_its_beginning(tmp_path, share):
    path = numbered_video(tmp_path / "part.mkv", 60, start_s=4.13)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    facts, times, _, _ = read(path)
    assert times[0] == 0.0
    assert facts.duration_s + facts.missing_s == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_zero_is_where_a_player_begins(tmp_path, suffix):
    """Sound that begins 5 s before the picture; `ffmpeg -ss 6 -t 3` shows frames 15 to 59."""
    path = numbered_video(tmp_path / f"v.{suffix}", 75, start_s=5.0, audio=True)
    facts, times, numbers, _ = read(path, start_s=6.0, end_s=9.0)
    assert numbers == list(range(15, 60))
    assert times[0] == pytest.approx(6.0, abs=0.002)
    assert (facts.times[0], facts.duration_s) == (pytest.approx(5.0, abs=0.01), pytest.approx(10.0, abs=0.01))
    line = {"path": path.name, "start": 6.0, "end": 9.0}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    settings = IngestSettings(size=64, clip_s=5.0)
    make_corpus([str(tmp_path / "list.jsonl")], settings, SourceDefaults(), IngestRun(tmp_path / "c"))
    (row,) = Corpus(tmp_path / "c").rows()
    assert (row.kept, row.frames) == (True, 45)
    assert (row.start_s, row.end_s) == (pytest.approx(6.0, abs=0.002), pytest.approx(9.0, abs=0.002))


@pytest.mark.parametrize(
    ("stamps", "wanted"),
    [
        (
            [0.58, None, 0.66, 0.70, 1.06, None, 0.82, 0.86, 0.90],
            [0.58, None, 0.66, 0.70, None, None, 0.82, 0.86, 0.90],
        ),
        ([0.0, 0.04, 0.08, 0.12], [0.0, 0.04, 0.08, 0.12]),
        ([0.0, 0.5, 0.04, 0.54, 0.58], [0.0, 0.5, 0.04, 0.54, 0.58]),  # one that goes back may itself be the false one
        ([0.0, 0.12, None, 0.12, 0.16], [0.0, None, None, 0.12, 0.16]),  # the third's
        ([0.0, 0.04, 0.04, None, 0.16], [0.0, 0.04, None, None, 0.16]),  # the second's
        ([0.0, 0.04, 0.04, 0.08, 0.12], [0.0, 0.04, 0.04, 0.08, 0.12]),  # twice, and no room for another time
        ([0.0, 0.04, 1.0], [0.0, 0.04, 1.0]),
        ([None, None], [None, None]),
        ([0.1, 2.0, *[None] * 9, 0.2, 0.3], [0.1, 2.0, *[None] * 9, 0.2, 0.3]),  # too far ahead to be looked at
    ],
)
def test_a_time_that_is_a_later_frames_is_none(stamps: list[float | None], wanted: list[float | None]) -> None:
    frames = [(stamp, object()) for stamp in stamps]
    found = list(of_their_own(frames, 0.04))  # type: ignore[arg-type]
    assert [stamp for stamp, _ in found] == wanted
    assert [frame for _, frame in found] == [frame for _, frame in frames]
