"""RLDS datasets: written by protocol buffers and read without them, numbers, images and instructions; what is damaged."""

from __future__ import annotations

import json
import logging
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from corpora.episodes.frames import open_episode_frames
from corpora.episodes.opening import format_of, is_dataset
from corpora.episodes.rlds import STEP_S
from corpora.episodes.tf_records import example, records
from corpora.video.image import decode_image
from tests.builders.datasets import opened
from tests.builders.rlds import LENGTHS, TEXTS, image_of, jpeg, made_example, message, numbers_of, record, rlds, varint


@pytest.mark.parametrize("packed", [True, False])
def test_values_come_back_as_they_were_written(packed: bool) -> None:
    values = {
        "text": [b"", "caf\u00e9".encode(), b"\x00\xff" * 300],
        "floats": np.array([0.0, -1.5, 3e38, 1e-45], np.float32),
        "integers": np.array([0, 1, -1, 127, 128, 2**63 - 1, -(2**63)]),
    }
    found = example(made_example(values, packed=packed))
    assert set(found) == set(values) and found["text"] == values["text"]
    for name in ("floats", "integers"):
        np.testing.assert_array_equal(found[name], values[name])
        assert found[name].dtype == (np.float32 if name == "floats" else np.int64)  # type: ignore[union-attr]


def test_episodes_are_read_as_they_lie_there(tmp_path: Path) -> None:
    root = rlds(tmp_path / "1.0.0")
    assert format_of(root).name == "RLDS" and not is_dataset(tmp_path)
    episodes = opened(root, cameras=("head",))
    assert episodes.name == "kitchen" and not episodes.faults
    assert episodes.indices == [0, 1, 2] and episodes.cameras == ("observation.head",)
    for episode, length, text in zip(episodes.episodes, LENGTHS, TEXTS, strict=True):
        state, action = numbers_of(episode.index)
        np.testing.assert_array_equal(episode.state, state)
        np.testing.assert_array_equal(episode.action, action)
        np.testing.assert_allclose(episode.t_s, np.arange(length) * STEP_S)
        assert episode.instruction == text
        assert episodes.instructions[episodes.instruction[episode.start]] == text
    few = opened(root, indices=[2], state=["1:3"], action=["0"], previous_action=True)
    assert few.indices == [2] and few.state is not None and few.action is not None
    np.testing.assert_array_equal(few.state[:, :2], numbers_of(2)[0][:, 1:])
    np.testing.assert_array_equal(few.state[1:, -1], few.action[:-1, 0])
    assert few.fingerprint != episodes.fingerprint


def test_images_lie_beside_their_rows_and_blank_views_are_none(tmp_path: Path) -> None:
    episodes = opened(rlds(tmp_path / "data"), indices=[1, 2])
    frames = open_episode_frames(episodes, 64, cache=tmp_path / "cache")
    assert frames.cameras == ("observation.head", "observation.side")
    assert frames.valid[:, 0].all() and not frames.valid[:, 1].any()
    assert {(fault.camera, fault.rows) for fault in frames.faults} == {("observation.side", 8), ("observation.side", 3)}
    for episode in episodes.episodes:
        for row in range(episode.start, episode.stop):
            wanted = image_of(episode.index, row - episode.start).astype(int)
            assert np.abs(frames.images[row, 0] - wanted).mean() < 4


def test_what_is_damaged_or_lacking_is_named(tmp_path: Path) -> None:
    root = rlds(tmp_path / "data")
    with pytest.raises(ValueError, match=r"camera 'wrist'.*'kitchen'.*observation\.head"):
        opened(root, cameras=("wrist",))
    with pytest.raises(ValueError, match="episodes 7: dataset 'kitchen' does not have them; it has 3"):
        opened(root, indices=[1, 7])
    with pytest.raises(ValueError, match="state '3:9': 'observation.state' has 3 dimensions"):
        opened(root, state=["3:9"])
    last = sorted(root.glob("*.tfrecord*"))[1]
    whole = last.read_bytes()
    for cut in (len(whole) - 1, 7):
        last.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="ends within a record: it is cut off"):
            list(records(last))
    short = made_example({"steps/observation/state": np.ones(7, np.float32), "steps/is_first": np.arange(3) == 0})
    last.write_bytes(record(short))
    broken = opened(root)
    assert broken.indices == [0, 1] and "7 numbers, no multiple of the 3" in broken.faults[0][1]
    for rubbish in (b"\xff" * 40, b"\x0a\xff\x01", b"\x08\x01", made_example({"a": [b"b"]})[:-1]):
        with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
            example(rubbish)
    trees: tuple[dict[str, Any], ...] = (
        {},
        {"featuresDict": {"features": {"steps": {"sequence": {}}}}},
        {"featuresDict": []},
    )
    for broken_tree in trees:
        (root / "features.json").write_text(json.dumps(broken_tree))
        with pytest.raises(ValueError, match=r"features\.json has no steps: it is no RLDS dataset.*restore it"):
            opened(root)


