"""LeRobot datasets as people have them: depth cameras, other folders than info.json says, other columns, odd text."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from corpora.sources.discover import find_sources
from corpora.sources.source import Source, SourceDefaults
from tests.builders.datasets import CAMERAS, LENGTHS, TASKS, lerobot_v2, lerobot_v3, opened

HEAD, SIDE = CAMERAS
TRICKY = "pick\u2028the\u2029cup\u0085now\x7f"
"""Legal within a line of JSON, though str.splitlines ends lines at it."""


def found(*inputs: Path, **defaults: Any) -> list[Source]:
    return list(find_sources([str(path) for path in inputs], SourceDefaults(**defaults), skipped=Counter()))


def change_info(root: Path, **entries: Any) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def change_feature(root: Path, name: str, **facts: Any) -> None:
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    features[name] |= facts
    change_info(root, features=features)


def refusal(root: Path) -> str:
    with pytest.raises(ValueError) as error:
        opened(root)
    return str(error.value)


@pytest.mark.parametrize(
    "facts",
    [
        {"info": {"is_depth_map": True}},
        {"info": {"video.is_depth_map": True, "is_depth_map": False}},
        {"video_info": {"video.is_depth_map": True}, "info": None},
        {"is_depth_map": True},
    ],
)
def test_depth_cameras_are_passed_over_and_told_by_both_readers(
    tmp_path: Path, facts: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    root = lerobot_v2(tmp_path / "arm")
    change_feature(root, SIDE, **facts)
    depth, *colour = found(root)
    assert (depth.name, depth.fault) == (f"arm/{SIDE}", "depth_map") and "--cameras" in depth.fault_detail
    assert [(source.name, source.fault) for source in colour] == [
        (f"arm/episode_{number:06d}/{HEAD}", "") for number in (0, 1)
    ]
    with caplog.at_level(logging.WARNING):
        assert opened(root).cameras == (HEAD,)
    assert f"cameras ['{SIDE}'] are depth maps" in caplog.text
    (root / "meta" / "modality.json").write_text(json.dumps({"video": {"depth": {"original_key": SIDE}}}))
    assert opened(root).cameras == (HEAD,)
    assert opened(root, cameras=["depth"]).cameras == (SIDE,)
    assert [source.fault for source in found(root, cameras=("side",))] == ["", ""]


@pytest.mark.parametrize("told", [True, False])
def test_one_grey_of_many_bits_is_no_picture_whatever_the_metadata_says(tmp_path: Path, told: bool) -> None:
    """Without a flag the distances of a depth camera were taken for colours."""
    root = lerobot_v2(tmp_path / "arm")
    for video in (root / "videos").rglob(f"{SIDE}/*.mp4"):
        grey = [np.full((48, 64), 900 + 40 * number, np.uint16) for number in range(LENGTHS[int(video.stem[-1])])]
        grey_video(video, grey)
    facts = {"video.pix_fmt": "gray12le"} if told else {}
    change_feature(root, SIDE, info=facts)
    change_feature(root, HEAD, info={"video.pix_fmt": "gray"})  # eight bits are a picture
    depth, *colour = found(root)
    assert (depth.name, depth.fault) == (f"arm/{SIDE}", "depth_map")
    assert {source.fault for source in colour} == {""} and len(colour) == 2
    assert opened(root).cameras == (HEAD,)
    assert opened(root, cameras=["side"]).cameras == (SIDE,)


def grey_video(path: Path, images: list[np.ndarray]) -> None:
    """gray12le, as LeRobot stores depth."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=10)
        stream.width, stream.height, stream.pix_fmt = images[0].shape[1], images[0].shape[0], "gray12le"
        stream.codec_context.options = {"x265-params": "log-level=none"}
        for image in images:
            frame = av.VideoFrame.from_ndarray((image << 4).astype(np.uint16), format="gray16le")
            container.mux(stream.encode(frame.reformat(format="gray12le")))
        container.mux(stream.encode())


