"""Shots, windows, quality: no window crosses a cut, each is as long as asked, and what moves is not called static."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from corpora.ingestion import stage
from corpora.ingestion.settings import IngestSettings
from corpora.ingestion.staged import clear_unfinished, read_staged, staged_path
from corpora.ingestion.windows import camera_of, cut_windows
from corpora.sources.source import File, Source
from corpora.store.decode import decode
from corpora.video.decode import DecodingReport, FrameSampler, read_frames
from corpora.video.probe import probe
from corpora.video.quality import QualityMeter, _quantile
from corpora.video.settings import QualitySettings, ShotSettings
from corpora.video.shots import label_shots
from tests.builders.videos import numbered_frame, textured, write_video

SETTINGS = IngestSettings(size=32, clip_s=1.0, camera_gap_s=0.2)


def shots_of(frames: list[np.ndarray], fps: float = 15.0) -> list[int]:
    timed = ((index / fps, rgb) for index, rgb in enumerate(frames))
    return [shot for shot, _, _ in label_shots(timed, ShotSettings())]


@pytest.mark.parametrize("cut", [1, 2, 3, 10, 27, 28, 29])
def test_a_cut_is_found_wherever_it_lies(cut):
    frames = [numbered_frame(i, seed=0) for i in range(cut)] + [numbered_frame(i, seed=7) for i in range(30 - cut)]
    assert shots_of(frames) == [0] * cut + [1] * (30 - cut)


def test_two_cuts_close_together_are_two():
    frames = [numbered_frame(i, seed=seed) for seed in (0, 7, 9) for i in range(6)]
    assert shots_of(frames) == [0] * 6 + [1] * 6 + [2] * 6


def test_a_turning_head_is_no_cut():
    wide = textured(1200, 160, 3)
    rng = np.random.default_rng(0)
    speed = np.convolve(rng.uniform(0, 40, 60), np.ones(8) / 8, "same")
    places = np.clip(np.cumsum(speed), 0, 1000).astype(int)
    assert set(shots_of([wide[:, x : x + 200] for x in places])) == {0}


def scene(seed: int, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3] of large and small parts, hardly coloured."""
    image = np.full((height, width, 3), 128, np.float32)
    for size, contrast in ((2, 20), (6, 25), (20, 35)):
        noise = np.random.default_rng(seed + size).normal(0, 1, (height, width, 3)).astype(np.float32)
        soft = cv2.GaussianBlur(noise, (0, 0), size)
        image += contrast * soft / soft.std()
    grey = image.mean(axis=2, keepdims=True)
    return np.clip(grey + 0.1 * (image - grey), 0, 255).astype(np.uint8)


def walk(seed: int, count: int) -> list[np.ndarray]:
    """A camera that moves slowly over `scene`, with a sensor's noise."""
    wide = scene(seed, 400, 136)
    places = [(20 + index, int(20 + 15 * np.sin(index / 9))) for index in range(count)]
    return [noisy(wide[y : y + 96, x : x + 160], index) for index, (x, y) in enumerate(places)]


@pytest.mark.parametrize(
    ("suffix", "codec", "bit_rate"),
    [
        ("webm", "libvpx", 10_000),
        ("webm", "libvpx-vp9", 10_000),
        ("avi", "mpeg4", 10_000),
        ("mp4", "libx264", 10_000),
        ("mp4", "libx265", 10_000),
        ("avi", "mpeg2video", 10_000),
        ("mp4", "libsvtav1", 20_000),
    ],
)
def test_keyframes_of_a_low_bit_rate_are_no_cuts_and_cuts_are_found(tmp_path, suffix, codec, bit_rate):
    for frames, cuts in ((walk(30, 70), 0), (walk(30, 35) + walk(80, 35), 1)):
        path = tmp_path / f"{cuts}.{suffix}"
        write_video(path, frames, codec=codec, fps=25, gop=32, bit_rate=bit_rate)
        facts = probe(path)
        read = read_frames(path, facts, side=96, sampler=FrameSampler(facts, 50.0), report=DecodingReport())
        shots = [shot for shot, _, _ in label_shots(read, ShotSettings())]
        assert shots == [0] * 70 if not cuts else [0] * 35 + [1] * 35


@pytest.mark.parametrize("period", [2, 3, 5])
def test_repeated_frames_make_no_cuts_and_hide_none(period):
    """Video that is stored at a higher rate than it was recorded; the camera moves by fits and starts."""
    noise = np.random.default_rng(0).normal(0, 1, (96, 2600, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 40)
    wide = np.clip(110 + 45 * soft / soft.std(), 0, 255).astype(np.uint8)
    other = 255 - textured(200, 96, 1) // 4
    steps = np.where(np.arange(70) % 9 == 4, 45, 18)
    frames = [wide[:, place : place + 200] for place in np.cumsum(steps)]
    repeated = [frames[index - (index % period == period - 1)] for index in range(70)]
    assert shots_of(repeated) == [0] * 70
    assert shots_of(repeated[:30] + [other] * 30) == [0] * 30 + [1] * 30


def test_a_flash_is_no_cut():
    frames = walk(30, 30)
    frames[15] = np.clip(frames[15].astype(int) + 60, 0, 255).astype(np.uint8)
    assert shots_of(frames) == [0] * 30


@pytest.mark.parametrize("count", [1, 3, 4, 5, 6, 9])
def test_movement_that_begins_or_ends_with_the_video_is_no_cut(count):
    """Beyond the first and the last frame there is no movement to compare with."""
    wide = textured(1200, 160, 3)
    places = [int(300 + 5 * index**1.7) for index in range(count)]
    assert set(shots_of([wide[:, x : x + 200] for x in places])) == {0}
    assert set(shots_of([wide[:, x : x + 200] for x in reversed(places)])) == {0}


def test_order_and_times_are_those_of_the_input():
    times = [0.0, 0.1, 0.15, 0.4, 0.9, 1.0, 1.3]
    out = list(label_shots(((t, numbered_frame(i)) for i, t in enumerate(times)), ShotSettings()))
    assert [t for _, t, _ in out] == times


def labelled(count: int, fps: float, cuts: tuple[int, ...] = ()):
    for index in range(count):
        yield sum(index >= cut for cut in cuts), index / fps, numbered_frame(index)


def test_windows_have_the_set_length_and_touch():
    windows = list(cut_windows(labelled(50, 20.0), SETTINGS, source_end_s=2.5))
    assert [(window.start_s, window.end_s) for window in windows] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)]
    assert [len(window.frames) for window in windows] == [20, 20, 10]


