"""Files that end too early: what they hold is used, the rest is `truncated`, and a frame that is not whole is not shown."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.source import SourceDefaults
from corpora.video.decode import DecodingReport, FrameSampler, read_frames
from corpora.video.probe import VideoFacts, probe
from corpora.video.seek import unsuited
from corpora.video.unfinished import unfinished
from tests.builders.odd.case import COUNT, RATE, scene, write
from tests.builders.odd.clocks import REORDERED
from tests.builders.videos import number_of, numbered_frame
from tests.corpora.ingestion.odd_videos import difference

LENGTH_S = COUNT / RATE
HZ = 44100


def read(path: Path) -> tuple[VideoFacts, list[int], DecodingReport]:
    facts, report = probe(path), DecodingReport()
    frames = read_frames(path, facts, side=144, sampler=FrameSampler(facts, 1000.0), report=report)
    return facts, [number_of(rgb) for _, rgb in frames], report


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def video(path: Path, codec: str, **how) -> Path:
    images = scene(np.random.default_rng(0))
    return write(path, [images(number) for number in range(COUNT)], codec=codec, **how)


def with_sound(path: Path, seconds: float, sound_s: float, codec: str) -> Path:
    """In step, as recorders write them."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("flv" if path.suffix == ".flv" else "mpeg4", rate=RATE)
        sound = container.add_stream(codec, rate=HZ, bit_rate=64_000)
        picture.width, picture.height, picture.pix_fmt, picture.bit_rate = 176, 144, "yuv420p", 2_000_000
        size = sound.codec_context.frame_size or 1024
        sounds = iter(range(0, int(sound_s * HZ), size))
        for number in range(int(seconds * RATE)):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, width=176, height=144), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(picture.encode(frame))
            for begin in sounds:
                noise(container, sound, begin, size)
                if begin / HZ > number / RATE:
                    break
        container.mux(picture.encode(None))
        for begin in sounds:
            noise(container, sound, begin, size)
        container.mux(sound.encode(None))
    return path


def noise(container, sound, begin: int, size: int) -> None:
    samples = np.random.default_rng(begin).normal(0, 0.1, (1, size)).astype(np.float32)
    if sound.codec_context.format.name.startswith("s16"):
        samples = (samples * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples, format=sound.codec_context.format.name, layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = HZ, begin, Fraction(1, HZ)
    container.mux(sound.encode(frame))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        *(("avi", "huffyuv"), ("avi", "mjpeg"), ("avi", "mpeg4"), ("asf", "wmv2"), ("mkv", "ffv1"), ("ivf", "libvpx")),
        *(("flv", "flv"), ("rm", "rv10")),
    ],
)
def test_what_the_header_promised_is_missing(tmp_path, suffix, codec, share):
    path = video(tmp_path / f"v.{suffix}", codec)
    assert read(path)[0].missing_s == pytest.approx(0, abs=1e-3)
    facts, numbers, _ = read(cut(path, share))
    assert facts.duration_s < LENGTH_S - 0.2
    assert facts.duration_s + facts.missing_s == pytest.approx(LENGTH_S, abs=0.01)
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize(("suffix", "sound"), [("mkv", "aac"), ("flv", "aac"), ("avi", "mp2"), ("wmv", "wmav2")])
def test_beside_sound_too(tmp_path, suffix, sound):
    path = with_sound(tmp_path / f"v.{suffix}", 4.0, 4.0, sound)
    assert read(path)[0].missing_s == pytest.approx(0, abs=0.1)
    facts, *_ = read(cut(path, 0.6))
    assert facts.missing_s > 1.0
    assert facts.duration_s + facts.missing_s == pytest.approx(4.0, abs=0.15)


@pytest.mark.parametrize(("suffix", "sound"), [("mkv", "aac"), ("flv", "aac"), ("avi", "mp2"), ("wmv", "wmav2")])
def test_a_picture_that_ends_before_its_sound_lacks_nothing(tmp_path, suffix, sound):
    facts, numbers, report = read(with_sound(tmp_path / f"v.{suffix}", 2.0, 4.0, sound))
    assert (facts.missing_s, len(numbers), report.lost) == (pytest.approx(0, abs=0.1), 50, 0)


@pytest.mark.parametrize(
    ("name", "codec", "header"),
    [
        ("v.avi", "huffyuv", {}),
        ("v.ivf", "libvpx", {}),
        ("v.flv", "libx264", {}),
        ("v.mp4", "libx264", {"movflags": "faststart"}),
    ],
)
def test_a_frame_that_is_cut_off_is_lost_and_those_before_it_are_not(tmp_path, name, codec, header):
    """Huffyuv, and VP8 likewise, patch it up from the frame before, without a word."""
    path = video(tmp_path / name, codec, header=header)
    facts, numbers, report = read(cut(path, 0.6))
    assert (report.lost, report.first_error) == (1, "the file ends in the middle of a frame")
    assert numbers == list(range(len(facts.times) - 1))
    assert "truncated" in unsuited(facts, "decord", 0.0, np.inf) or codec == "huffyuv"


