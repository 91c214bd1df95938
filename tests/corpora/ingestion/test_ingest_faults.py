"""Faults are data: whatever is wrong with a file gets a reason in the manifest, and no other file suffers."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.source import SourceDefaults
from corpora.video.settings import ShotSettings
from tests.builders.datasets import lerobot_v2
from tests.builders.videos import audio_only, numbered_frame, numbered_video, textured, without_frames, write_video

SMALL = IngestSettings(size=64, clip_s=2.0, camera_gap_s=0.2, decoder="decord")


def make(out: Path, *inputs: Path, **how) -> list[ClipRow]:
    make_corpus([str(path) for path in inputs], SMALL, SourceDefaults(), IngestRun(out, **how))
    return list(Corpus(out).rows())


def reasons(rows: list[ClipRow]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.source, set()).add(row.reason)
    return found


def test_each_fault_has_its_reason_and_the_good_file_is_used(tmp_path):
    folder = tmp_path / "v"
    folder.mkdir()
    good = numbered_video(folder / "good.mp4", 45)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video\n" * 100)
    (folder / "image.mkv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    (folder / "headless.mp4").write_bytes(good.read_bytes()[:20_000])
    audio_only(folder / "sound.mp4")
    without_frames(folder / "none.mp4")
    os.symlink(folder / "nowhere", folder / "link.mp4")
    (folder / "mislabelled.avi").write_bytes(good.read_bytes()[:-1])  # an mp4, but for its last byte
    numbered_video(folder / "tiny.mp4", 30, width=96, height=48)
    still = textured(160, 96, 1)
    write_video(folder / "still.mp4", [still] * 45)
    write_video(folder / "dark.mp4", [numbered_frame(i, seed=3) // 30 for i in range(45)])
    flat = [np.full((96, 160, 3), 60 + 3 * i, np.uint8) for i in range(45)]
    write_video(folder / "fade.mp4", flat)
    numbered_video(folder / "short.mp4", 10, seed=4)
    found = reasons(make(tmp_path / "c", folder))
    found["still.mp4"] = {"frozen"} if found["still.mp4"] <= {"frozen", "static"} else found["still.mp4"]
    found["dark.mp4"] -= {"too_short"}  # colours of near-black flicker, which looks like cuts
    assert found == {
        "good.mp4": {""},
        "empty.mp4": {"empty_file"},
        "text.mp4": {"unreadable"},
        "image.mkv": {"unreadable"},
        "headless.mp4": {"unreadable"},
        "sound.mp4": {"no_video_stream"},
        "none.mp4": {"no_frames"},
        "link.mp4": {"missing_file"},
        "mislabelled.avi": {"near_duplicate"},  # read by its content, which is that of good.mp4
        "tiny.mp4": {"too_small"},
        "still.mp4": {"frozen"},  # or static, see below
        "dark.mp4": {"too_dark"},
        "fade.mp4": {"blurred"},
        "short.mp4": {"too_short"},
    }


def test_every_row_has_its_columns_filled_sensibly(tmp_path):
    folder = tmp_path / "v"
    folder.mkdir()
    numbered_video(folder / "a.mp4", 45)
    (folder / "b.mp4").write_bytes(b"")
    rows = make(tmp_path / "c", folder)
    for row in rows:
        assert len(row.clip_id) == 16
        assert row.kept == (row.reason == "") == (row.shard != "") == (row.index_in_shard >= 0)
        assert row.source == row.group
    assert rows[0].content_hash
    assert rows[0].codec == "h264"
    assert rows[-1].seconds == 0


def test_a_partially_truncated_video_gives_what_it_holds(tmp_path):
    path = numbered_video(tmp_path / "t.mkv", 90)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    rows = make(tmp_path / "c", path)
    assert rows[0].kept
    assert rows[0].end_s == 2.0
    assert rows[-1].reason == "truncated"
    assert rows[-1].end_s == pytest.approx(6.0, abs=0.1)
    assert rows[-1].start_s == rows[-2].end_s


def test_damage_in_the_middle_is_noted(tmp_path):
    path = numbered_video(tmp_path / "d.mp4", 90, gop=10)
    data = bytearray(path.read_bytes())
    place = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    data[place : place + 300] = bytes(300)
    path.write_bytes(data)
    rows = make(tmp_path / "c", path)
    assert any(row.kept for row in rows)
    assert any("frames lost" in row.detail for row in rows)
    assert {row.decoder for row in rows} == {"pyav"}
    assert all("decord" in row.decoder_note for row in rows)


def test_a_file_that_hangs_is_given_up_and_the_others_are_not(tmp_path):
    folder = tmp_path / "v"
    folder.mkdir()
    for seed, name in enumerate(("a", "c", "d")):
        numbered_video(folder / f"{name}.mp4", 30, seed=seed)
    os.mkfifo(folder / "b.mp4")  # opening it waits for a writer that never comes
    rows = make(tmp_path / "c", folder, file_timeout_s=2.0)
    assert reasons(rows) == {"a.mp4": {""}, "b.mp4": {"timeout"}, "c.mp4": {""}, "d.mp4": {""}}
    assert "2 s" in next(row.detail for row in rows if row.reason == "timeout")


CRASHES = """
import os, signal
from corpora.ingestion.stage import stage_source

