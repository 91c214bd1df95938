"""Robot episodes and their images: every LeRobot version alike, rows and frames joined by time, damage left out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpora.episodes import frames as episode_frames
from corpora.episodes.frames import open_episode_frames
from corpora.video.image import fit_square
from tests.builders.datasets import (
    CAMERAS,
    FPS,
    LENGTHS,
    TASKS,
    change_column,
    frames_of,
    lerobot_v2,
    lerobot_v3,
    opened,
    truth_of,
    without_states,
)
from tests.builders.videos import number_of, numbered_frame, write_video

HEAD, SIDE = CAMERAS
DATA = "data/chunk-000/episode_{:06d}.parquet"
VIDEO = "videos/chunk-000/{}/episode_{:06d}.mp4"


def made(root: Path, version: str = "v2.1") -> Path:
    return lerobot_v3(root) if version == "v3.0" else lerobot_v2(root, version)


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_every_version_gives_the_same_rows(tmp_path: Path, version: str) -> None:
    episodes = opened(made(tmp_path / "pick", version))
    assert (episodes.fps, episodes.robot_type, episodes.cameras) == (FPS, "two_link", CAMERAS)
    assert episodes.indices == [0, 1]
    assert episodes.state_names == ("state_0", "state_1", "state_2")
    for episode in episodes.episodes:
        truth = truth_of(episode.index)
        np.testing.assert_array_equal(episode.state, truth["observation.state"])
        np.testing.assert_array_equal(episode.action, truth["action"])
        np.testing.assert_allclose(episode.t_s, np.arange(LENGTHS[episode.index]) / FPS, atol=1e-6)
        assert episode.instruction == TASKS[episode.index]
        assert episode.group == f"pick/episode_{episode.index:06d}"
        np.testing.assert_array_equal(episodes.state[episode.start : episode.stop], episode.state)
    assert episodes.faults == []


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_images_are_the_frames_of_their_rows(tmp_path: Path, version: str) -> None:
    episodes = opened(made(tmp_path / "pick", version), cameras=["side", "head"])
    assert episodes.cameras == (SIDE, HEAD)
    frames = open_episode_frames(episodes, 64, cache=tmp_path / "cache")
    assert frames.images.shape == (sum(LENGTHS), 2, 64, 64, 3)
    assert frames.valid.all()
    for episode in episodes.episodes:
        for view, number in ((0, 1), (1, 0)):
            seen = frames.images[episode.start : episode.stop, view]
            assert [number_of(image) for image in seen] == list(range(LENGTHS[episode.index]))
            sources = frames_of(episode.index, number)
            wanted = [cv2.resize(source, (64, 64), interpolation=cv2.INTER_AREA) for source in sources]
            assert np.abs(np.stack(wanted).astype(int) - seen).mean() < 4  # what the codec loses


def test_crop_keeps_the_middle_square_and_stretch_the_whole(tmp_path: Path) -> None:
    episodes = opened(made(tmp_path / "pick"), cameras=["head"], indices=[0])
    stretched = open_episode_frames(episodes, 48, cache=tmp_path / "cache")
    source = frames_of(0, 0)[7]
    middle = cv2.resize(source[:, 32:128], (48, 48), interpolation=cv2.INTER_AREA)
    whole = cv2.resize(source, (48, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(middle.astype(int) - fit_square(source, 48, "crop")).mean() < 4
    assert np.abs(whole.astype(int) - stretched.images[7, 0]).mean() < 4
    assert np.abs(middle.astype(int) - whole).mean() > 20


def test_rows_and_frames_meet_by_time_and_not_by_counting(tmp_path: Path) -> None:
    """Rows at uneven times, faster than a video of uneven frames, against a search through all frames."""
    root = made(tmp_path / "pick")
    rng = np.random.default_rng(0)
    shown = np.cumsum(rng.uniform(0.04, 0.12, 40)) - 0.04
    shown -= shown[0]
    write_video(root / VIDEO.format(HEAD, 0), [numbered_frame(i) for i in range(40)], times=shown.tolist())
    times = np.sort(rng.uniform(0, shown[-1], LENGTHS[0]))
    times[0] = 0.0
    change_column(root / DATA.format(0), "timestamp", times.tolist())
    episodes = opened(root, cameras=["head"], indices=[0])
    frames = open_episode_frames(episodes, 64, cache=tmp_path / "cache")
    nearest = [int(np.abs(shown - time).argmin()) for time in times]
    assert nearest != list(range(LENGTHS[0]))
    assert [number_of(image) for image in frames.images[:, 0]] == nearest
    assert frames.valid.all()


def test_a_recorder_that_stamps_after_the_step_still_begins_with_the_first_frame(tmp_path: Path) -> None:
    root = made(tmp_path / "pick")
    change_column(root / DATA.format(0), "timestamp", [(i + 1) / FPS for i in range(LENGTHS[0])])
    episodes = opened(root, cameras=["head"], indices=[0])
    frames = open_episode_frames(episodes, 64, cache=tmp_path / "cache")
    assert [number_of(image) for image in frames.images[:, 0]] == list(range(LENGTHS[0]))


def test_the_last_row_of_an_episode_never_shows_the_next_one(tmp_path: Path) -> None:
    """v3: both episodes lie in one file; times that run a little fast would reach over."""
    root = made(tmp_path / "pick", "v3.0")
    path = root / "data/chunk-000/file-000.parquet"
    times = np.concatenate([np.arange(length) / FPS * 1.019 for length in LENGTHS])
    change_column(path, "timestamp", times.tolist())
    episodes = opened(root, cameras=["head"])
    assert round(episodes.episodes[0].t_s[-1] * FPS) == LENGTHS[0]  # the second episode's first frame
    frames = open_episode_frames(episodes, 64, cache=tmp_path / "cache")
    assert number_of(frames.images[LENGTHS[0] - 1, 0]) == LENGTHS[0] - 1
    assert number_of(frames.images[LENGTHS[0], 0]) == 0


def test_modality_names_parts_cameras_and_instruction(tmp_path: Path) -> None:
    root = made(tmp_path / "pick")
    modality = {
        "state": {"hand": {"start": 2, "end": 3}, "arm": {"start": 0, "end": 2, "rotation_type": "euler"}},
        "action": {"arm": {"start": 0, "end": 1}, "grip": {"start": 1, "end": 2}},
        "video": {"ego": {"original_key": SIDE}},
        "annotation": {
            "human.validity": {},
            "human.action.task_description": {"original_key": "annotation.told"},
        },
    }
    (root / "meta" / "modality.json").write_text(json.dumps(modality))
    tasks = [{"task_index": 0, "task": "valid"}, {"task_index": 4, "task": "reach"}, {"task_index": 5, "task": "lift"}]
    (root / "meta" / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    for episode, length in enumerate(LENGTHS):
        change_column(root / DATA.format(episode), "annotation.told", [4] * 10 + [5] * (length - 10))
        change_column(root / DATA.format(episode), "annotation.human.validity", [0] * length)
    episodes = opened(root)
    assert episodes.cameras == (SIDE,)
    assert episodes.state_names == ("hand.state_2", "arm.state_0", "arm.state_1")
    assert [(part.name, part.width) for part in episodes.state_parts] == [("hand", 1), ("arm", 2)]
    assert episodes.state_parts[1].facts == {"rotation_type": "euler"}
    truth = truth_of(1)
    np.testing.assert_array_equal(episodes.episodes[1].state, truth["observation.state"][:, [2, 0, 1]])
    told = [episodes.instructions[number] for number in episodes.instruction]
    assert told == (["reach"] * 10 + ["lift"] * 20) + (["reach"] * 10 + ["lift"] * 35)
    chosen = opened(root, cameras=["ego"], state=["1:3", "hand"], action=["grip"])
    np.testing.assert_array_equal(chosen.episodes[0].state, truth_of(0)["observation.state"][:, [1, 2, 2]])
    np.testing.assert_array_equal(chosen.episodes[0].action, truth_of(0)["action"][:, 1:])
    with pytest.raises(ValueError, match=r"action 'wrist'.*\['arm', 'grip'\]"):
        opened(root, action=["wrist"])
    with pytest.raises(ValueError, match="has 3 dimensions"):
        opened(root, state=["2:4"])
    modality["state"]["arm"]["end"] = 9
    (root / "meta" / "modality.json").write_text(json.dumps(modality))
    with pytest.raises(ValueError, match="'arm' is 0:9"):
        opened(root)


def test_v3_tasks_come_row_by_row_from_their_table(tmp_path: Path) -> None:
    root = made(tmp_path / "pick", "v3.0")
    pq.write_table(pa.table({"task_index": [1, 0], "task": ["second", "first"]}), root / "meta" / "tasks.parquet")
    assert [episode.instruction for episode in opened(root).episodes] == ["first", "second"]


def test_without_states_or_actions_there_are_none(tmp_path: Path) -> None:
    episodes = opened(without_states(lerobot_v2(tmp_path / "watched", actions=False)))
    assert episodes.state is None
    assert episodes.action is None
    assert episodes.state_names == ()


def _without_video(root: Path) -> None:
    (root / VIDEO.format(SIDE, 0)).unlink()


def _empty_video(root: Path) -> None:
    (root / VIDEO.format(HEAD, 0)).write_bytes(b"")


def _cut_parquet(root: Path) -> None:
    path = root / DATA.format(0)
    path.write_bytes(path.read_bytes()[:500])


def _no_number(root: Path) -> None:
    change_column(root / DATA.format(0), "action", [[float("nan"), 1.0]] + [[0.0, 1.0]] * (LENGTHS[0] - 1))


def _frozen_clock(root: Path) -> None:
    change_column(root / DATA.format(0), "timestamp", [0.0] * LENGTHS[0])


def _ragged(root: Path) -> None:
    change_column(root / DATA.format(0), "action", [[1.0]] + [[0.0, 1.0]] * (LENGTHS[0] - 1))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_without_video, "missing or empty file: videos/"),
        (_empty_video, "missing or empty file: videos/"),
        (_cut_parquet, DATA.format(0)),
        (_no_number, "not finite in ['action']"),
        (_frozen_clock, "not finite and ascending"),
        (_ragged, "different lengths"),
    ],
)
def test_a_damaged_episode_is_left_out_with_its_reason(tmp_path: Path, damage, told: str) -> None:
    root = made(tmp_path / "pick")
    damage(root)
    episodes = opened(root)
    assert episodes.indices == [1]
    (fault,) = episodes.faults
    assert fault[0] == 0
    assert told in fault[1]
    assert len(episodes.t_s) == LENGTHS[1]
    (root / DATA.format(1)).unlink()
    with pytest.raises(ValueError, match="no usable episode: .*episode 0: "):
        opened(root)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    root = made(tmp_path / "pick")
    with pytest.raises(ValueError, match=r"camera 'wrist'.*observation.images.head"):
        opened(root, cameras=["wrist"])
    with pytest.raises(ValueError, match="episodes 7: dataset"):
        opened(root, indices=[0, 7])
    with pytest.raises(
        ValueError, match=r"no dataset of episodes: it lacks meta/info.json \(LeRobot\), or features.json"
    ):
        opened(tmp_path)
    info = json.loads((root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps({**info, "codebase_version": "v1.6"}))
    with pytest.raises(ValueError, match=r"version 'v1.6'; 2.0, 2.1 and 3.0"):
        opened(root)
    (root / "meta" / "info.json").write_text("{")
    with pytest.raises(ValueError, match=r"info.json cannot be read"):
        opened(root)


def test_a_camera_without_videos_is_passed_over_unless_asked_for(tmp_path: Path) -> None:
    root = made(tmp_path / "pick")
    for episode in range(2):
        (root / VIDEO.format(SIDE, episode)).unlink()
    assert opened(root).cameras == (HEAD,)
    with pytest.raises(ValueError, match="holds no video of it"):
        opened(root, cameras=["side"])


def test_a_video_that_breaks_off_costs_its_rows_only(tmp_path: Path) -> None:
    root = made(tmp_path / "pick")
    write_video(root / VIDEO.format(HEAD, 0), frames_of(0, 0)[:12], fps=FPS)
    (root / VIDEO.format(HEAD, 1)).write_bytes(b"no video at all")
    episodes = opened(root)
    told: list[tuple[int, int]] = []
    frames = open_episode_frames(episodes, 32, cache=tmp_path / "cache", progress=lambda *done: told.append(done))
    head, side = frames.valid[:, 0], frames.valid[:, 1]
    assert np.array_equal(np.flatnonzero(head), np.arange(13))  # the row after the last frame still has it next to it
    assert side.all()
    assert not frames.images[~head, 0].any()
    assert [(fault.source, fault.camera, fault.rows) for fault in frames.faults] == [
        ("pick/episode_000000", HEAD, LENGTHS[0] - 13),
        ("pick/episode_000001", HEAD, LENGTHS[1]),
    ]
    assert frames.faults[0].reason.startswith("truncated")
    assert frames.faults[1].reason.startswith("unreadable")
    assert told[-1] == (88, 88)  # rows that a frame is near to


def test_images_are_decoded_once_and_shared_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = made(tmp_path / "pick"), tmp_path / "cache"
    first = open_episode_frames(opened(root), 32, cache=cache)
    copy = pickle.loads(pickle.dumps(first))  # as a worker process gets it
    assert len(pickle.dumps(first)) < 500
    np.testing.assert_array_equal(copy.images, first.images)
    with pytest.raises(ValueError, match="read-only"):
        copy.images[0] = 1

    def refuse(*_: object) -> str:
        raise AssertionError("decoded again")

    monkeypatch.setattr(episode_frames, "_run", refuse)
    again = open_episode_frames(opened(root), 32, cache=cache)
    np.testing.assert_array_equal(again.images, first.images)
    moved = tmp_path / "elsewhere" / "pick"
    moved.parent.mkdir()
    root.rename(moved)
    assert open_episode_frames(opened(moved), 32, cache=cache).folder == first.folder
    for other in (opened(moved, cameras=["head"]), opened(moved, indices=[1])):
        with pytest.raises(AssertionError, match="decoded again"):
            open_episode_frames(other, 32, cache=cache)
    with pytest.raises(AssertionError, match="decoded again"):
        open_episode_frames(opened(moved), 40, cache=cache)
    assert sorted(path.name for path in cache.iterdir() if not path.name.startswith(".lock")) == [first.folder.name]


def test_a_killed_decoding_is_begun_anew(tmp_path: Path) -> None:
    root, cache = made(tmp_path / "pick"), tmp_path / "cache"
    first = open_episode_frames(opened(root), 32, cache=cache)
    key = first.folder.name.rpartition("-")[2]
    wanted = first.images.copy()
    partial = first.folder.rename(cache / f".partial-{key}")
    (partial / "table.json").unlink()
    again = open_episode_frames(opened(root), 32, cache=cache)
    np.testing.assert_array_equal(again.images, wanted)
    assert not partial.exists()