@pytest.mark.parametrize("share", [0.31, 0.52, 0.73, 0.897])
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        *(("gif", "gif"), ("y4m", "rawvideo"), ("ogv", "libvpx"), ("dv", "dvvideo"), ("ts", "libx264")),
        *(("m2ts", "mpeg2video"), ("ts", "libx265"), ("hevc", "libx265")),
    ],
)
def test_an_end_that_is_missing_is_noticed_where_no_length_is_promised(tmp_path, suffix, codec, share):
    images = scene(np.random.default_rng(0), *((720, 576) if suffix == "dv" else (176, 144)))
    path = write(tmp_path / f"v.{suffix}", [images(number) for number in range(COUNT)], codec=codec)
    facts, numbers, report = read(path)
    assert (facts.truncated, numbers, report.first_error) == (False, list(range(COUNT)), "")
    facts, numbers, report = read(cut(path, share))
    assert facts.truncated and report.first_error
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("share", np.linspace(0.2, 0.9, 8))
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("m2v", "mpeg2video"), ("mpg", "mpeg2video"), ("avi", "mpeg4"), ("hevc", "libx265"), ("m2ts", "mpeg2video")],
)
def test_behind_a_cut_no_frame_is_shown_too_early_or_half(tmp_path, suffix, codec, share):
    """The frames that came before it when they were all there may be lost, and of its own half."""
    path = cut(video(tmp_path / f"v.{suffix}", codec, options={} if codec == "libx265" else {"bf": "2"}), share)
    facts, report = probe(path), DecodingReport()
    frames = read_frames(path, facts, side=144, sampler=FrameSampler(facts, 1000.0), report=report)
    images = scene(np.random.default_rng(0))
    shown = 0
    for t_s, rgb in frames:
        assert number_of(rgb) == pytest.approx(t_s * RATE, abs=0.05)
        assert difference(rgb, images(number_of(rgb))) < 6
        shown += 1
    assert report.first_error
    assert shown or share < 0.5


@pytest.mark.parametrize("suffix", ["asf", "flv", "nut", "avi", "mkv", "h264", "ts"])
def test_nothing_is_missing_where_frames_are_reordered(tmp_path, suffix):
    """Some lengths count from the time at which the first frame is decoded, which is before it is shown."""
    facts, numbers, report = read(video(tmp_path / f"v.{suffix}", "libx264", options=REORDERED))
    assert (facts.truncated, numbers, report.lost) == (False, list(range(COUNT)), 0)


def test_an_avi_that_ends_in_repeats_of_its_last_frame_is_whole(tmp_path):
    path = video(tmp_path / "v.avi", "mpeg4")
    data, count = bytearray(path.read_bytes()), 20
    movi, index, header = data.find(b"movi"), data.rfind(b"idx1"), data.find(b"strh")
    for place, more in ((4, 8 * count), (movi - 4, 8 * count), (data.find(b"avih") + 24, count), (header + 40, count)):
        data[place : place + 4] = (int.from_bytes(data[place : place + 4], "little") + more).to_bytes(4, "little")
    data[index:index] = (b"00dc" + bytes(4)) * count
    path.write_bytes(data)
    facts, numbers, report = read(path)
    assert (facts.truncated, numbers, report.lost) == (False, list(range(COUNT)), 0)
    assert read(cut(path, 0.5))[0].missing_s > 1.5


def test_an_avi_that_ends_between_two_chunks_says_why_its_last_frames_are_lost(tmp_path):
    path = video(tmp_path / "v.avi", "libx264", options=REORDERED)
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: places[30] - 8])
    _, numbers, report = read(path)
    assert numbers == list(range(len(numbers)))
    assert (report.lost, report.first_error[:18]) == (30 - len(numbers), "the end is missing")


def test_the_manifest_names_what_is_missing_of_an_avi(tmp_path):
    path = cut(video(tmp_path / "v.avi", "huffyuv"), 0.35)
    settings = IngestSettings(size=64, clip_s=0.5, min_clip_s=0.3, camera_gap_s=0.2)
    make_corpus([str(path)], settings, SourceDefaults(), IngestRun(tmp_path / "c"))
    *_, row = Corpus(tmp_path / "c").rows()
    assert (row.reason, row.end_s) == ("truncated", pytest.approx(LENGTH_S))
    assert row.detail == f"it ends at {row.start_s:.2f} s of 1.80 s; the file ends in the middle of a frame"


@pytest.mark.parametrize(("suffix", "codec"), [("h264", "libx264"), ("hevc", "libx265"), ("ts", "libx265")])
def test_only_a_picture_that_is_cut_is_another_when_bytes_follow_it(tmp_path, suffix, codec):
    with av.open(str(video(tmp_path / f"v.{suffix}", codec))) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        for last in range(1, COUNT, 3):
            key = bytes([packet for packet in packets[: last + 1] if packet.is_keyframe][-1])
            first, data = bytes(packets[0]), bytes(packets[last])
            assert not unfinished(stream, first, key, data)
            if codec != "libx264":  # of that one the decoder itself may say so
                assert unfinished(stream, first, key, data[: len(data) // 2])