def test_a_dataset_of_depth_alone_says_so(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "arm")
    for camera in CAMERAS:
        change_feature(root, camera, info={"is_depth_map": True})
    assert {source.fault for source in found(root)} == {"depth_map"}
    with pytest.raises(ValueError, match="no video in colour"):
        opened(root)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_either_name_of_the_chunk_fills_a_template(tmp_path: Path, version: str) -> None:
    root = lerobot_v3(tmp_path / "arm") if version == "v3.0" else lerobot_v2(tmp_path / "arm", version)
    info = json.loads((root / "meta" / "info.json").read_text())
    old, new = ("chunk_index", "episode_chunk") if version == "v3.0" else ("episode_chunk", "chunk_index")
    change_info(root, **{key: info[key].replace(f"{{{old}", f"{{{new}") for key in ("data_path", "video_path")})
    assert len(opened(root)) == len(LENGTHS)
    assert [source.fault for source in found(root)] == [""] * 4


@pytest.mark.parametrize("template", ["videos/{episode_index", "videos/{robot}/{video_key}.mp4", "videos/{}.mp4", None])
def test_a_template_that_cannot_be_filled_in_is_quoted(tmp_path: Path, template: str | None) -> None:
    root = lerobot_v2(tmp_path / "arm")
    change_info(root, video_path=template)
    (row,) = found(root)
    assert row.fault == "unreadable"
    for told in (row.fault_detail, refusal(root)):
        assert f"meta/info.json: video_path {template!r}" in told and "'video_key'" in told


def test_the_folder_that_comes_nearest_is_named(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "arm")
    (root / "videos" / "chunk-000" / SIDE).rename(root / "videos" / "chunk-000" / "observation.images.sides")
    side, *_ = found(root)
    assert side.fault == "missing_file" and "chunk-000/observation.images.sides'" in side.fault_detail
    (root / "videos").rename(root / "video")
    rows = found(root)
    assert [row.fault for row in rows] == ["missing_file"] * 2
    for told in (*(row.fault_detail for row in rows), refusal(root)):
        assert "there is no folder 'videos', the nearest is 'video'" in told
    with pytest.raises(ValueError, match="the nearest is 'video'"):
        opened(root, cameras=["head"])
    change_info(root, video_path="video/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4")
    assert opened(root).cameras == (HEAD,)
    (root / "data").rename(root / "tables")
    with pytest.raises(ValueError, match=r"there is no folder 'data', '.' holds .*meta.*tables.*video"):
        opened(root)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((TRICKY, "place"), (TRICKY, "place")),
        ((None, "place"), (TASKS[0], "place")),
        (("half \ud83d", 7), ("half \\ud83d", "7")),
    ],
)
def test_tasks_may_hold_any_text(tmp_path: Path, texts: tuple[Any, Any], expected: tuple[str, str]) -> None:
    root = lerobot_v2(tmp_path / "arm")
    records = [{"task_index": number, "task": text} for number, text in enumerate(texts)]
    lines = "\r\n".join(json.dumps(record, ensure_ascii=r"\ud83d" in json.dumps(record)) for record in records)
    (root / "meta" / "tasks.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode() + b"\n\n")
    assert opened(root).instructions == expected


@pytest.mark.parametrize(
    ("tasks", "expected"), [([None], ""), (["", None, TRICKY], TRICKY), (None, ""), ("pick", "pick"), ([], "")]
)
def test_an_episode_s_text_is_the_first_that_says_anything(tmp_path: Path, tasks: Any, expected: str) -> None:
    root = lerobot_v2(tmp_path / "arm")
    lines = [{"episode_index": number, "tasks": tasks, "length": length} for number, length in enumerate(LENGTHS)]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (root / "meta" / "episodes.jsonl").write_text(text, "utf-8")
    assert {source.text for source in found(root)} == {expected}
    assert opened(root).instructions == (expected,)


def test_a_table_of_tasks_may_begin_with_none(tmp_path: Path) -> None:
    root = lerobot_v3(tmp_path / "arm")
    table = pq.read_table(root / "data/chunk-000/file-000.parquet")
    tasks = table.select([]).from_pydict({"task_index": [0, 1], "task": [None, "place"]})
    pq.write_table(tasks, root / "meta" / "tasks.parquet")
    assert opened(root).instructions == (TASKS[0], "place")


def test_lines_of_a_list_end_at_a_line_feed_alone(tmp_path: Path) -> None:
    lines = [{"path": f"{TRICKY}.mp4", "text": TRICKY}, {"path": "b.mp4", "text": None}]
    text = "\n".join(json.dumps(line, ensure_ascii=False).replace(", ", ",\r ") for line in lines)
    (tmp_path / "list.jsonl").write_bytes(text.encode())
    first, second = found(tmp_path / "list.jsonl")
    assert (first.name, first.text, second.text) == (f"{TRICKY}.mp4", TRICKY, "")


def rename_columns(root: Path, **names: str) -> Path:
    """In info.json and in the data."""
    names = {name.replace("_", "."): new for name, new in names.items()}
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    change_info(root, features={names.get(name, name): facts for name, facts in features.items()})
    for path in root.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.rename_columns([names.get(name, name) for name in table.column_names]), path)
    return root


