"""`giza track`: what is found is where it is, what is not found has a reason, and a killed job goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import jobs
from corpora.agent.hands import Hand, HandTracks
from corpora.agent.settings import TrackSettings
from corpora.agent.track_file import TrackFile
from corpora.agent.tracks import Tracks
from corpora.clips.corpus import Corpus
from tests.builders.agents import FRAMES, SIZE, Acted, acted, write_acted, write_files


@pytest.fixture(scope="module")
def clips() -> list[Acted]:
    return [acted(f"{number:016x}", number, absent=range(4 * number)) for number in range(3)]


@pytest.fixture(scope="module")
def corpus(clips: list[Acted], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_acted(tmp_path_factory.mktemp("track") / "corpus", clips)


def skin_hand(rgb: np.ndarray) -> list[Hand]:
    """A hand whose landmarks lie about the disc of the skin's colour, its point in the disc's middle."""
    rows, columns = np.nonzero((np.abs(rgb.astype(int) - (230, 190, 150)) < 25).all(2))
    if len(rows) < 20:
        return []
    centre = np.array([columns.mean(), rows.mean()])
    angle = np.linspace(0, 2 * np.pi, 21, endpoint=False)
    marks = centre + 4 * np.stack([np.cos(angle), np.sin(angle)], 1)
    marks[[4, 8]] = centre
    return [Hand(marks.astype(np.float32), 0.9, True)]


class Fake:
    """A detector that is told what to see, and loses frame 10 of every video."""

    def __init__(self, confidence: float, also: tuple[Hand, ...] = ()) -> None:
        self.frame, self.also = 0, also

    def reset(self) -> None:
        self.frame = 0

    def __call__(self, rgb: np.ndarray) -> list[Hand]:
        self.frame += 1
        return [] if self.frame == 11 else [*skin_hand(rgb), *(self.also if 12 < self.frame < 20 else ())]


def opened(corpus: Path, detector=Fake, **fields) -> HandTracks:
    return HandTracks(TrackSettings(mask="hand", **fields), Corpus(corpus), detector)


def test_hands_are_where_they_are_and_short_losses_are_bridged(corpus: Path, clips, tmp_path: Path) -> None:
    summary = jobs.track(corpus, tmp_path / "out", opened=opened(corpus)).summary
    tracks = Tracks(tmp_path / "out", Corpus(corpus))
    for number, clip in enumerate(clips):
        track = tracks[clip.clip_id]
        there = np.arange(FRAMES) >= 4 * number
        assert (track.seen == there).all()
        assert np.abs(track.point_px - clip.point)[there].max() < 1.5
        overlap = (track.mask & clip.mask).sum() / (track.mask | clip.mask).sum()
        assert overlap > 0.6
        assert track.confidence[10] == pytest.approx(0.45) and track.confidence[11] == pytest.approx(0.9)
        assert tracks.clips[clip.clip_id].seen == there.sum()
    assert summary["seen_share"] == pytest.approx(1 - 12 / 72)
    assert summary["folders"]["videos"]["clips"] == 3


def test_of_two_people_the_hand_that_is_seen_most_acts_and_the_masks_are_of_both(corpus: Path, tmp_path: Path) -> None:
    marks = np.stack([np.linspace(2, 8, 21), np.linspace(40, 46, 21)], 1).astype(np.float32)
    other = Hand(marks, 0.9, False)
    jobs.track(corpus, tmp_path / "out", opened=opened(corpus, lambda confidence: Fake(confidence, (other,))))
    track = Tracks(tmp_path / "out", Corpus(corpus))["0" * 16]
    assert track.mask[14, 43, 5] and not track.mask[9, 43, 5]
    assert track.seen.all() and np.linalg.norm(track.point_px[14] - other.point_px) > 8
    left = opened(corpus, lambda confidence: Fake(confidence, (other,)), hand="left")
    jobs.track(corpus, tmp_path / "left", opened=left)
    track = Tracks(tmp_path / "left", Corpus(corpus))["0" * 16]
    assert track.seen.sum() == 7 and track.point_px[14] == pytest.approx(other.point_px)


def test_files_of_any_size_are_read_by_clip_video_or_group(corpus: Path, clips, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "files", clips[:1])
    file = clips[1].file
    large = np.repeat(np.repeat(file.mask, 3, 1), 3, 2)
    dataclasses.replace(file, mask=large, point_px=3 * file.point_px + 1).write(folder / f"{clips[1].clip_id}.npz")
    jobs.track(corpus, tmp_path / "out", source="files", files=str(folder))
    tracks = Tracks(tmp_path / "out", Corpus(corpus))
    for clip in clips[:2]:
        track = tracks[clip.clip_id]
        assert (track.mask == clip.mask).all()
        np.testing.assert_allclose(track.point_px, clip.point, atol=1e-4)
        np.testing.assert_allclose(track.depth_m, clip.depth, atol=1e-4)
    assert clips[2].clip_id not in tracks
    assert tracks.clips[clips[2].clip_id].reason == "no_file"
    half = tracks[clips[0].clip_id].resized(SIZE // 2)
    np.testing.assert_allclose(half.point_px, (clips[0].point + 0.5) / 2 - 0.5, atol=1e-4)


def test_clips_without_a_file_are_told_in_one_line(corpus: Path, clips, tmp_path: Path, caplog) -> None:
    folder = write_files(tmp_path / "files", clips[:1])
    jobs.track(corpus, tmp_path / "out", source="files", files=str(folder))
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith(f"clips without a track: 2 such as clip {clips[1].clip_id} of ") and "no_file" in line


def test_what_does_not_fit_is_named_and_the_rest_is_tracked(corpus: Path, clips, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "files", clips[2:])
    file = clips[0].file
    dataclasses.replace(file, mask=file.mask[:, :30]).write(folder / f"{clips[0].clip_id}.npz")
    (folder / f"{clips[1].clip_id}.npz").write_bytes(b"PK no")
    summary = jobs.track(corpus, tmp_path / "out", source="files", files=folder).summary
    assert summary["reasons"] == {"mask_size": 1, "unreadable": 1} and summary["tracked_clips"] == 1
    told = Tracks(tmp_path / "out", Corpus(corpus)).clips[clips[0].clip_id]
    assert told.detail == "masks of 48 x 30 pixels, a video of 1.000 to 1"


def test_frames_that_a_file_does_not_reach_are_not_seen() -> None:
    clip = acted("0" * 16, 0)
    t_s = np.arange(FRAMES) / 10
    shorter = TrackFile(t_s[:10], clip.mask[:10], clip.point[:10].astype(np.float32), {})
    track = shorter.at(t_s, (SIZE, SIZE), 1.0)
    assert track.seen.tolist() == [True] * 10 + [False] * 14
    assert track.confidence.tolist() == [1.0] * 10 + [0.0] * 14


def test_no_hand_anywhere_is_a_result(corpus: Path, tmp_path: Path) -> None:
    class Blind(Fake):
        def __call__(self, rgb: np.ndarray) -> list[Hand]:
            return []

    summary = jobs.track(corpus, tmp_path / "out", opened=opened(corpus, Blind)).summary
    assert (summary["tracked_clips"], summary["seen_share"], summary["reasons"]) == (0, 0.0, {"no_hand": 3})


def test_a_killed_job_goes_on_and_gives_the_same(corpus: Path, tmp_path: Path) -> None:
    class Dying(HandTracks):
        def track(self, clip):
            if clip.row.clip_id.endswith("2"):
                raise KeyboardInterrupt
            return super().track(clip)

    jobs.track(corpus, tmp_path / "whole", opened=opened(corpus), part_frames=FRAMES)
    dying = Dying(TrackSettings(mask="hand"), Corpus(corpus), Fake)
    with pytest.raises(KeyboardInterrupt):
        jobs.track(corpus, tmp_path / "out", opened=dying, part_frames=FRAMES)
    done = (tmp_path / "out" / "part-000000.parquet").stat().st_mtime_ns
    with pytest.raises(ValueError, match="no finished tracks"):
        Tracks(tmp_path / "out", Corpus(corpus))
    jobs.track(corpus, tmp_path / "out", opened=opened(corpus), part_frames=FRAMES)
    assert (tmp_path / "out" / "part-000000.parquet").stat().st_mtime_ns == done
    for path in (tmp_path / "whole").glob("*.parquet"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert jobs.track(corpus, tmp_path / "out", opened=opened(corpus), part_frames=FRAMES).summary["already_finished"]


def test_wrong_asking_is_refused(corpus: Path, clips, tmp_path: Path) -> None:
    for fields, said in (
        ({"source": "foots"}, "must be one of files, hands"),
        ({"source": "files"}, "--files FOLDER"),
        ({"source": "files", "files": tmp_path}, "holds no .npz file"),
        ({"files": tmp_path}, "--source hands does not read it.*choose --source files"),
        ({"source": "files", "files": tmp_path, "bridge_s": 1.0}, "^--bridge-s 1.0: --source files does not read it"),
        ({"source": "files", "files": tmp_path, "mask": "sam2"}, "^--mask sam2: --source files does not read it"),
        ({"mask": "sam3"}, "^--mask 'sam3': must be one of grabcut, hand, sam2"),
    ):
        with pytest.raises(ValueError, match=said):
            jobs.track(corpus, tmp_path / "out", **fields)
    jobs.track(corpus, tmp_path / "out", opened=opened(corpus))
    other = write_acted(tmp_path / "other", [*clips[:2], acted("a" * 16, 9)])
    with pytest.raises(ValueError, match="not of the clips of"):
        Tracks(tmp_path / "out", Corpus(other))


def test_without_mediapipe_the_remedy_is_said(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mediapipe.python.solutions.hands", None)
    monkeypatch.setitem(__import__("sys").modules, "mediapipe", None)
    with pytest.raises(ValueError, match=r"pip install --no-deps mediapipe==0.10.21"):
        jobs.track(corpus, tmp_path / "out")