def test_no_window_crosses_a_cut():
    windows = list(cut_windows(labelled(60, 20.0, cuts=(13, 33)), SETTINGS))
    assert [window.shot for window in windows] == [0, 1, 2, 2]
    for window, following in itertools.pairwise(windows):
        assert window.end_s <= following.start_s + 1e-9
    starts = {round(window.start_s * 20) for window in windows}
    assert {13, 33} <= starts


def test_pairs_are_the_nearest_frames_to_the_gap_and_both_in_the_window():
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.uniform(0.03, 0.12, 60))
    frames = ((0, float(t), numbered_frame(i)) for i, t in enumerate(times))
    for window in cut_windows(frames, SETTINGS):
        camera = camera_of(window, 0.2)
        for first, second in zip(camera["first"], camera["second"], strict=True):
            gaps = np.abs(window.t_s - window.t_s[first] - 0.2)
            gaps[: first + 1] = np.inf
            assert gaps[second] == gaps.min()
            assert gaps[second] <= 0.1 + 1e-9
        starts = window.t_s[camera["first"]]
        assert window.t_s[-1] - starts[-1] < 0.2 + 0.12 + 0.1
        assert (np.diff(starts) >= 0.1).all()
        assert (np.diff(starts) < 0.1 + 0.12).all()


def test_the_camera_of_windows_that_are_dropped_is_not_measured(tmp_path, monkeypatch):
    still, moving = textured(160, 96, 5), [numbered_frame(index) for index in range(15)]
    path = write_video(tmp_path / "v.mp4", [*moving, *[still] * 30, *moving], fps=15)
    measured: list[float] = []
    real = stage.camera_of
    monkeypatch.setattr(
        stage, "camera_of", lambda window, gap_s: (measured.append(window.start_s), real(window, gap_s))[1]
    )
    source = Source("v", "v", File.at(path))
    clear_unfinished(tmp_path)
    task = {"source": source.to_json(), "settings": asdict(SETTINGS), "staging": str(tmp_path), "seed": 0}
    stage.stage_source(task, lambda: None)
    rows = [staged.row for staged in read_staged(staged_path(tmp_path, source))]
    assert measured == [row.start_s for row in rows if row.kept]
    assert [row.reason for row in rows] == ["", "static", "static", ""]


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1824])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_quantiles_are_those_of_numpy(count, share):
    values = np.random.default_rng(count).normal(size=count).astype(np.float32)
    assert _quantile(values, share) == pytest.approx(np.quantile(values, share), abs=1e-6)


def quality_of(frames: list[np.ndarray], fps: float = 15.0) -> str:
    meter = QualityMeter(QualitySettings())
    for index, rgb in enumerate(frames):
        meter.add(index / fps, cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
    return meter.finish().reason(QualitySettings())[0]


def noisy(image: np.ndarray, seed: int, sigma: float = 4.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_reasons():
    still = textured(320, 192, 5)
    moving = [numbered_frame(i, width=320, height=192) for i in range(30)]
    assert quality_of(moving) == ""
    assert quality_of([still] * 30) == "frozen"
    assert quality_of([noisy(still, i) for i in range(30)]) == "static"
    assert quality_of([rgb // 20 for rgb in moving]) == "too_dark"
    assert quality_of([cv2.GaussianBlur(rgb, (0, 0), 9) for rgb in moving]) == "blurred"


def test_drifting_exposure_is_not_movement():
    still = textured(320, 192, 5).astype(np.float32)
    assert (
        quality_of([np.clip(noisy(still, i, 2.0) + 20 * np.sin(i / 8), 0, 255).astype(np.uint8) for i in range(45)])
        == "static"
    )


def test_a_small_hand_before_a_fixed_camera_is_movement():
    still = textured(320, 192, 5)
    frames = []
    for index in range(150):
        image = still.copy()
        x = 100 + (index * 3 if 60 <= index < 80 else 0)  # moves for a little more than a second of ten
        image[80:104, x : x + 24] = (190, 140, 120)  # one hundredth of the image
        frames.append(noisy(image, index))
    assert quality_of(frames) == ""


def test_settings_say_what_is_wrong():
    for wrong, message in [
        ({"size": 33}, "size 33: must be even"),
        ({"clip_s": 0.0}, "clip_s 0.0: must be above 0"),
        ({"min_clip_s": 11.0}, r"min_clip_s 11.0: .*at most clip_s \(10 s\)"),
        ({"camera_gap_s": 0.0}, "camera_gap_s 0.0"),
        ({"max_fps": -1.0}, "max_fps"),
        ({"fit": "pad"}, "fit 'pad'"),
    ]:
        with pytest.raises(ValueError, match=message):
            IngestSettings(**wrong)
    assert decode(IngestSettings, asdict(IngestSettings(size=64)), what="settings") == IngestSettings(size=64)