def nested(feature_bytes: bytes) -> bytes:
    """An Example with the feature "a"."""
    return message(1, message(1, message(1, b"a") + message(2, feature_bytes)))


@pytest.mark.parametrize(
    "content",
    [
        message(1, message(1, varint(1 << 3) + varint(1 << 30))),  # the name
        message(1, message(1, message(1, b"a") + varint(2 << 3) + varint(1 << 30))),  # the feature
        nested(varint(1 << 3) + varint(1 << 30)),  # the list
        *(nested(message(kind, varint(1 << 3) + varint(1 << 30))) for kind in (1, 2)),  # a value in it
    ],
)
def test_a_number_where_bytes_belong_takes_no_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"no tf\.train\.Example: it holds fields"):
            example(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80" * 1_000_000 + b"\x01", "corrupt"),  # a number that does not end within 10 bytes
        (b"\x0a\x80", "corrupt"),  # nor within the message
        (nested(message(3, message(1, b"\x80" * 10 + b"\x01"))), "corrupt"),
        (nested(message(2, message(1, b"\0" * 7))), "corrupt"),  # floats of 7 bytes, no multiple of 4
        (nested(message(2, message(1, b"\0" * 3) + message(1, b"\0"))), "corrupt"),
        (nested(message(2, varint(1 << 3 | 1) + b"\0" * 8)), "it holds fields"),  # a float of 8 bytes
        (nested(message(3, varint(1 << 3 | 1) + b"\0" * 8)), "it holds fields"),
    ],
)
def test_rubbish_is_no_example(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"no tf\.train\.Example.*{reason}"):
        example(content)


def test_steps_are_counted_by_the_widths_of_features_json(tmp_path: Path) -> None:
    few = {"is_first": None, "action": np.arange(12, dtype=np.float32)}  # 6 actions beside 5 states
    root = rlds(tmp_path / "data", changed={0: few, 1: {"is_first": None}, 2: {"observation/state": None}})
    episodes = opened(root, state=["1:2"])
    assert episodes.indices == [1] and episodes.state is not None and episodes.action is not None
    np.testing.assert_array_equal(episodes.state[:, 0], numbers_of(1)[0][:, 1])  # not of half the width
    (first, reason), (last, lacking) = episodes.faults
    assert first == 0 and "'observation.state': 5, 'action': 6" in reason and "equally many" in reason
    assert last == 2 and "'observation.state' holds nothing where features.json promises numbers" in lacking
    images = {"observation/head": [jpeg(image_of(1, row)) for row in range(7)]}
    odd: dict[int, dict[str, Any]] = {
        0: {"observation/head": np.ones(5, np.float32)},
        1: images,
        2: {"action": [b"0"]},
    }
    with pytest.raises(ValueError, match=r"no usable episode.*numbers where .*head': 7, .*'action' holds bytes"):
        opened(rlds(tmp_path / "other", changed=odd))


def test_damaged_records_are_faults_and_the_rest_goes_on(tmp_path: Path) -> None:
    splits = [{"name": "train", "shardLengths": ["2", "3", "2"]}]
    root = rlds(tmp_path / "data", ((0, 1), (1, 2, 1), (0,)), splits=splits)
    first, second, _ = sorted(root.glob("*.tfrecord*"))
    length = struct.unpack_from("<Q", first.read_bytes())[0]
    first.write_bytes(record(b"\xff" * 40) + first.read_bytes()[length + 16 :])
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    episodes = opened(root)
    faults = dict(episodes.faults)
    kept = [1, *(index for index in (2, 3) if index not in faults), 5]
    assert episodes.indices == kept and 4 in faults  # numbered as if all were there
    assert "kitchen-train.tfrecord-00000-of-00003, record 0: a record is no tf.train.Example" in faults[0]
    assert "kitchen-train.tfrecord-00001-of-00003, record 2: " in faults[4] and "cut off" in faults[4]
    assert "record 1: 1 records are there, dataset_info.json lists 2" in faults[6]
    frames = open_episode_frames(episodes, 64, cache=tmp_path / "cache")
    assert frames.valid[:, 0].all()
    assert np.abs(frames.images[episodes.episodes[-1].start, 0] - image_of(0, 0).astype(int)).mean() < 4
    assert [index for index, _ in opened(root, indices=[1, 4]).faults] == [4]
    (root / "dataset_info.json").write_text("{}")  # not known how many there should be
    assert opened(root).indices[-1] == kept[-2] + 2


