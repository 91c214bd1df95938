"""The LeRobot v3.0 writer: what is read back by pyarrow and PyAV is what was recorded, in the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from corpora.episodes.lerobot_stats import image_stats, merge_image_stats, vector_stats
from corpora.episodes.lerobot_writer import BOOKKEEPING, Feature, LeRobotFormat, LeRobotWriter
from corpora.store.files import UNFINISHED
from corpora.video.encoding import VideoEncoding

CAMERA = "observation.images.head"
SIZE = 64
FPS = 20
LENGTHS = (7, 12, 3, 9)
TASKS = ("open the drawer", "open the drawer", "close the door", "open the drawer")


def numbered_image(number: int, shift: int = 0) -> np.ndarray:
    """An image that carries `number` as eight blocks of black or white, on a gradient."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:] = (np.arange(SIZE)[:, None] + np.arange(SIZE)[None, :] + shift)[:, :, None].astype(np.uint8)
    for bit in range(8):
        column = 8 * bit
        image[:16, column : column + 8] = 255 if number >> bit & 1 else 0
    return image


def number_of(image: np.ndarray) -> int:
    return sum(int(image[2:14, 8 * bit + 2 : 8 * bit + 6].mean() > 127) << bit for bit in range(8))


def dataset_format(**changes: object) -> LeRobotFormat:
    features = {
        "observation.state": Feature(("number", "noise", "time")),
        "action": Feature(("x", "y")),
        "next.success": Feature(("success",), "bool"),
    }
    fields: dict = {"fps": FPS, "camera": CAMERA, "size": SIZE, "features": features, "robot_type": "made"}
    return LeRobotFormat(**{**fields, **changes})


def episode_rows(episode: int) -> list[dict]:
    """Frame k of episode e shows the number 20 e + k, and its state begins with it."""
    rng = np.random.default_rng(episode)
    return [
        {
            "observation.state": np.array([20 * episode + k, rng.normal(), k / FPS]),
            "action": rng.normal(size=2),
            "next.success": k == LENGTHS[episode] - 1,
        }
        for k in range(LENGTHS[episode])
    ]


def record(writer: LeRobotWriter, episode: int) -> None:
    with writer.episode(episode, TASKS[episode]) as out:
        for k, row in enumerate(episode_rows(episode)):
            out.add(numbered_image(20 * episode + k, shift=k), row)
        out.facts["episode"] = episode


def record_and_die(writer: LeRobotWriter) -> None:
    with writer.episode(1, TASKS[1]) as out:
        out.add(numbered_image(1), episode_rows(1)[0])
        raise RuntimeError("killed")


def write(root: Path, order: tuple[int, ...] = (0, 1, 2, 3), **changes: object) -> Path:
    writer = LeRobotWriter(root, dataset_format(**changes))
    for episode in order:
        record(writer, episode)
    writer.finish(len(LENGTHS))
    writer.clear_staging()
    return root


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("lerobot") / "made")