@pytest.mark.parametrize(
    ("state", "action"), [("state", "actions"), ("observation.states", "action"), ("states", "actions")]
)
def test_common_names_of_columns_are_known(tmp_path: Path, state: str, action: str) -> None:
    usual = opened(lerobot_v2(tmp_path / "usual"))
    root = rename_columns(lerobot_v2(tmp_path / "arm"), observation_state=state, action=action)
    episodes = opened(root)
    for name in ("state", "action"):
        np.testing.assert_array_equal(getattr(episodes, name), getattr(usual, name))
    assert [part.column for part in (*episodes.state_parts, *episodes.action_parts)] == [state, action]
    few = opened(root, state=["1:3"], action=["0"])
    assert few.state_parts[0].column == state and few.action_parts[0].column == action
    assert {source.tier for source in found(root)} == {"robot"}


def test_columns_below_a_name_are_joined_in_their_order_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = rename_columns(lerobot_v2(tmp_path / "arm"), observation_state="action.b", action="action.a")
    with caplog.at_level(logging.WARNING):
        episodes = opened(root)
    assert episodes.action is not None and episodes.action.shape[1] == 5 and episodes.state is None
    assert episodes.action_names == ("a.0", "a.1", "b.0", "b.1", "b.2")
    np.testing.assert_array_equal(episodes.action[:, 2:], opened(root, action=["b"]).action)
    assert "its action is made of the columns ['action.a', 'action.b']; --action chooses" in caplog.text
    assert {source.tier for source in found(root)} == {"robot"}


def test_columns_of_other_names_are_named_with_the_flag_that_chooses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = rename_columns(lerobot_v2(tmp_path / "arm"), observation_state="joints", action="command")
    with caplog.at_level(logging.WARNING):
        assert {source.tier for source in found(root)} == {"human"}
        assert {source.tier for source in found(root, tier="robot")} == {"robot"}
    assert "called action or actions, so its tier is human; it has ['joints', 'command']" in caplog.text
    assert "--tier robot" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        episodes = opened(root)
    assert "has no state: none of its columns is called observation.state, " in caplog.text
    assert "choose among ['joints', 'command'] with --state" in caplog.text
    with pytest.raises(
        ValueError, match=r"has no action: .* action or actions; choose among \['joints', 'command'\] with --action"
    ):
        episodes.with_previous_action()
    assert opened(root, state=["joints"], action=["command"]).action is not None
    with pytest.raises(ValueError, match=r"a column of \['joints', 'command'\]"):
        opened(root, action=["comand"])
