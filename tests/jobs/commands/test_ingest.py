"""From sources to a corpus: every kind of source, every column, the same bytes whoever does it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.source import SourceDefaults
from jobs import cli
from jobs.commands.ingest import IngestConfig
from jobs.commands.ingest import run as run_job
from tests.builders.corpora import corpus_files
from tests.builders.datasets import CAMERAS, LENGTHS, TASKS, lerobot_v2, lerobot_v3, truth_of, webdataset
from tests.builders.videos import number_of, numbered_frame, numbered_video, turn_clockwise, write_video

SMALL = IngestSettings(size=64, clip_s=2.0, camera_gap_s=0.2, decoder="decord")


def luma_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over the picture, 0-255. Colour is stored at half the resolution, and these scenes are full of it."""
    one, other = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (one, other))
    return float(cv2.absdiff(one, other).mean())


def make(
    out: Path, *inputs: Path, settings: IngestSettings = SMALL, defaults: SourceDefaults | None = None, **how
) -> Corpus:
    make_corpus([str(path) for path in inputs], settings, defaults or SourceDefaults(), IngestRun(out, **how))
    return Corpus(out)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder as people have them: all containers and codecs, and files that are no video."""
    root = tmp_path_factory.mktemp("videos")
    kinds = [
        ("h264.mp4", {}),
        ("h264.mov", {"audio": True}),
        ("hevc.mkv", {"codec": "libx265"}),
        ("hevc10.mp4", {"codec": "libx265", "pixel_format": "yuv420p10le"}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("av1.mp4", {"codec": "libsvtav1"}),
        ("mpeg4.avi", {"codec": "mpeg4"}),
        ("mjpeg.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
        ("gif.gif", {"codec": "gif", "pixel_format": "rgb8", "fps": 10}),
        ("odd.webm", {"codec": "libvpx-vp9", "width": 161, "height": 97}),
    ]
    for seed, (name, how) in enumerate(kinds):
        numbered_video(root / name, 45, seed=seed, **how)
    turn_clockwise(numbered_video(root / "phone.mp4", 45, seed=20), 1)
    rng = np.random.default_rng(0)
    times = np.round(np.cumsum(rng.uniform(0.02, 0.1, 60)), 3)
    write_video(root / "variable.mkv", [numbered_frame(i, seed=30) for i in range(60)], times=times - times[0])
    (root / "readme.txt").write_text("holiday")
    return root


@pytest.fixture(scope="module")
def corpus(videos, tmp_path_factory) -> Corpus:
    return make(tmp_path_factory.mktemp("made") / "corpus", videos)


def test_every_kind_of_video_becomes_clips(corpus, videos):
    kept = {row.source for row in corpus.clips}
    assert kept == {path.name for path in videos.iterdir()} - {"readme.txt"}
    assert corpus.summary["files_skipped"] == {".txt": 1}
    rows = {row.source: row for row in corpus.clips}
    assert (rows["phone.mp4"].width, rows["phone.mp4"].height) == (96, 160)
    assert rows["odd.webm"].width == 161
    assert {rows[name].codec for name in ("hevc.mkv", "av1.mp4", "mjpeg.avi", "gif.gif")} == {
        "hevc",
        "av1",
        "mjpeg",
        "gif",
    }


def test_the_manifest_says_which_decoder_and_why(corpus):
    rows = {row.source: row for row in corpus.clips}
    assert rows["h264.mp4"].decoder == "decord"
    for name, note in [("av1.mp4", "av1"), ("gif.gif", "gif"), ("hevc10.mp4", "10 bits"), ("phone.mp4", "rotated")]:
        assert rows[name].decoder == "pyav"
        assert note in rows[name].decoder_note
    assert "variable frame rate" in rows["variable.mkv"].decoder_note


def test_stored_frames_are_the_source_frames_at_their_times(corpus, videos):
    for clip in corpus.read():
        row = clip.row
        assert clip.frames.shape == (row.frames, 64, 64, 3)
        assert clip.frames.dtype == np.uint8
        assert row.start_s == pytest.approx(clip.t_s[0])
        assert (np.diff(clip.t_s) > 0).all()
        assert clip.t_s[-1] < row.end_s
        if row.source == "phone.mp4":
            numbers = [number_of(np.rot90(frame)) for frame in clip.frames]
        else:
            numbers = [number_of(frame) for frame in clip.frames]
        if row.source not in ("variable.mkv", "gif.gif"):
            np.testing.assert_allclose(np.array(numbers) / 15, clip.t_s, atol=0.002)
        assert row.fps == pytest.approx((row.frames - 1) / (clip.t_s[-1] - clip.t_s[0]))
        assert row.fps <= 20.3


def test_pixels_survive_storage(corpus):
    (row,) = [row for row in corpus.clips if row.source == "h264.mp4" and row.start_s == 0]
    (clip,) = corpus.read([row.clip_id])
    for index in (0, 7, 20):
        expected = cv2.resize(numbered_frame(index, seed=0), (64, 64), interpolation=cv2.INTER_AREA)
        assert luma_difference(clip.frames[index], expected) < 5


def test_the_camera_is_stored_with_the_clip(corpus):
    for clip in corpus.read():
        camera = clip.camera
        pairs = len(camera["first"])
        assert pairs > 0
        assert camera["h"].shape == (pairs, 3, 3)
        assert camera["h"].dtype == np.float32
        assert (camera["first"] < camera["second"]).all()
        assert camera["second"].max() < len(clip.frames)
        # Nobody moved it: less than a pixel of the source.
        np.testing.assert_allclose(camera["h"], np.broadcast_to(np.eye(3), (pairs, 3, 3)), atol=0.02)
        assert clip.row.camera_dx < 0.002
        assert clip.row.camera_inliers > 0.5


def test_windows_of_a_source_touch_and_short_ends_are_named(corpus, videos):
    rows = [row for row in corpus.rows() if row.source == "h264.mp4"]
    assert [(row.start_s, round(row.end_s, 6), row.reason) for row in rows] == [(0.0, 2.0, ""), (2.0, 3.0, "")]
    rows = [row for row in corpus.rows() if row.source == "gif.gif"]
    assert [(row.kept, round(row.end_s, 3)) for row in rows] == [(True, 2.0), (True, 4.0), (False, 4.5)]
    assert rows[-1].reason == "too_short"


def test_cut_sources_give_clips_of_one_shot(tmp_path):
    frames = [numbered_frame(i, seed=seed) for seed in (1, 2, 3) for i in range(25)]
    corpus = make(tmp_path / "c", write_video(tmp_path / "cuts.mp4", frames))
    assert [(row.shot, round(row.start_s * 15)) for row in corpus.clips] == [(0, 0), (1, 25), (2, 50)]
    assert len({row.group for row in corpus.clips}) == 1


def test_a_moving_camera_is_measured(tmp_path):
    from tests.builders.videos import textured

    world = textured(600, 300, 4)
    frames = [world[40 : 40 + 192, 2 * i : 2 * i + 320] for i in range(45)]
    corpus = make(tmp_path / "c", write_video(tmp_path / "pan.mp4", frames, fps=15))
    (row, _) = corpus.clips
    assert row.camera_dx == pytest.approx(2 * 2 * 3 / 320, abs=0.004)  # 2 pixels a frame over 3 frames, in half-widths
    assert row.camera_dy < 0.003
    assert row.camera_rot_deg < 0.2


def test_lists_use_the_stretch_they_name(tmp_path):
    numbered_video(tmp_path / "a.mp4", 90, seed=1)
    lines = [{"path": "a.mp4", "start": 1.0, "end": 2.6, "text": "wave", "tier": "neural", "embodiment": "hand"}]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (row,) = make(tmp_path / "c", tmp_path / "list.jsonl").clips
    assert (row.start_s, round(row.end_s, 3)) == (1.0, 2.6)
    assert (row.text, row.tier, row.embodiment) == ("wave", "neural", "hand")
    (clip,) = Corpus(tmp_path / "c").read()
    assert [number_of(frame) for frame in clip.frames] == list(range(15, 39))


def test_tars_are_read_without_unpacking_them_all(tmp_path):
    members = {f"{n:03d}.mp4": numbered_video(tmp_path / f"{n}.mp4", 30, seed=n).read_bytes() for n in range(3)}
    members |= {"001.txt": b"stir the pot"}
    corpus = make(tmp_path / "c", webdataset(tmp_path / "w.tar", dict(sorted(members.items()))))
    assert [(row.source, row.text) for row in corpus.clips] == [
        ("w.tar/000", ""),
        ("w.tar/001", "stir the pot"),
        ("w.tar/002", ""),
    ]


@pytest.mark.parametrize("build", [lerobot_v2, lerobot_v3])
def test_actions_and_states_travel_along(tmp_path, build):
    corpus = make(tmp_path / "c", build(tmp_path / "arm"))
    assert corpus.truth_features == {"action": 2, "observation.state": 3}
    assert {row.group for row in corpus.clips} == {"arm/episode_000000", "arm/episode_000001"}
    assert {row.text for row in corpus.clips} == set(TASKS)
    for clip in corpus.read():
        episode = int(clip.row.group[-1])
        camera = CAMERAS.index(clip.row.source.rpartition("/")[2])
        assert clip.truth is not None
        first, last = round(clip.row.start_s * 15), min(round(clip.row.end_s * 15), LENGTHS[episode])
        np.testing.assert_allclose(clip.truth["t_s"], np.arange(first, last) / 15, atol=1e-5)
        for name, values in truth_of(episode).items():
            np.testing.assert_array_equal(clip.truth[name], values[first:last])
        assert [number_of(frame) for frame in clip.frames] == list(range(first, last))
        expected = cv2.resize(numbered_frame(first, seed=10 * episode + camera), (64, 64), interpolation=cv2.INTER_AREA)
        assert luma_difference(clip.frames[0], expected) < 5


def test_both_layouts_of_one_dataset_give_the_same_clips(tmp_path):
    one = make(tmp_path / "c2", lerobot_v2(tmp_path / "a" / "arm"))
    other = make(tmp_path / "c3", lerobot_v3(tmp_path / "b" / "arm"))
    for first, second in zip(one.clips, other.clips, strict=True):
        assert (first.source, first.start_s, first.frames) == (second.source, second.start_s, second.frames)
        assert first.end_s == pytest.approx(second.end_s)


def test_copies_are_dropped_and_the_first_is_kept(tmp_path):
    folder = tmp_path / "v"
    folder.mkdir()
    frames = [numbered_frame(i, seed=5) for i in range(30)]
    write_video(folder / "a.mp4", frames)
    write_video(folder / "b_recoded.webm", frames, codec="libvpx-vp9")
    (folder / "c_copied.mp4").write_bytes((folder / "a.mp4").read_bytes())
    numbered_video(folder / "d_other.mp4", 30, seed=6)
    rows = list(make(tmp_path / "c", folder).rows())
    assert [row.reason for row in rows] == ["", "near_duplicate", "near_duplicate", ""]
    assert rows[0].clip_id in rows[1].detail
    assert rows[0].clip_id == rows[2].clip_id


def test_clip_ids_depend_on_content_and_place_alone(tmp_path, videos, corpus):
    elsewhere = tmp_path / "renamed.mp4"
    elsewhere.write_bytes((videos / "h264.mp4").read_bytes())
    ids = [row.clip_id for row in make(tmp_path / "c", elsewhere).clips]
    assert ids == [row.clip_id for row in corpus.clips if row.source == "h264.mp4"]
    assert all(len(clip_id) == 16 and int(clip_id, 16) >= 0 for clip_id in ids)


def test_the_bytes_do_not_depend_on_workers(corpus, videos, tmp_path):
    other = make(tmp_path / "c", videos, workers=3)
    assert corpus_files(other.folder) == corpus_files(corpus.folder)


def test_shards_are_closed_at_their_size(videos, tmp_path):
    import dataclasses

    corpus = make(tmp_path / "c", videos, settings=dataclasses.replace(SMALL, shard_mb=0.1))
    shards = sorted(corpus.folder.glob("shards/*"))
    assert len(shards) > 2
    assert [shard.name for shard in shards] == [f"clips-{number:06d}.tar" for number in range(len(shards))]
    assert max(shard.stat().st_size for shard in shards) < 0.25e6
    places = [(row.shard, row.index_in_shard) for row in corpus.clips]
    assert places == sorted(places)
    assert len(list(corpus.read())) == len(corpus.clips)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # it leaves closing tars to the collector
def test_webdataset_reads_the_shards(corpus):
    import webdataset

    shards = [str(path) for path in sorted((corpus.folder / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [row.clip_id for row in corpus.clips]
    record = json.loads(samples[0]["json"])
    assert ClipRow.from_json(record) == corpus.clips[0]
    assert record["t_s"][0] == corpus.clips[0].start_s
    assert record["codec facts"]["gop"] == 16


def test_counts_and_hours_add_up(corpus):
    rows = list(corpus.rows())
    summary = corpus.summary
    assert sum(cell["count"] for cell in summary["reasons"].values()) == len(rows)
    assert summary["clips"] == len(corpus.clips) == summary["reasons"]["kept"]["count"]
    assert summary["hours_seen"] * 3600 == pytest.approx(sum(row.seconds for row in rows), abs=0.05)
    assert summary["hours"] * 3600 == pytest.approx(sum(row.seconds for row in corpus.clips), abs=0.05)
    assert sum(cell["count"] for cell in summary["decoders"].values()) == len(corpus.clips)
    timing = json.loads((corpus.folder / "timing.json").read_text())
    assert timing["wall_s"] > 0
    assert timing["video_hours_per_hour"] > 0


def test_the_job_prints_its_table_and_returns_the_summary(tmp_path, capsys):
    numbered_video(tmp_path / "a.mp4", 45)
    flags = ["--size", "48", "--clip-s", "2", "--workers", "1", "--tier", "neural", "--embodiment", "hand"]
    assert cli.main(["ingest", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "c"), *flags]) == 0
    printed = capsys.readouterr().out
    assert "kept" in printed
    assert "neural" in printed
    (row, _) = Corpus(tmp_path / "c").clips
    assert (row.size, row.tier, row.embodiment) == (48, "neural", "hand")
    again = run_job(
        IngestConfig(
            (str(tmp_path / "a.mp4"),), tmp_path / "c", IngestSettings(size=48, clip_s=2.0), "neural", "hand", workers=2
        )
    )
    assert again["already_finished"]
    assert again["clips"] == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "33"], "size 33: must be even"),
        (["--workers", "0"], "workers 0: must be at least 1"),
        (["--file-timeout-s", "0"], "file_timeout_s 0"),
    ],
)
def test_a_wrong_flag_stops_with_value_rule_and_remedy(tmp_path, capsys, flags, message):
    numbered_video(tmp_path / "a.mp4", 5)
    assert cli.main(["ingest", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "c"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
