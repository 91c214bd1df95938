"""RLDS datasets: written by protocol buffers and read without them, numbers, pictures and instructions; what is damaged."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from corpora.episode_frames import open_episode_frames
from corpora.rlds_episodes import STEP_S, RldsEpisodes, is_rlds, open_robot_episodes
from corpora.tf_records import example, records

LENGTHS = (5, 8, 3)
TEXTS = ("put the cup away", "open the drawer", "put the cup away")


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    groups = []
    while True:
        number, low = number >> 7, number & 0x7F
        groups.append(low | (0x80 if number else 0))
        if not number:
            return bytes(groups)


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values: list[bytes] | NDArray[Any], *, packed: bool = True) -> bytes:
    if isinstance(values, list):
        return message(1, b"".join(message(1, value) for value in values))
    if values.dtype.kind == "f":
        if packed:
            return message(2, message(1, values.astype("<f4").tobytes()))
        return message(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", value) for value in values.tolist()))
    if packed:
        return message(3, message(1, b"".join(varint(int(value)) for value in values)))
    return message(3, b"".join(varint(1 << 3) + varint(int(value)) for value in values))


def made_example(values: dict[str, Any], *, packed: bool = True) -> bytes:
    entries = [message(1, name.encode()) + message(2, feature(value, packed=packed)) for name, value in values.items()]
    return message(1, b"".join(message(1, entry) for entry in entries))


def record(content: bytes) -> bytes:
    return struct.pack("<QI", len(content), 0) + content + struct.pack("<I", 0)


def picture_of(episode: int, row: int) -> NDArray[np.uint8]:
    """RGB, smooth, so that JPEG keeps it; red grows with the episode and green with the row."""
    ramp = np.linspace(0, 60, 64)[None, :, None].repeat(64, 0).repeat(3, 2)
    return (ramp + np.array([60 * episode, 20 * row, 30])).clip(0, 255).astype(np.uint8)


def numbers_of(episode: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(episode)
    state, action = (rng.normal(size=(LENGTHS[episode], width)).astype(np.float32) for width in (3, 2))
    return state, action


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()


def rlds(root: Path, files: tuple[tuple[int, ...], ...] = ((0, 1), (2,))) -> Path:
    root.mkdir(parents=True)
    image = {"image": {"shape": {"dimensions": ["64", "64", "3"]}}}

    def tensor(*sizes: int) -> dict[str, Any]:
        return {"tensor": {"shape": {"dimensions": [str(size) for size in sizes]}, "dtype": "float32"}}

    step = {
        "action": tensor(2),
        "is_first": {"tensor": {"shape": {}, "dtype": "bool"}},
        "language_instruction": {"text": {}},
        "observation": {"featuresDict": {"features": {"state": tensor(3), "head": image, "side": image}}},
    }
    tree = {"steps": {"sequence": {"feature": {"featuresDict": {"features": step}}}}}
    (root / "features.json").write_text(json.dumps({"featuresDict": {"features": tree}}))
    (root / "dataset_info.json").write_text(json.dumps({"name": "kitchen"}))
    for number, episodes in enumerate(files):
        content = b""
        for episode in episodes:
            state, action = numbers_of(episode)
            values = {
                "steps/observation/state": state.ravel(),
                "steps/action": action.ravel(),
                "steps/is_first": np.arange(LENGTHS[episode]) == 0,
                "steps/language_instruction": [TEXTS[episode].encode()] * LENGTHS[episode],
                "steps/observation/head": [jpeg(picture_of(episode, row)) for row in range(LENGTHS[episode])],
                "steps/observation/side": [jpeg(np.zeros((64, 64, 3), np.uint8))] * LENGTHS[episode],
            }
            content += record(made_example(values))
        (root / f"kitchen-train.tfrecord-0000{number}-of-0000{len(files)}").write_bytes(content)
    return root


@pytest.mark.parametrize("packed", [True, False])
def test_values_come_back_as_they_were_written(packed: bool) -> None:
    values = {
        "text": [b"", "caf\u00e9".encode(), b"\x00\xff" * 300],
        "floats": np.array([0.0, -1.5, 3e38, 1e-45], np.float32),
        "integers": np.array([0, 1, -1, 127, 128, 2**63 - 1, -(2**63)]),
    }
    found = example(made_example(values, packed=packed))
    assert list(found) == list(values) and found["text"] == values["text"]
    for name in ("floats", "integers"):
        np.testing.assert_array_equal(found[name], values[name])
        assert found[name].dtype == (np.float32 if name == "floats" else np.int64)  # type: ignore[union-attr]


def test_episodes_are_read_as_they_lie_there(tmp_path: Path) -> None:
    root = rlds(tmp_path / "1.0.0")
    assert is_rlds(root) and not is_rlds(tmp_path)
    episodes = open_robot_episodes(root, cameras=("head",))
    assert isinstance(episodes, RldsEpisodes) and episodes.name == "kitchen" and not episodes.faults
    assert episodes.indices == [0, 1, 2] and episodes.cameras == ("observation.head",)
    for episode, length, text in zip(episodes.episodes, LENGTHS, TEXTS, strict=True):
        state, action = numbers_of(episode.index)
        np.testing.assert_array_equal(episode.state, state)
        np.testing.assert_array_equal(episode.action, action)
        np.testing.assert_allclose(episode.t_s, np.arange(length) * STEP_S)
        assert episode.instruction == text
        assert episodes.instructions[episodes.instruction[episode.start]] == text
    few = open_robot_episodes(root, indices=[2], state=["1:3"], action=["0"], previous_action=True)
    assert few.indices == [2] and few.state is not None and few.action is not None
    np.testing.assert_array_equal(few.state[:, :2], numbers_of(2)[0][:, 1:])
    np.testing.assert_array_equal(few.state[1:, -1], few.action[:-1, 0])
    assert few.fingerprint != episodes.fingerprint


def test_pictures_lie_beside_their_rows_and_blank_views_are_none(tmp_path: Path) -> None:
    episodes = open_robot_episodes(rlds(tmp_path / "data"), indices=[1, 2])
    frames = open_episode_frames(episodes, 64, cache=tmp_path / "cache")
    assert frames.cameras == ("observation.head", "observation.side")
    assert frames.valid[:, 0].all() and not frames.valid[:, 1].any()
    assert {(fault.camera, fault.rows) for fault in frames.faults} == {("observation.side", 8), ("observation.side", 3)}
    for episode in episodes.episodes:
        for row in range(episode.start, episode.stop):
            wanted = picture_of(episode.index, row - episode.start).astype(int)
            assert np.abs(frames.pictures[row, 0] - wanted).mean() < 4


def test_what_is_damaged_or_lacking_is_named(tmp_path: Path) -> None:
    root = rlds(tmp_path / "data")
    with pytest.raises(ValueError, match=r"camera 'wrist'.*'kitchen'.*observation\.head"):
        open_robot_episodes(root, cameras=("wrist",))
    with pytest.raises(ValueError, match=r"episodes \[7\]: dataset 'kitchen' does not have them; it has 3"):
        open_robot_episodes(root, indices=[1, 7])
    with pytest.raises(ValueError, match="state '3:9': 'observation.state' has 3 dimensions"):
        open_robot_episodes(root, state=["3:9"])
    last = sorted(root.glob("*.tfrecord*"))[1]
    whole = last.read_bytes()
    for cut in (len(whole) - 1, 7):
        last.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="ends within a record: it is cut off"):
            list(records(last))
    short = made_example({"steps/observation/state": np.ones(7, np.float32), "steps/is_first": np.arange(3) == 0})
    last.write_bytes(record(short))
    broken = open_robot_episodes(root)
    assert broken.indices == [0, 1] and "7 numbers for 3 steps" in broken.faults[0][1]
    for rubbish in (b"\xff" * 40, b"\x0a\xff\x01", b"\x08\x01", made_example({"a": [b"b"]})[:-1]):
        with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
            example(rubbish)
    (root / "features.json").write_text("{}")
    with pytest.raises(ValueError, match="no steps: it is no RLDS dataset"):
        open_robot_episodes(root)
