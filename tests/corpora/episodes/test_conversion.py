"""A LeRobot dataset in another layout and back: the same rows, the same pictures, whatever the way between."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from corpora.episodes import conversion
from corpora.episodes.lerobot import LeRobotDataset
from corpora.sources.discover import find_sources
from corpora.sources.source import SourceDefaults
from jobs.commands.export import ExportConfig, run
from tests.builders.datasets import CAMERAS, LENGTHS, TASKS, change_column, lerobot_v2, lerobot_v3, opened
from tests.builders.exports import converted, files_of, pictures_of, shade, with_images

TASK_LINES = "".join(json.dumps({"task_index": n, "task": text}) + "\n" for n, text in enumerate(TASKS))


def named_tasks(root: Path) -> Path:
    (root / "meta" / "tasks.jsonl").write_text(TASK_LINES)
    return root


def pictures(root: Path, episode: int, camera: str) -> np.ndarray:
    place = LeRobotDataset.open(root).all_episodes([camera])[episode]
    return pictures_of(place.videos[camera].path)


def same(one: Path, other: Path) -> None:
    """The same episodes as giza reads them: instructions, rows, states, actions, times."""
    left, right = opened(one), opened(other)
    assert [each.instructions for each in left.episodes] == [each.instructions for each in right.episodes]
    for mine, theirs in zip(left.episodes, right.episodes, strict=True):
        np.testing.assert_array_equal(mine.state, theirs.state)
        np.testing.assert_array_equal(mine.action, theirs.action)
        np.testing.assert_allclose(mine.t_s, theirs.t_s, atol=1e-6)
        assert mine.videos.keys() == theirs.videos.keys()
    assert left.fps == right.fps


def test_v21_to_v30_and_back_is_the_same_dataset_with_the_same_video_bytes(tmp_path: Path) -> None:
    v21 = named_tasks(lerobot_v2(tmp_path / "v21"))
    v30 = converted(tmp_path / "v30", v21, "lerobot-v3")
    again = converted(tmp_path / "again", v30, "lerobot-v2.1")
    same(v21, v30)
    same(v21, again)
    videos = sorted(path.relative_to(v21) for path in v21.rglob("*.mp4"))
    assert len(videos) == 4 and all((v21 / each).read_bytes() == (again / each).read_bytes() for each in videos)
    assert json.loads((v30 / "export.json").read_text())["videos"] == {"copied": 4}
    info = json.loads((again / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["total_videos"], info["total_frames"]) == ("v2.1", 4, sum(LENGTHS))
    lines = [json.loads(line) for line in (again / "meta" / "episodes_stats.jsonl").read_text().splitlines()]
    assert [line["stats"]["action"]["count"] for line in lines] == [[length] for length in LENGTHS]
    assert np.shape(lines[0]["stats"][CAMERAS[0]]["q50"]) == (3, 1, 1)


def test_episodes_that_share_a_video_are_cut_from_it(tmp_path: Path) -> None:
    """At a keyframe without encoding it again; elsewhere (frames 0 to 29 and 30 on, keyframes every 12) encoded."""
    v30 = lerobot_v3(tmp_path / "v30")
    v21 = converted(tmp_path / "v21", v30, "lerobot-v2.1")
    same(v30, v21)
    whole = [pictures_of(v30 / f"videos/{camera}/chunk-000/file-000.mp4") for camera in CAMERAS]
    for camera, frames in zip(CAMERAS, whole, strict=True):
        for episode, length in enumerate(LENGTHS):
            found = pictures(v21, episode, camera).astype(int)
            start = sum(LENGTHS[:episode])
            assert len(found) == length
            assert np.abs(found - frames[start : start + length]).mean() < 3
    how = json.loads((v21 / "export.json").read_text())["videos"]
    assert sum(how.values()) == 4 and set(how) <= {"cut", "encoded"}


def test_what_is_cut_between_keyframes_has_the_same_pixels(tmp_path: Path) -> None:
    from tests.builders.corpora import write_corpus
    from tests.builders.exports import exported  # a dataset whose episodes each begin with a keyframe
    from tests.builders.foreign import measured_latents

    corpus = write_corpus(tmp_path / "corpus", (1, 2))
    latents = measured_latents(tmp_path / "latents", corpus)
    v30 = exported(tmp_path / "v30", corpus, latents)
    v21 = converted(tmp_path / "v21", v30, "lerobot-v2.1")
    assert json.loads((v21 / "export.json").read_text())["videos"] == {"cut": 2}
    camera = "observation.images.clip"
    whole = pictures_of(v30 / f"videos/{camera}/chunk-000/file-000.mp4")
    np.testing.assert_array_equal(np.concatenate([pictures(v21, n, camera) for n in range(2)]), whole)
    same(v30, v21)
    same(v30, converted(tmp_path / "v30b", v21, "lerobot-v3"))


def test_a_killed_conversion_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = named_tasks(lerobot_v2(tmp_path / "v21"))
    whole = converted(tmp_path / "whole", source, "lerobot-v3")
    real, calls = conversion.cut_video, []

    def killed(*args: object, **named: object) -> object:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "cut_video", killed)
        with pytest.raises(KeyboardInterrupt):
            converted(tmp_path / "out", source, "lerobot-v3")
    assert not LeRobotDataset.exists(tmp_path / "out")
    converted(tmp_path / "out", source, "lerobot-v3")
    assert files_of(tmp_path / "out") == files_of(whole)
    assert not (tmp_path / "out" / conversion.STAGING).exists()
    assert run(ExportConfig(out=tmp_path / "out", dataset=source))["already_finished"]


def test_images_in_data_files_become_video_and_are_then_read(tmp_path: Path) -> None:
    source = with_images(tmp_path / "images")
    found = [
        (each.fault, each.fault_detail) for each in find_sources([str(source)], SourceDefaults(), skipped=Counter())
    ]
    assert [fault for fault, _ in found] == ["images_in_tables"] and "giza export --dataset" in found[0][1]
    out = converted(tmp_path / "out", source, "lerobot-v3")
    assert opened(out).cameras == (CAMERAS[1],)
    for episode, length in enumerate(LENGTHS):
        images = pictures(out, episode, CAMERAS[1])
        wanted = np.stack([shade(episode, number) for number in range(length)])
        assert images.shape == wanted.shape and np.abs(images.astype(int) - wanted).max() < 6
    feature = json.loads((out / "meta" / "info.json").read_text())["features"][CAMERAS[1]]
    assert (feature["dtype"], feature["shape"], feature["info"]["video.codec"]) == ("video", [64, 48, 3], "h264")
    columns = pq.read_schema(next((out / "data").rglob("*.parquet"))).names
    assert CAMERAS[1] not in columns


def test_an_episode_that_cannot_be_read_is_left_out_and_the_others_numbered_anew(tmp_path: Path) -> None:
    source = named_tasks(lerobot_v2(tmp_path / "v21"))
    os.remove(source / f"videos/chunk-000/{CAMERAS[1]}/episode_000000.mp4")
    out = converted(tmp_path / "out", source, "gr00t")
    told = json.loads((out / "export.json").read_text())
    assert told["source_episodes"] == [1] and "missing_file" in told["left_out"][0]["why"]
    rows = pq.read_table(out / "data" / "chunk-000" / "episode_000000.parquet")
    assert set(rows.column("episode_index").to_pylist()) == {0} and rows.column("index").to_pylist()[0] == 0
    assert opened(out).episodes[0].instructions[0] == TASKS[1]
    assert json.loads((out / "meta" / "modality.json").read_text())["annotation"]
    with pytest.raises(ValueError, match="is the dataset itself"):
        ExportConfig(out=source, dataset=source)


def test_rows_get_the_times_of_their_frames(tmp_path: Path) -> None:
    """Rows stamped after their step, as simulators do, and by a clock that drifts; where frames are not one for each row the clock
    decides, and what it cannot decide is left out."""
    source = named_tasks(lerobot_v2(tmp_path / "v21"))
    first, second = sorted((source / "data").rglob("*.parquet"))
    change_column(first, "timestamp", [(k + 1) / 15 for k in range(LENGTHS[0])])
    change_column(second, "timestamp", [1.07 * k / 15 for k in range(LENGTHS[1])])
    out = converted(tmp_path / "out", source, "lerobot-v2.1")
    for path, length in zip(sorted((out / "data").rglob("*.parquet")), LENGTHS, strict=True):
        np.testing.assert_allclose(
            pq.read_table(path).column("timestamp").to_numpy(), np.arange(length) / 15, atol=1e-6
        )
    fewer = pq.read_table(second)[:-9]
    pq.write_table(fewer, second)
    told = json.loads((converted(tmp_path / "fewer", source, "lerobot-v3") / "export.json").read_text())
    assert told["source_episodes"] == [0] and "are not 15 a second (off by 0.1" in told["left_out"][0]["why"]
