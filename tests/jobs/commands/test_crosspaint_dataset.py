"""`giza crosspaint` of a LeRobot dataset: other video, the same rows; a policy trains on it with no change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs
from corpora.agent import paint_dataset, painted_meta
from corpora.agent.painting import Dot, Painter, open_agent
from corpora.agent.settings import PaintSettings
from corpora.agent.track_file import TrackFile
from corpora.episodes.frames import open_episode_frames
from corpora.episodes.lerobot import LeRobotDataset
from corpora.episodes.opening import open_episodes
from corpora.episodes.selection import EpisodeSelection
from corpora.sources.lerobot import LeRobot
from corpora.sources.source import SourceDefaults
from corpora.video.view import View
from tests.builders.toy_world import CAMERA, FPS, SIDE, SIZE, toy_robot, world
from tests.builders.videos import textured

COUNT = 24
BLOCK = (240, 210, 40)


def track_file(seed: int) -> TrackFile:
    mask = np.zeros((COUNT, SIZE, SIZE), bool)
    places = np.round(world(seed, COUNT)[1]).astype(int)
    for frame, (y, x) in enumerate(places):
        mask[frame, y : y + SIDE, x : x + SIDE] = True
    return TrackFile(np.arange(COUNT) / FPS, mask, (places[:, ::-1] + (SIDE - 1) / 2).astype(np.float32), {})


@pytest.fixture
def robot(tmp_path: Path) -> Path:
    """Three episodes; the last has no track."""
    for episode in range(2):
        track_file(episode).write(tmp_path / "tracks" / "robot" / f"episode_{episode:06d}.npz")
    return toy_robot(tmp_path / "robot", (0, 1, 2), COUNT)


def frames_of(root: Path, cache: Path) -> np.ndarray:
    """[episodes, COUNT, SIZE, SIZE, 3], as they are trained on."""
    table = open_episode_frames(open_episodes(root, EpisodeSelection()), SIZE, cache=cache)
    assert table.valid.all() and not table.faults
    return table.images[:, 0].reshape(-1, COUNT, SIZE, SIZE, 3).astype(int)


def test_the_robot_is_gone_and_the_rows_are_as_they_were(robot: Path, tmp_path: Path) -> None:
    done = jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "out", agent="none")
    assert [each["reason"] for each in done.summary["skipped"]] == ["no_file"] and done.summary["painted"] == 2
    before, after = frames_of(robot, tmp_path / "cache"), frames_of(tmp_path / "out", tmp_path / "cache")
    yellow = (np.abs(after - BLOCK) < 40).all(-1).mean((1, 2, 3))
    assert len(yellow) == 2 and yellow.max() < 0.003
    last, back = track_file(0).mask[-1], textured(SIZE, SIZE, 7)
    assert np.abs(after[0, -1] - back)[last].mean() < 8 < 40 < np.abs(before[0, -1] - back)[last].mean()
    assert np.abs(after[0] - before[0])[~track_file(0).mask].mean() < 4
    old, new = (open_episodes(root, EpisodeSelection()) for root in (robot, tmp_path / "out"))
    rows = len(new.t_s)
    for name in ("state", "action", "t_s"):
        np.testing.assert_array_equal(getattr(old, name)[:rows], getattr(new, name))
    told = json.loads(next((tmp_path / "out" / "painting").rglob("episode_000001.json")).read_text("utf-8"))
    assert told["episodes"]["1"]["seen_frames"] == COUNT
    page = (tmp_path / "out" / "crosspaint.html").read_text("utf-8")
    assert page.count('class="strip"') == 2 and "2 of 3 episodes painted" in page and "no_file" in page


def test_acting_sees_what_training_saw(robot: Path, tmp_path: Path) -> None:
    jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "out", agent="dot", dot_radius=0.1)
    before, after = frames_of(robot, tmp_path / "cache"), frames_of(tmp_path / "out", tmp_path / "cache")
    settings = PaintSettings(agent="dot", dot_radius=0.1)
    painter = Painter(open_agent(settings, SIZE), settings)
    track = track_file(1).at(np.arange(COUNT) / FPS, (SIZE, SIZE), 1.0)
    for frame in range(COUNT):
        image = before[1, frame].astype(np.uint8)
        seen = painter.paint(image[None], track.frames(slice(frame, frame + 1))).frames[0]
        assert np.abs(seen - after[1, frame]).mean() < 4
        assert (seen == Dot.COLOUR).all(-1).sum() > 50


def test_a_killed_job_goes_on_and_gives_the_same_bytes(robot: Path, tmp_path: Path) -> None:
    class Dying(Dot):
        left = COUNT + 5

        def stamps(self, track, shown):
            Dying.left -= 1
            if not Dying.left:
                raise KeyboardInterrupt
            return super().stamps(track, shown)

    jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "whole", agent="dot")
    with pytest.raises(KeyboardInterrupt):
        jobs.crosspaint(
            robot, tmp_path / "tracks", tmp_path / "out", opened=Dying(PaintSettings(agent="dot"), 0), agent="dot"
        )
    first = next((tmp_path / "out").rglob("episode_000000.mp4"))
    done = first.stat().st_mtime_ns
    jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "out", agent="dot")
    assert first.stat().st_mtime_ns == done
    names = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.*") if path.is_file()]
    assert len(names) > 8
    for name in names:
        if name.name != "crosspaint.json":  # it tells the time
            one, two = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "out"))
            if name.suffix == ".html":  # as its last section does
                one, two = (page.partition(b"Where this page is from")[0] for page in (one, two))
            assert one == two, name


@pytest.mark.parametrize("killed", ["written_whole", "write_json"])
def test_a_dataset_that_is_not_whole_is_none(
    robot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    """Its videos were painted, and its metadata said for a while that they are as the camera took them."""

    def kill(path: Path, *_: object) -> None:
        if "meta" in path.parts and path.suffix == (".jsonl" if killed == "written_whole" else ".json"):
            raise KeyboardInterrupt
        return whole(path, *_)

    module = paint_dataset if killed == "written_whole" else painted_meta
    whole = getattr(module, killed)
    monkeypatch.setattr(module, killed, kill)
    with pytest.raises(KeyboardInterrupt):
        jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "out", agent="dot")
    assert list((tmp_path / "out").rglob("*.mp4")) and not LeRobotDataset.exists(tmp_path / "out")
    monkeypatch.undo()
    jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "out", agent="dot")
    assert LeRobotDataset.open(tmp_path / "out").view(CAMERA) == View("dot", "before", 0.02, 0.035)


def test_what_cannot_be_painted_is_refused(robot: Path, tmp_path: Path) -> None:
    for fields, said in (
        ({"agent": "robot"}, "shows it already; paint --agent dot or none"),
        ({"agent": "dot", "camera": "wrist"}, rf"--camera 'wrist': names 0 of the cameras .*{CAMERA}"),
        ({"agent": "dot", "tracks": tmp_path}, "holds no robot/episode_000000.npz"),
        ({"agent": "dot", "untracked": "drop"}, "^--untracked drop: is of a corpus of clips"),
        ({"agent": "dot", "scale": "hand"}, "^--scale hand: --agent dot does not read it"),
    ):
        with pytest.raises(ValueError, match=said):
            jobs.crosspaint(robot, fields.pop("tracks", tmp_path / "tracks"), tmp_path / "out", **fields)
    assert not (tmp_path / "out").exists()
    track = track_file(0)
    TrackFile(track.t_s, track.mask[:, :30], track.point_px, {}).write(
        tmp_path / "tracks" / "robot" / "episode_000000.npz"
    )
    done = jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "out", agent="none")
    assert [each["reason"] for each in done.summary["skipped"]] == ["mask_size", "no_file"]


def test_the_metadata_say_the_view_and_which_episodes_are_not_of_it(robot: Path, tmp_path: Path) -> None:
    """They said neither: a policy that was trained on it acted on pictures as the camera sees them."""
    jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "out", agent="dot", dot_radius=0.1)
    view = View("dot", "before", 0.02, 0.1)
    found = LeRobotDataset.open(tmp_path / "out")
    assert found.view(CAMERA) == view and LeRobotDataset.open(robot).view(CAMERA) is None
    episodes = open_episodes(tmp_path / "out")
    assert episodes.views == {CAMERA: view} and episodes.indices == [0, 1]
    assert (
        "episode 2: camera observation.images.top is not painted in it, as in the others: no_file" in episodes.left_out
    )
    assert "out' has no" not in episodes.left_out and open_episodes(robot).views == {}
    with pytest.raises(
        ValueError, match=r"is painted \(agent dot, radius 0.1, .*already: paint the dataset that it was"
    ):
        jobs.crosspaint(tmp_path / "out", tmp_path / "tracks", tmp_path / "twice", agent="none")
    (source,) = LeRobot().sources(tmp_path / "out", "out", SourceDefaults())  # a corpus would not keep the view
    assert source.fault == "painted" and "ingest the dataset that it was made of" in source.fault_detail
    info = json.loads((tmp_path / "out" / "meta" / "info.json").read_text("utf-8"))
    del info["features"][CAMERA]["giza.painted"]  # as an earlier giza left it
    (tmp_path / "out" / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="painted by an earlier giza.*run giza crosspaint again"):
        open_episodes(tmp_path / "out")


def test_statistics_are_of_the_new_pictures_and_what_told_of_the_old_is_not_copied(robot: Path, tmp_path: Path) -> None:
    """E21's robot datasets kept the statistics of the old pictures, and said that giza simulate had made them."""
    old = {"mean": [[[0.9]], [[0.9]], [[0.9]]], "std": [[[0.1]], [[0.1]], [[0.1]]], "count": [3]}
    (robot / "meta" / "stats.json").write_text(json.dumps({CAMERA: old, "action": {"mean": [0.0, 0.0]}}))
    lines = [json.dumps({"episode_index": number, "stats": {CAMERA: old}}) for number in range(3)]
    (robot / "meta" / "episodes_stats.jsonl").write_text("\n".join(lines) + "\n")
    table = pa.table({"episode_index": [0, 1, 2], f"stats/{CAMERA}/mean": [old["mean"]] * 3, "other": [1, 2, 3]})
    (robot / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    pq.write_table(table, robot / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    (robot / "simulate.json").write_text("{}")
    jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "out", agent="none")
    meta = tmp_path / "out" / "meta"
    pictures = frames_of(tmp_path / "out", tmp_path / "cache") / 255
    whole = json.loads((meta / "stats.json").read_text("utf-8"))
    assert whole["action"] == {"mean": [0.0, 0.0]} and set(whole[CAMERA]) == {"mean", "std", "count"}
    records = [
        json.loads(line)["stats"][CAMERA] for line in (meta / "episodes_stats.jsonl").read_text("utf-8").splitlines()
    ]
    rows = pq.read_table(meta / "episodes" / "chunk-000" / "file-000.parquet")
    assert rows.column_names == table.column_names and rows["other"].to_pylist() == [1, 2, 3]
    means = rows[f"stats/{CAMERA}/mean"].to_pylist()
    for episode in range(2):
        wanted = pictures[episode].mean((0, 1, 2))
        np.testing.assert_allclose(np.ravel(records[episode]["mean"]), wanted, atol=0.01)
        np.testing.assert_allclose(np.ravel(means[episode]), wanted, atol=0.01)
    assert records[2] == old and means[2] == old["mean"]  # its pictures are the old ones
    assert np.abs(np.ravel(whole[CAMERA]["mean"]) - 0.9).min() > 0.1
    assert not (tmp_path / "out" / "simulate.json").exists()
    told = json.loads((tmp_path / "out" / "crosspaint.json").read_text("utf-8"))
    assert told["made_of"]["dataset"] == "robot" and told["view"]["agent"] == "none"


def test_a_robot_dataset_whose_masks_are_empty_loses_nothing(robot: Path, tmp_path: Path) -> None:
    for episode in range(3):
        track = track_file(episode)
        empty = TrackFile(track.t_s, np.zeros_like(track.mask), track.point_px, {})
        empty.write(tmp_path / "tracks" / "robot" / f"episode_{episode:06d}.npz")
    done = jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "out", agent="none")
    assert [each["reason"] for each in done.summary["skipped"]] == ["no_agent"] * 3 and done.summary["painted"] == 0
    with pytest.raises(ValueError, match="no usable episode: 3 such as episode 0: .*not painted in it.*no_agent"):
        open_episodes(tmp_path / "out")
