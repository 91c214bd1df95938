"""`giza crosspaint` of a LeRobot dataset: other video, the same rows; a policy trains on it with no change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import jobs
from corpora.agent.painting import Dot, Painter, PaintSettings, open_agent
from corpora.agent.track_file import TrackFile
from corpora.episodes.episode import EpisodeSelection
from corpora.episodes.frames import open_episode_frames
from corpora.episodes.opening import open_episodes
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
    """[3, COUNT, SIZE, SIZE, 3], as they are trained on."""
    table = open_episode_frames(open_episodes(root, EpisodeSelection()), SIZE, cache=cache)
    assert table.valid.all() and not table.faults
    return table.images[:, 0].reshape(3, COUNT, SIZE, SIZE, 3).astype(int)


def test_the_robot_is_gone_and_the_rows_are_as_they_were(robot: Path, tmp_path: Path) -> None:
    done = jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "out", agent="none")
    assert [each["reason"] for each in done.summary["skipped"]] == ["no_file"] and done.summary["painted"] == 2
    before, after = frames_of(robot, tmp_path / "cache"), frames_of(tmp_path / "out", tmp_path / "cache")
    yellow = (np.abs(after - BLOCK) < 40).all(-1).mean((1, 2, 3))
    assert yellow[:2].max() < 0.003 and yellow[2] > 0.04
    last, back = track_file(0).mask[-1], textured(SIZE, SIZE, 7)
    assert np.abs(after[0, -1] - back)[last].mean() < 8 < 40 < np.abs(before[0, -1] - back)[last].mean()
    assert np.abs(after - before)[0][~track_file(0).mask].mean() < 4
    old, new = (open_episodes(root, EpisodeSelection()) for root in (robot, tmp_path / "out"))
    assert (old.state == new.state).all() and (old.action == new.action).all() and (old.t_s == new.t_s).all()
    told = json.loads(next((tmp_path / "out" / "painting").rglob("episode_000001.json")).read_text("utf-8"))
    assert told["episodes"]["1"]["seen_frames"] == COUNT
    page = (tmp_path / "out" / "crosspaint.html").read_text("utf-8")
    assert page.count("data:image/png") == 2 and "2 of 3 episodes painted" in page and "no_file" in page


def test_acting_sees_what_training_saw(robot: Path, tmp_path: Path) -> None:
    jobs.crosspaint(robot, tmp_path / "tracks", tmp_path / "out", agent="dot", dot_radius=0.1)
    before, after = frames_of(robot, tmp_path / "cache"), frames_of(tmp_path / "out", tmp_path / "cache")
    settings = PaintSettings(agent="dot", dot_radius=0.1)
    painter = Painter(open_agent(settings, SIZE), settings)
    track = track_file(1).of_video(np.arange(COUNT) / FPS, (SIZE, SIZE))
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
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def test_what_cannot_be_painted_is_refused(robot: Path, tmp_path: Path) -> None:
    for fields, said in (
        ({"agent": "robot"}, "shows it already; paint --agent dot or none"),
        ({"agent": "dot", "camera": "wrist"}, rf"--camera 'wrist': names 0 of the cameras .*{CAMERA}"),
        ({"agent": "dot", "tracks": tmp_path}, "holds no robot/episode_000000.npz"),
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
