"""Frames by presentation time, whatever the container, codec and rate; decord only where it agrees."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter

from corpora.video import seek as fast_decoder
from corpora.video.decode import DecodingReport, FrameSampler, analysis_size, decoded_frames, read_frames
from corpora.video.image import by_area, fit_square
from corpora.video.probe import Unusable, VideoFacts, probe
from corpora.video.seek import Disagreement, read_with_decord, unsuited
from corpora.video.shown import Converter
from tests.builders.videos import (
    HEIGHT,
    WIDTH,
    audio_only,
    number_of,
    numbered_frame,
    numbered_video,
    turn_clockwise,
    without_frames,
    write_video,
)

FORMATS = [
    ("mp4", "libx264", "yuv420p", 8, "h264"),
    ("mov", "libx264", "yuv420p", 8, "h264"),
    ("mkv", "libx264", "yuv420p10le", 10, "h264"),
    ("mp4", "libx265", "yuv420p", 8, "hevc"),
    ("mkv", "libx265", "yuv420p10le", 10, "hevc"),
    ("webm", "libvpx-vp9", "yuv420p", 8, "vp9"),
    ("mkv", "libvpx-vp9", "yuv420p", 8, "vp9"),
    ("mp4", "libsvtav1", "yuv420p", 8, "av1"),
    ("webm", "libsvtav1", "yuv420p10le", 10, "av1"),
    ("avi", "mpeg4", "yuv420p", 8, "mpeg4"),
    ("mp4", "mpeg4", "yuv420p", 8, "mpeg4"),
    ("avi", "mjpeg", "yuvj420p", 8, "mjpeg"),
    ("mov", "mjpeg", "yuvj420p", 8, "mjpeg"),
    ("gif", "gif", "rgb8", 8, "gif"),
]


def read(path: Path, *, max_fps: float = 1000.0, side: int = HEIGHT, **span) -> tuple[VideoFacts, list, DecodingReport]:
    facts, report = probe(path), DecodingReport()
    frames = read_frames(path, facts, side=side, sampler=FrameSampler(facts, max_fps), report=report, **span)
    return facts, list(frames), report


@pytest.mark.parametrize(("suffix", "codec", "pixel_format", "bits", "name"), FORMATS)
def test_every_frame_comes_at_its_own_time(tmp_path, suffix, codec, pixel_format, bits, name):
    path = numbered_video(tmp_path / f"a.{suffix}", 24, codec=codec, pixel_format=pixel_format, fps=12.5)
    facts, frames, report = read(path)
    assert (facts.codec, facts.shown_size, facts.constant_rate) == (name, (WIDTH, HEIGHT), True)
    assert facts.bits == bits or name == "gif"  # a GIF is decoded to RGB with alpha
    assert [number_of(rgb) for _, rgb in frames] == list(range(24))
    np.testing.assert_allclose([t_s for t_s, _ in frames], np.arange(24) / 12.5, atol=0.0011)
    assert report.lost == 0
    assert facts.duration_s == pytest.approx(24 / 12.5, abs=0.01)
    if name != "gif":
        assert cv2.absdiff(frames[5][1], numbered_frame(5)).mean() < 12


def test_variable_rate_keeps_true_times_and_thins_by_spacing(tmp_path):
    rng = np.random.default_rng(3)
    times = np.cumsum(np.round(rng.uniform(0.01, 0.12, 60), 3))
    times -= times[0]
    path = write_video(tmp_path / "v.mkv", [numbered_frame(i) for i in range(60)], times=times)
    facts, frames, _ = read(path)
    assert not facts.constant_rate
    np.testing.assert_allclose([t_s for t_s, _ in frames], times, atol=0.0011)
    _, thinned, _ = read(path, max_fps=10.0)
    kept = [t_s for t_s, _ in thinned]
    assert np.diff(kept).min() >= 0.099 - 1e-9
    assert [number_of(rgb) for _, rgb in thinned] == [int(np.argmin(abs(times - t_s))) for t_s in kept]


@pytest.mark.parametrize(("fps", "step"), [(4, 1), (15, 1), (20, 1), (24, 2), (29.97, 2), (30, 2), (50, 3), (60, 3)])
def test_constant_rate_takes_every_kth_frame(tmp_path, fps, step):
    path = numbered_video(tmp_path / "c.mkv", 40, fps=fps)  # Matroska rounds times to milliseconds
    _, frames, _ = read(path, max_fps=20.0)
    assert [number_of(rgb) for _, rgb in frames] == list(range(0, 40, step))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_metadata_is_applied(tmp_path, turns):
    plain = numbered_video(tmp_path / "p.mp4", 6)
    expected = [np.rot90(rgb, -turns) for _, rgb in read(plain)[1]]
    turned = turn_clockwise(numbered_video(tmp_path / "r.mp4", 6), turns)
    facts, frames, _ = read(turned)
    assert facts.shown_size == ((HEIGHT, WIDTH) if turns % 2 else (WIDTH, HEIGHT))
    for (_, rgb), reference in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(rgb, reference)


def test_start_offset_is_not_part_of_the_time(tmp_path):
    path = numbered_video(tmp_path / "o.mkv", 12, start_s=5.0)
    facts, frames, _ = read(path)
    assert facts.zero_s == pytest.approx(5.0, abs=0.002)
    np.testing.assert_allclose([t_s for t_s, _ in frames], np.arange(12) / 15, atol=0.0011)


@pytest.mark.parametrize(("width", "height"), [(161, 97), (99, 160), (66, 66)])
def test_odd_sizes(tmp_path, width, height):
    path = numbered_video(tmp_path / "odd.webm", 8, width=width, height=height, codec="libvpx-vp9")
    facts, frames, _ = read(path, side=64)
    assert facts.shown_size == (width, height)
    assert [number_of(rgb) for _, rgb in frames] == list(range(8))
    assert min(frames[0][1].shape[:2]) == 64


def test_audio_beside_the_video_is_ignored(tmp_path):
    alike = {"x264-params": "mbtree=0"}  # with its tree of blocks x264 does not always write the same bytes
    with_sound = read(numbered_video(tmp_path / "s.mp4", 12, audio=True, options=alike))[1]
    without = read(numbered_video(tmp_path / "n.mp4", 12, options=alike))[1]
    assert [t_s for t_s, _ in with_sound] == [t_s for t_s, _ in without]
    for (_, one), (_, other) in zip(with_sound, without, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "mpeg4"])
@pytest.mark.parametrize("start", [0.0, 0.3, 0.8, 1.6, 2.5])
def test_a_stretch_is_the_same_as_that_stretch_of_the_whole(tmp_path, codec, start):
    path = numbered_video(tmp_path / "g.mp4", 45, codec=codec, gop=10)
    whole = [(t_s, number_of(rgb)) for t_s, rgb in read(path)[1]]
    part = [(t_s, number_of(rgb)) for t_s, rgb in read(path, start_s=start, end_s=start + 0.5)[1]]
    assert part == [(t_s, number) for t_s, number in whole if start - 1e-6 <= t_s < start + 0.5 - 1e-6]
    assert part


@pytest.mark.parametrize(
    ("sizes", "default", "counts", "chosen"),
    [
        ([(64, 48), (160, 96)], 0b11, (12, 12), 1),  # a proxy comes first
        ([(160, 96), (64, 48)], 0b10, (12, 12), 1),  # what the file calls its default
        ([(320, 192), (160, 96)], 0b11, (1, 12), 1),  # a still comes first
    ],
)
def test_of_several_streams_that_which_a_player_shows(tmp_path, sizes, default, counts, chosen):
    path = tmp_path / "several.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=15) for _ in sizes]
        for place, (stream, (width, height)) in enumerate(zip(streams, sizes, strict=True)):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = av.stream.Disposition.default if default >> place & 1 else 0
        for place, (stream, (width, height)) in enumerate(zip(streams, sizes, strict=True)):
            for index in range(counts[place]):
                image = numbered_frame(index, width=width, height=height)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    facts, frames, _ = read(path, side=48)
    assert facts.shown_size == sizes[chosen]
    assert [number_of(rgb) for _, rgb in frames] == list(range(12))


def test_faults_have_names(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 50)
    whole = numbered_video(tmp_path / "whole.mp4", 20).read_bytes()
    (tmp_path / "headless.mp4").write_bytes(whole[: len(whole) // 2])
    cases = {
        tmp_path / "empty.mp4": "empty_file",
        tmp_path / "text.mp4": "unreadable",
        tmp_path / "headless.mp4": "unreadable",
        tmp_path / "absent.mp4": "missing_file",
        audio_only(tmp_path / "sound.mp4"): "no_video_stream",
        without_frames(tmp_path / "none.mp4"): "no_frames",
    }
    for path, reason in cases.items():
        with pytest.raises(Unusable) as fault:
            probe(path)
        assert fault.value.reason == reason, path.name


def test_truncated_matroska_gives_what_is_there_and_knows_what_is_missing(tmp_path):
    path = numbered_video(tmp_path / "t.mkv", 60)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    facts, frames, _ = read(path)
    assert 10 < len(frames) < 60
    assert [number_of(rgb) for _, rgb in frames] == list(range(len(frames)))
    assert facts.duration_s + facts.missing_s == pytest.approx(4.0, abs=0.1)


def test_after_damage_it_goes_on_at_the_next_keyframe(tmp_path):
    frames = [numbered_frame(i) for i in range(60)]
    path = write_video(tmp_path / "d.mp4", frames, gop=10, options={"x264-params": "bframes=0:scenecut=0"})
    clean = dict(read(path)[1])
    data = bytearray(path.read_bytes())
    place = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    data[place : place + 400] = bytes(400)
    path.write_bytes(data)
    _, read_back, report = read(path)
    assert report.lost > 0
    assert report.first_error
    assert 30 < len(read_back) < 60
    for t_s, rgb in read_back:  # no image that was patched together
        assert cv2.absdiff(rgb, clean[t_s]).mean() < 1.0


@pytest.mark.parametrize(
    ("suffix", "codec", "options", "left_out"),
    [
        ("mp4", "libx264", {"bf": "3", "b_strategy": "0"}, True),
        ("mp4", "libx264", {"bf": "2", "b-pyramid": "normal"}, True),
        ("mkv", "mpeg4", {"bf": "1"}, True),
        ("mp4", "libx265", {"bf": "3"}, False),
        ("mp4", "libx264", {"bf": "0"}, False),
    ],
)
@pytest.mark.parametrize("span", [(0.0, np.inf), (0.77, 1.6)])
def test_frames_that_nobody_asks_for_are_not_decoded_and_the_others_are_the_same_to_the_bit(
    tmp_path, suffix, codec, options, left_out, span
):
    frames = [noisy_frame(i) for i in range(60)]
    path = write_video(tmp_path / f"a.{suffix}", frames, codec=codec, fps=30, gop=20, options=options)
    facts, sampled, report = read(path, max_fps=20.0, start_s=span[0], end_s=span[1])
    sampler, convert, size = FrameSampler(facts, 20.0), Converter(facts.showing), analysis_size(facts, HEIGHT)
    whole = decoded_frames(path, facts, report=DecodingReport(), start_s=span[0], end_s=span[1])
    expected = [(t_s, convert(frame, size)) for t_s, frame in whole if t_s >= span[0] and sampler.wants(t_s)]
    assert [t_s for t_s, _ in sampled] == [t_s for t_s, _ in expected]
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(sampled, expected, strict=True))
    assert (report.lost, report.first_error) == (0, "")
    needed = FrameSampler(facts, 20.0).chosen(*span)
    decoded = sum(1 for _ in decoded_frames(path, facts, report=report, needed=needed))
    assert (decoded < 60) == left_out


def noisy_frame(index: int) -> np.ndarray:
    """So that every frame has something that only it shows."""
    noise = np.random.default_rng(index).normal(0, 20, (HEIGHT, WIDTH, 3))
    return np.clip(numbered_frame(index) + noise, 0, 255).astype(np.uint8)


def test_damage_is_told_and_left_out_where_frames_are_left_out(tmp_path):
    """What is kept is what is kept of the whole file; a frame that is damaged and asked for is told of."""
    path = write_video(tmp_path / "a.mp4", [noisy_frame(i) for i in range(90)], fps=30, gop=15, options={"bf": "2"})
    _, clean, _ = read(path, max_fps=20.0)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for place, size in packets[33:36]:
        data[place + size // 2 : place + size - 4] = b"\xff" * (size - 4 - size // 2)
    path.write_bytes(data)
    _, sampled, report = read(path, max_fps=20.0)
    assert report.lost
    assert report.first_error
    shown = dict(clean)
    assert 20 < len(sampled) < len(clean)
    assert all(np.array_equal(shown[t_s], rgb) for t_s, rgb in sampled)


def test_an_image_is_scaled_to_the_mean_of_the_area_better_than_by_swscale_at_once(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 3, seed=3)
    facts = probe(path)
    convert, size = Converter(facts.showing), analysis_size(facts, HEIGHT // 2)
    for _, frame in decoded_frames(path, facts, report=DecodingReport()):
        mean = cv2.resize(convert(frame), size, interpolation=cv2.INTER_AREA)
        at_once = VideoReformatter().reformat(frame, *size, "rgb24", interpolation=Interpolation.AREA).to_ndarray()
        assert cv2.absdiff(convert(frame, size), mean).mean() < cv2.absdiff(at_once, mean).mean()


def test_to_shrink_in_two_steps_is_to_shrink_in_one_but_for_little():
    image = numbered_frame(3, width=342, height=192)
    one = cv2.resize(image, (128, 72), interpolation=cv2.INTER_AREA)
    assert cv2.absdiff(by_area(image, (128, 72)), one).mean() < 2
    np.testing.assert_array_equal(by_area(image, (171, 96)), cv2.resize(image, (171, 96), interpolation=cv2.INTER_AREA))


def test_crop_takes_the_middle_square():
    image = np.zeros((60, 100, 3), np.uint8)
    image[:, 20:80] = 200
    assert fit_square(image, 30, "crop").min() == 200
    assert fit_square(image, 30, "stretch").min() == 0


@pytest.mark.parametrize("turn", [False, True])
def test_a_side_that_shrinks_is_averaged_whatever_the_other_does(turn):
    """Every fourth column is white: that is dark grey, and not the columns that lie in the middle."""
    image = np.zeros((20, 640, 3), np.uint8)
    image[:, ::4] = 200
    small = fit_square(image.swapaxes(0, 1) if turn else image, 32, "stretch")
    assert (small.shape, small.min(), small.max()) == ((32, 32, 3), 50, 50)


@pytest.mark.parametrize("side", [HEIGHT, HEIGHT // 2])
def test_decord_gives_the_same_frames_where_it_is_used(tmp_path, side):
    path = write_video(tmp_path / "f.mp4", [numbered_frame(i) for i in range(60)], fps=30, options={"bf": "2"})
    facts, reference, _ = read(path, max_fps=20.0, side=side)
    assert unsuited(facts, "decord", 0.0, float("inf")) == ""
    sampler = FrameSampler(facts, 20.0)
    fast = list(read_with_decord(path, facts, side=side, sampler=sampler))
    assert [t_s for t_s, _ in fast] == [t_s for t_s, _ in reference]
    for (_, one), (_, other) in zip(fast, reference, strict=True):
        one, other = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in (one, other))
        assert cv2.absdiff(one, other).mean() < 1.0


def test_decord_is_not_asked_where_it_is_known_to_fail(tmp_path):
    videos = {
        "decord is not used for av1": numbered_video(tmp_path / "a.mp4", 8, codec="libsvtav1"),
        "decord is not used for gif": numbered_video(tmp_path / "g.gif", 8, codec="gif", pixel_format="rgb8"),
        "decord is not used for 10 bits": numbered_video(
            tmp_path / "t.mp4", 8, codec="libx265", pixel_format="yuv420p10le"
        ),
        "decord is not used for video that is rotated": turn_clockwise(numbered_video(tmp_path / "r.mp4", 8), 1),
    }
    for why, path in videos.items():
        assert unsuited(probe(path), "decord", 0.0, float("inf")) == why


def test_a_decoder_that_shows_other_frames_is_found_out(tmp_path, monkeypatch):
    path = numbered_video(tmp_path / "f.mp4", 40)
    facts = probe(path)
    real, error = fast_decoder._open(path)

    class OneFrameLate:
        """As decord does on some HEVC: the right number of frames and times, but the wrong images."""

        def __init__(self) -> None:
            real.seek(0)
            real.skip_frames(3)

        def __len__(self) -> int:
            return len(real)

        def __getattr__(self, name):
            return getattr(real, name)

    monkeypatch.setattr(fast_decoder, "_open", lambda path: (OneFrameLate(), error))
    with pytest.raises(Disagreement, match="differs from PyAV"):
        list(read_with_decord(path, facts, side=64, sampler=FrameSampler(facts, 20.0)))


def test_a_decoder_that_counts_other_frames_is_found_out(tmp_path):
    facts = probe(numbered_video(tmp_path / "f.mp4", 40))
    other = numbered_video(tmp_path / "g.mp4", 41)
    with pytest.raises(Disagreement, match="counts 41 frames, PyAV 40"):
        list(read_with_decord(other, facts, side=64, sampler=FrameSampler(facts, 20.0)))