def test_a_flipped_bit_is_found_and_named(tmp_path: Path) -> None:
    root = rlds(tmp_path / "data", ((0, 1, 2),))
    (file,) = root.glob("*.tfrecord*")
    whole = file.read_bytes()
    lengths, at = [], 0
    while at < len(whole):
        lengths.append(struct.unpack_from("<Q", whole, at)[0])
        at += 16 + lengths[-1]
    second = 16 + lengths[0]
    rng = np.random.default_rng(0)
    for place in (second + 12, second + 11 + lengths[1], second + 12 + int(rng.integers(lengths[1]))):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(flipped)
        episodes = opened(root)
        ((index, reason),) = episodes.faults
        assert episodes.indices == [0, 2] and index == 1
        assert (
            reason
            == f"{file.name}, record 1: its checksum is not that of its bytes: it is damaged; copy the file again"
        )
        np.testing.assert_array_equal(episodes.episodes[1].state, numbers_of(2)[0])
    flipped = bytearray(whole)
    flipped[second] ^= 1  # of a length: where the next record begins is not known
    file.write_bytes(flipped)
    episodes = opened(root)
    assert episodes.indices == [0]
    assert f"'{file.name}' at byte {second}: the checksum of a length is not that of its bytes" in episodes.faults[0][1]


def claimed(width: int, height: int) -> tuple[bytes, bytes]:
    """A PNG and a JPEG whose headers say so."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    whole = jpeg(np.full((8, 8, 3), 7, np.uint8))
    at = whole.index(b"\xff\xc0") + 5
    return png, whole[:at] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + whole[at + 4 :]


def test_images_that_do_not_decode_are_faults_of_their_rows(tmp_path: Path) -> None:
    blue = cv2.imencode(".png", np.full((64, 64, 3), (255, 0, 0), np.uint8))[1].tobytes()
    faint = np.full((64, 64, 3), (255, 0, 0), np.uint8)
    faint[0, 0, 2] = 1
    good = cv2.imencode(".png", faint)[1].tobytes()
    views = [
        b"",
        blue,
        good,
        jpeg(image_of(1, 3))[:100],
        b"rubbish",
        claimed(60000, 50000)[1],
        claimed(8193, 8)[0],
        b"",
    ]
    root = rlds(tmp_path / "data", changed={1: {"observation/head": views}})
    frames = open_episode_frames(opened(root, cameras=["head"]), 64, cache=tmp_path / "cache")
    assert frames.valid[:, 0].tolist() == [True] * 5 + [False, False, True] + [False] * 5 + [True] * 3
    told = {fault.reason: fault.rows for fault in frames.faults}
    assert {fault.source for fault in frames.faults} == {"kitchen/episode_000001"} and sum(told.values()) == 7
    assert told["no image: 0 bytes"] == 2 and told["blank: an image of one colour"] == 1
    assert any("60000 x 50000 pixels: sides must be 1 to 8192" in reason for reason in told)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (8193, 1), (1, 9000)])
def test_headers_are_read_before_the_image(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", decoded)
    for encoded in claimed(*size):
        with pytest.raises(ValueError, match=f"image of {size[0]} x {size[1]} pixels"):
            decode_image(encoded)


def test_whole_images_decode_and_errors_of_the_decoder_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = image_of(1, 2)
    for ending in (".png", ".jpg"):
        encoded = cv2.imencode(ending, rgb[:40, :, ::-1])[1].tobytes()
        assert decode_image(encoded).shape == (40, 64, 3)
        assert np.abs(decode_image(encoded) - rgb[:40].astype(int)).mean() < 4
    for cut in (3, 20):
        with pytest.raises(ValueError, match=f"image of {cut} bytes ends within its header"):
            decode_image(jpeg(rgb)[:cut])

    def fails(*_: object) -> None:
        raise cv2.error("of the decoder")

    monkeypatch.setattr(cv2, "imdecode", fails)
    with pytest.raises(ValueError, match="does not decode"):
        decode_image(jpeg(rgb))


def test_the_rate_is_assumed_aloud_or_read_from_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = rlds(tmp_path / "data")
    with caplog.at_level(logging.WARNING):
        assert opened(root).fps == 5 and opened(root).fps == 5
    assert len(caplog.records) == 1  # once, however often it is opened
    assert "'kitchen'" in caplog.text and "5 steps a second" in caplog.text and str(root / "giza.json") in caplog.text
    caplog.clear()
    (root / "giza.json").write_text('{"steps_per_s": 10}')
    episodes = opened(root)
    assert episodes.fps == 10 and not caplog.records
    np.testing.assert_allclose(episodes.episodes[0].t_s, np.arange(5) / 10)
    for wrong in ("0", "-1", '"fast"', "true", "NaN", "Infinity", "null"):
        (root / "giza.json").write_text(f'{{"steps_per_s": {wrong}}}')
        with pytest.raises(ValueError, match=r"giza\.json: steps_per_s .* must be a number above 0, for example 5"):
            opened(root)


def test_a_dataset_without_numbers_and_a_shape_that_varies(tmp_path: Path) -> None:
    root = rlds(tmp_path / "data")
    tree = json.loads((root / "features.json").read_text())
    step = tree["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    step["action"]["tensor"]["shape"]["dimensions"] = ["-1"]
    (root / "features.json").write_text(json.dumps(tree))
    assert opened(root).action is None
    step["observation"]["featuresDict"]["features"]["state"]["tensor"]["shape"]["dimensions"] = ["-1"]
    (root / "features.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="'kitchen' has no state: none .*'kitchen' has no action: none of its columns"):
        opened(root)