def episodes_of(root: Path) -> list[dict]:
    paths = sorted((root / "meta" / "episodes").rglob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_layout_is_lerobot_v3(dataset: Path) -> None:
    assert set(files_of(dataset)) == {
        "data/chunk-000/file-000.parquet",
        f"videos/{CAMERA}/chunk-000/file-000.mp4",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
    }
    info = json.loads((dataset / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["fps"], info["total_episodes"], info["total_frames"], info["total_tasks"]) == (FPS, 4, sum(LENGTHS), 2)
    assert (info["data_files_size_in_mb"], info["video_files_size_in_mb"]) == (100, 200)
    assert info["splits"] == {"train": "0:4"}
    assert info["features"][CAMERA]["dtype"] == "video"
    assert info["features"][CAMERA]["shape"] == [SIZE, SIZE, 3]
    assert info["features"]["action"] == {"dtype": "float32", "shape": [2], "names": ["x", "y"]}
    assert not any("/" in name for name in info["features"])
    columns = pq.read_schema(dataset / "data" / "chunk-000" / "file-000.parquet").names
    assert set(columns) == set(info["features"]) - {CAMERA}
    stats = json.loads((dataset / "meta" / "stats.json").read_text())
    assert set(stats) == set(info["features"])
    assert np.shape(stats[CAMERA]["mean"]) == (3, 1, 1)


def test_rows_round_trip(dataset: Path) -> None:
    table = pq.read_table(dataset / "data" / "chunk-000" / "file-000.parquet")
    assert {name: str(table.schema.field(name).type).replace("double", "float64") for name in BOOKKEEPING} == {
        name: "float" if dtype == "float32" else dtype for name, dtype in BOOKKEEPING.items()
    }
    expected = [row for episode in range(4) for row in episode_rows(episode)]
    assert table.num_rows == len(expected)
    for got, want in zip(table.to_pylist(), expected, strict=True):
        np.testing.assert_array_equal(np.float32(got["observation.state"]), np.float32(want["observation.state"]))
        np.testing.assert_array_equal(np.float32(got["action"]), np.float32(want["action"]))
        assert got["next.success"] is bool(want["next.success"])
    assert table["index"].to_pylist() == list(range(len(expected)))
    assert table["frame_index"].to_pylist() == [k for length in LENGTHS for k in range(length)]
    assert table["task_index"].to_pylist() == [
        {"open the drawer": 0, "close the door": 1}[TASKS[e]] for e, length in enumerate(LENGTHS) for _ in range(length)
    ]
    np.testing.assert_allclose(table["timestamp"].to_numpy(), table["frame_index"].to_numpy() / FPS, atol=1e-6)


@pytest.mark.parametrize("limit_mb", [0, 200])
def test_each_row_belongs_to_its_frame(tmp_path: Path, limit_mb: int) -> None:
    """The image at from_timestamp + timestamp of an episode's video file carries the number of the row's state."""
    root = write(tmp_path / "made", data_file_mb=limit_mb, video_file_mb=limit_mb)
    info = json.loads((root / "meta" / "info.json").read_text())
    episodes = episodes_of(root)
    assert len({row[f"videos/{CAMERA}/file_index"] for row in episodes}) == (4 if limit_mb == 0 else 1)
    for row in episodes:
        place = {key: row[f"videos/{CAMERA}/{key}"] for key in ("chunk_index", "file_index")}
        video = root / info["video_path"].format(video_key=CAMERA, **place)
        shown = {}
        with av.open(str(video)) as container:
            for frame in container.decode(video=0):
                shown[round(frame.time * FPS)] = number_of(frame.to_ndarray(format="rgb24"))
        place = {key: row[f"data/{key}"] for key in ("chunk_index", "file_index")}
        table = pq.read_table(root / info["data_path"].format(**place))
        mine = [r for r in table.to_pylist() if r["episode_index"] == row["episode_index"]]
        assert len(mine) == row["length"] == row["dataset_to_index"] - row["dataset_from_index"]
        assert mine[0]["index"] == row["dataset_from_index"]
        assert row["tasks"] == [TASKS[row["episode_index"]]]
        start = row[f"videos/{CAMERA}/from_timestamp"]
        assert row[f"videos/{CAMERA}/to_timestamp"] - start == pytest.approx(row["length"] / FPS)
        for r in mine:
            assert shown[round((start + r["timestamp"]) * FPS)] == r["observation.state"][0]


def test_video_is_h264_at_a_constant_rate_with_short_groups(dataset: Path) -> None:
    with av.open(str(dataset / f"videos/{CAMERA}/chunk-000/file-000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == FPS
        packets = [packet for packet in container.demux(stream) if packet.size]
        times = [float(packet.pts * packet.time_base) for packet in packets]
        np.testing.assert_allclose(times, np.arange(sum(LENGTHS)) / FPS, atol=1e-9)
        assert all(packet.pts == packet.dts for packet in packets), "no B-frames"
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        starts = np.cumsum((0, *LENGTHS[:-1]))
        assert set(starts) <= set(keys), "each episode begins with a keyframe"
        assert max(np.diff([*keys, sum(LENGTHS)])) <= VideoEncoding().keyframe_frames


def test_images_survive_the_encoding(dataset: Path) -> None:
    with av.open(str(dataset / f"videos/{CAMERA}/chunk-000/file-000.mp4")) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    recorded = [numbered_image(20 * e + k, shift=k) for e, length in enumerate(LENGTHS) for k in range(length)]
    for got, want in zip(decoded, recorded, strict=True):
        error = ((got.astype(float) - want) ** 2).mean()
        assert 10 * np.log10(255**2 / error) > 30


def test_same_bytes_in_any_order_and_in_several_runs(dataset: Path, tmp_path: Path) -> None:
    write(tmp_path / "backwards", order=(3, 1, 0, 2))
    assert files_of(tmp_path / "backwards") == files_of(dataset)
    # A run that dies within an episode, and during the joining, loses that episode and nothing else.
    root = tmp_path / "killed"
    writer = LeRobotWriter(root, dataset_format())
    record(writer, 0)
    with pytest.raises(RuntimeError, match="killed"):
        record_and_die(writer)
    again = LeRobotWriter(root, dataset_format())
    assert [again.is_staged(number) for number in range(4)] == [True, False, False, False]
    assert again.staged_facts(0) == {"episode": 0}
    with pytest.raises(ValueError, match="not recorded yet"):
        again.finish(4)
    for episode in (1, 2, 3):
        record(again, episode)
    (root / "data" / "chunk-000").mkdir(parents=True)
    (root / "data" / "chunk-000" / f"file-000.parquet{UNFINISHED}").write_bytes(b"half a file")
    again.finish(4)
    again.finish(4)
    again.clear_staging()
    assert files_of(root) == files_of(dataset)


def test_features_that_are_left_out_leave_no_trace(dataset: Path, tmp_path: Path) -> None:
    writer = LeRobotWriter(tmp_path / "free", dataset_format())
    for episode in range(4):
        record(writer, episode)
    writer.finish(4, features=())
    writer.write_truth(4, tmp_path / "truth.parquet")
    writer.clear_staging()
    files = files_of(tmp_path / "free")
    assert set(pq.read_schema(tmp_path / "free" / "data" / "chunk-000" / "file-000.parquet").names) == set(BOOKKEEPING)
    for content in files.values():
        for word in (b"action", b"observation.state", b"success"):
            assert word not in content
    video = f"videos/{CAMERA}/chunk-000/file-000.mp4"
    assert files[video] == files_of(dataset)[video]
    truth = pq.read_table(tmp_path / "truth.parquet")
    whole = pq.read_table(dataset / "data" / "chunk-000" / "file-000.parquet")
    assert truth.equals(whole.select(truth.schema.names))


def test_tasks_have_pandas_index(dataset: Path) -> None:
    pandas = pytest.importorskip("pandas")
    tasks = pandas.read_parquet(dataset / "meta" / "tasks.parquet")
    assert list(tasks.columns) == ["task_index"]
    assert dict(zip(tasks.index, tasks["task_index"], strict=True)) == {"open the drawer": 0, "close the door": 1}


def test_episode_statistics_are_those_of_their_rows(dataset: Path) -> None:
    for row in episodes_of(dataset):
        values = np.float32([r["action"] for r in episode_rows(row["episode_index"])])
        for name, function in {"min": np.min, "max": np.max, "mean": np.mean, "std": np.std, "q50": np.median}.items():
            np.testing.assert_allclose(row[f"stats/action/{name}"], function(np.float64(values), axis=0), rtol=1e-6)
        assert row["stats/action/count"] == [row["length"]]


def test_merged_image_statistics_equal_those_of_all_images() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256 - 40 * k, (k + 2, 8, 8, 3), dtype=np.uint8) for k in range(3)]
    merged = merge_image_stats([image_stats(part) for part in parts])
    whole = image_stats(np.concatenate(parts))
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(merged[name], whole[name], rtol=1e-9)


def test_statistics_of_one_row_are_finite() -> None:
    stats = vector_stats(np.float32([[1, 2]]))
    assert stats["std"] == [0, 0] and stats["q01"] == [1, 2] and stats["count"] == [1]


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    writer = LeRobotWriter(tmp_path / "made", dataset_format())
    row = episode_rows(0)[0]
    with pytest.raises(ValueError, match=r"must be uint8 \[64, 64, 3\]"), writer.episode(0, "t") as out:
        out.add(np.zeros((32, 32, 3), np.uint8), row)
    with pytest.raises(ValueError, match="must have exactly"), writer.episode(0, "t") as out:
        out.add(numbered_image(0), {"action": row["action"]})
    with pytest.raises(ValueError, match=r"'action' is \[3\]: must be \[2\]"), writer.episode(0, "t") as out:
        out.add(numbered_image(0), {**row, "action": np.zeros(3)})
    with pytest.raises(ValueError, match="has no frame"), writer.episode(0, "t"):
        pass
    assert not writer.is_staged(0)
    with pytest.raises(ValueError, match="no '/'"):
        dataset_format(features={"a/b": Feature(("x",))})
    with pytest.raises(ValueError, match="crf 99"):
        VideoEncoding(crf=99)
