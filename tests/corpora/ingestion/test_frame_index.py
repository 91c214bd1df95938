"""Each frame of a clip knows which frame of its video it is, as whoever decodes the file counts them; of an episode which row."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from corpora.clips.corpus import Clip, Corpus
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.source import SourceDefaults
from tests.builders.datasets import CAMERAS, FPS, LENGTHS, lerobot_v2, lerobot_v3
from tests.builders.videos import number_of, numbered_frame, numbered_video, write_video

SETTINGS = IngestSettings(size=64, clip_s=1.0, min_clip_s=0.3, camera_gap_s=0.2, max_fps=10.0)


def ingested(out: Path, path: Path, settings: IngestSettings = SETTINGS, **defaults) -> list[Clip]:
    make_corpus([str(path)], settings, SourceDefaults(**defaults), IngestRun(out))
    return sorted(Corpus(out).read(), key=lambda clip: (clip.row.source, clip.row.start_s))


def decoded(path: Path) -> list[np.ndarray]:
    """All frames of a file, in the order in which plain PyAV gives them, as small as the clips'."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA) for frame in frames]


def assert_shows(clip: Clip, frames: list[np.ndarray]) -> None:
    """Each stored frame is the one of `frames` at its index, and no other is as like."""
    for image, index in zip(clip.frames, clip.frame_index.tolist(), strict=True):
        off = [float(cv2.absdiff(image, frame).mean()) for frame in frames]
        assert int(np.argmin(off)) == index == number_of(image)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "h264"])
def test_of_a_constant_rate(tmp_path: Path, suffix: str) -> None:
    path = numbered_video(tmp_path / f"v.{suffix}", 60, fps=25)
    clips = ingested(tmp_path / "c", path)
    assert len(clips) >= 2
    for clip in clips:
        assert_shows(clip, decoded(path))
    assert len(clips[0].frame_index) < 12 and np.diff(clips[0].frame_index).max() > 1  # most frames are not stored


def test_of_a_variable_rate(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.2, 60)).tolist()
    path = numbered_video(tmp_path / "v.mp4", 60, times=times)
    clips = ingested(tmp_path / "c", path)
    assert sum(len(clip.frames) for clip in clips) > 20
    for clip in clips:
        assert_shows(clip, decoded(path))


def test_of_a_stretch_that_a_list_names(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "v.mp4", 90, fps=30)
    (tmp_path / "list.jsonl").write_text(json.dumps({"path": "v.mp4", "start": 1.1, "end": 2.1}))
    (clip,) = ingested(tmp_path / "c", tmp_path / "list.jsonl")
    assert clip.frame_index[0] == 33
    assert_shows(clip, decoded(path))


def test_of_video_that_was_recorded_at_another_rate(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "v.mp4", 90, fps=30)
    clips = ingested(tmp_path / "c", path, fps=45.0)
    assert len(clips) == 2
    for clip in clips:
        assert_shows(clip, decoded(path))


def test_of_a_clock_that_restarts(tmp_path: Path) -> None:
    """Two transport streams in one file: the second's times begin anew."""
    path = tmp_path / "in" / "v.ts"
    path.parent.mkdir()
    for start in (0, 60):
        frames = [numbered_frame(number) for number in range(start, start + 60)]
        half = write_video(tmp_path / f"{start}.ts", frames, fps=25)
        path.write_bytes((path.read_bytes() if start else b"") + half.read_bytes())
    clips = ingested(tmp_path / "c", path)
    assert max(clip.frame_index.max() for clip in clips) > 100
    for clip in clips:
        assert_shows(clip, decoded(path))


@pytest.mark.parametrize("make", [lerobot_v2, lerobot_v3])
def test_of_an_episode_the_row(tmp_path: Path, make) -> None:
    """v3 has all episodes of a camera in one file."""
    clips = ingested(tmp_path / "c", make(tmp_path / "arm"))
    assert len(clips) >= len(CAMERAS) * len(LENGTHS)
    for clip in clips:
        assert [number_of(image) for image in clip.frames] == clip.frame_index.tolist()
        np.testing.assert_allclose(clip.frame_index / FPS, clip.t_s, atol=1e-3)


def test_a_corpus_of_before_does_not_know(tiny_corpus: Path) -> None:
    """The records of its clips (tests/builders/corpora.py) have none."""
    (clip,) = Corpus(tiny_corpus).read(limit=1)
    assert (clip.frame_index == -1).all() and len(clip.frame_index) == len(clip.frames)