def stage(task, heartbeat):
    name = task["source"]["name"]
    if name == "crash.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "odd.mp4":
        raise ArithmeticError("nobody thought of this")
    if name == "once.mp4" and not os.path.exists(os.environ["GIZA_TEST_MARK"]):
        open(os.environ["GIZA_TEST_MARK"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return stage_source(task, heartbeat)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_decoder_that_crashes_costs_its_own_file_alone(tmp_path, monkeypatch, workers):
    (tmp_path / "crashing_stage.py").write_text(CRASHES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("GIZA_TEST_MARK", str(tmp_path / "mark"))
    folder = tmp_path / "v"
    folder.mkdir()
    for seed, name in enumerate(("a", "crash", "m", "odd", "once", "z")):
        numbered_video(folder / f"{name}.mp4", 30, seed=seed)
    rows = make(tmp_path / "c", folder, workers=workers, function="crashing_stage:stage")
    expected = {"a": "", "crash": "worker_died", "m": "", "odd": "failed", "once": "", "z": ""}
    assert reasons(rows) == {f"{name}.mp4": {reason} for name, reason in expected.items()}
    details = {row.source: row.detail for row in rows}
    assert "SIGSEGV" in details["crash.mp4"]
    assert details["odd.mp4"] == "ArithmeticError: nobody thought of this"


def test_a_dataset_with_a_broken_episode_keeps_the_others(tmp_path):
    root = lerobot_v2(tmp_path / "arm")
    (root / "data/chunk-000/episode_000001.parquet").write_bytes(b"PAR1 no more")
    rows = make(tmp_path / "c", root)
    assert {row.reason for row in rows} == {""}  # its video is of use without its actions
    for row in rows:
        assert ("no ground truth" in row.detail) == row.group.endswith("1")
    assert len(Corpus(tmp_path / "c").truth()) == sum(row.group.endswith("0") for row in rows)


@pytest.mark.parametrize("searched", [False, True])
def test_episodes_of_robot_datasets_are_searched_for_cuts_only_if_asked(tmp_path, searched):
    root = lerobot_v2(tmp_path / "arm")
    video = next(root.glob("videos/**/*head*/episode_000001.mp4"))
    write_video(video, [numbered_frame(i, seed=9 if i < 22 else 4) for i in range(45)])
    settings = dataclasses.replace(SMALL, shots=ShotSettings(episodes=searched))
    make_corpus([str(root)], settings, SourceDefaults(), IngestRun(tmp_path / "c"))
    shots = {row.shot for row in Corpus(tmp_path / "c").rows() if row.source.endswith("head")}
    assert shots == ({0, 1} if searched else {0})


def broken_copies(good: list[bytes], count: int, folder: Path, seed: int) -> int:
    """Writes `count` broken copies into `folder`: cut short, bits flipped, spans zeroed, wrong extension, empty."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        data = bytearray(good[number % len(good)])
        suffix = ".mp4"
        match number // len(good) % 5:
            case 0:
                del data[int(rng.uniform(0.02, 0.98) * len(data)) :]
            case 1:
                for place in rng.integers(0, len(data), int(rng.choice([1, 10, 300]))):
                    data[place] ^= 1 << int(rng.integers(8))
            case 2:
                place = int(rng.integers(len(data)))
                span = int(rng.uniform(0.001, 0.2) * len(data))
                data[place : place + span] = bytes(len(data[place : place + span]))
            case 3:
                suffix = str(rng.choice([".avi", ".gif", ".webm", ".mkv"]))
                del data[int(rng.uniform(0.3, 1.0) * len(data)) :]
            case 4:
                del data[int(rng.integers(0, 40)) :]
        (folder / f"{number:03d}{suffix}").write_bytes(data)
    return count


def check_broken_copies(tmp_path: Path, good: list[bytes], count: int) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    broken_copies(good, count, folder, seed=1)
    rows = make(tmp_path / "c", folder, workers=2, file_timeout_s=20.0)
    assert len({row.source for row in rows}) == count
    assert "failed" not in {row.reason for row in rows}
    assert make(tmp_path / "again", folder, workers=1, file_timeout_s=20.0) == rows
    for clip in Corpus(tmp_path / "c").read():  # what is used can be read
        assert len(clip.frames) == len(clip.t_s) == clip.row.frames


def good_videos(tmp_path: Path) -> list[bytes]:
    made = [
        numbered_video(tmp_path / "a.mp4", 45),
        numbered_video(tmp_path / "b.mkv", 45, codec="libx265"),
        numbered_video(tmp_path / "c.webm", 45, codec="libvpx-vp9"),
        numbered_video(tmp_path / "d.avi", 45, codec="mpeg4"),
        numbered_video(tmp_path / "e.gif", 30, codec="gif", pixel_format="rgb8"),
        numbered_video(tmp_path / "f.mp4", 45, codec="libsvtav1"),
    ]
    return [path.read_bytes() for path in made]


def test_broken_copies_are_used_or_recorded(tmp_path):
    check_broken_copies(tmp_path, good_videos(tmp_path), 30)


@pytest.mark.slow
def test_two_hundred_broken_copies_are_used_or_recorded(tmp_path):
    check_broken_copies(tmp_path, good_videos(tmp_path), 200)
