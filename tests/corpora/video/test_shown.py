"""Images are what a player shows, by whatever path they come: orientation, the shape of pixels, fields, transfer."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from corpora.episodes.frames import nearest_frames
from corpora.video.decode import DecodingReport, FrameSampler, read_frames
from corpora.video.image import fit_square
from corpora.video.probe import VideoFacts, probe
from corpora.video.seek import unsuited
from tests.builders.videos import HEIGHT, display_as, hdr_video, numbered_frame, numbered_video, textured, write_video

MIRRORED = {
    (-1, 0, 0, 1): lambda rgb: rgb[:, ::-1],
    (1, 0, 0, -1): lambda rgb: rgb[::-1],
    (0, 1, 1, 0): lambda rgb: rgb.swapaxes(0, 1),
    (0, -1, -1, 0): lambda rgb: rgb[::-1, ::-1].swapaxes(0, 1),
}


def read(path: Path, side: int = HEIGHT, **span: float) -> tuple[VideoFacts, list[np.ndarray]]:
    facts = probe(path)
    sampler = FrameSampler(facts, 1000.0)
    frames = read_frames(path, facts, side=side, sampler=sampler, report=DecodingReport(), **span)
    return facts, [rgb for _, rgb in frames]


@pytest.mark.parametrize("matrix", MIRRORED)
def test_mirrored_display_matrices_are_applied_on_every_path(tmp_path, matrix):
    plain = read(numbered_video(tmp_path / "p.mp4", 24))[1]
    path = display_as(numbered_video(tmp_path / "m.mp4", 24), matrix)
    facts, frames = read(path)
    expected = [MIRRORED[matrix](rgb) for rgb in plain]
    np.testing.assert_array_equal(frames, expected)
    assert facts.shown_size == expected[0].shape[1::-1]
    np.testing.assert_array_equal(read(path, start_s=1.0)[1], expected[15:])
    ((_, image),) = nearest_frames(path, probe(path), np.array([1.0]), 64, 1 / 15, DecodingReport())
    assert cv2.absdiff(image, fit_square(np.ascontiguousarray(expected[15]), 64, "stretch")).mean() < 1.0
    assert unsuited(facts, "pyav", 0.0, np.inf) == "decord is not used for video that is mirrored"


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("aspect", [64 / 45, 4 / 3, 8 / 9])
def test_a_disc_is_round_where_pixels_are_not_square(tmp_path, aspect, turned):
    image = np.full((144, 180, 3), 30, np.uint8)
    cv2.ellipse(image, (90, 72), (round(50 / aspect), 50), 0, 0, 360, (230, 230, 230), -1)
    sar = {64 / 45: "64\\:45", 4 / 3: "4\\:3", 8 / 9: "8\\:9"}[aspect]
    path = write_video(tmp_path / "d.mp4", [image] * 4, options={"x264-params": f"sar={sar}"})
    facts, frames = read(display_as(path, (0, 1, -1, 0)) if turned else path, side=144)
    disc = fit_square(frames[0], 96, "crop").mean(axis=2) > 130
    assert disc.any(axis=0).sum() / disc.any(axis=1).sum() == pytest.approx(1.0, abs=0.04)
    wide = round(180 * aspect)
    assert facts.shown_size == ((144, wide) if turned else (wide, 144))
    assert "of pixels" in unsuited(facts, "decord", 0.0, np.inf)


def test_a_damaged_shape_of_pixels_is_not_believed(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 4, options={"x264-params": "sar=4000\\:1"})
    assert read(path)[0].shown_size == (160, 96)


def combed(rgb: np.ndarray) -> float:
    """How much more the lines differ from their neighbours than from those after the next."""
    luma = rgb.astype(np.float32).mean(axis=2)
    return float(np.abs(np.diff(luma, axis=0)).mean() / np.abs(luma[2:] - luma[:-2]).mean())


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_interlaced_video_is_deinterlaced_and_named(tmp_path, suffix):
    wide = np.repeat(textured(640, 96, 1)[..., :1], 3, axis=2)  # grey: colours of 4:2:0 are woven another way
    fields = [wide[:, 6 * index : 6 * index + 160] for index in range(60)]
    woven = []
    for first, second in zip(fields[::2], fields[1::2], strict=True):
        image = first.copy()
        image[::2] = second[::2]
        woven.append(image)
    options = {"x264-params": "bff=1", "crf": "12"}
    path = write_video(tmp_path / f"i.{suffix}", woven, options=options)
    facts, frames = read(path)
    assert combed(woven[10]) > 1.2
    assert len(frames) == 30
    assert max(combed(rgb) for rgb in frames) < 0.8
    for rgb, first in list(zip(frames, fields[::2], strict=True))[1:-1]:
        assert cv2.absdiff(rgb, np.ascontiguousarray(first)).mean() < 12
    np.testing.assert_array_equal(read(path, start_s=0.8, end_s=1.2)[1], frames[12:18])
    assert unsuited(facts, "pyav", 0.0, np.inf) == "decord is not used for video that is interlaced"


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_is_shown_near_the_colours_of_sdr_and_named(tmp_path, transfer, name):
    images = [numbered_frame(index) for index in range(6)]
    facts, frames = read(hdr_video(tmp_path / "h.mp4", images, transfer))
    assert len(frames) == 6
    for rgb, image in zip(frames, images, strict=True):
        assert rgb.std() / image.std() == pytest.approx(1.0, abs=0.1)
        np.testing.assert_allclose(rgb.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=6)
    assert unsuited(facts, "pyav", 0.0, np.inf) == f"decord is not used for video that is HDR ({name})"
