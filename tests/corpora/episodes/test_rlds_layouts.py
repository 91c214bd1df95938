"""RLDS as its datasets have it: where the instruction lies, and actions that are dictionaries, integers and booleans."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.datasets import opened
from tests.builders.rlds import LENGTHS, TEXTS, numbers_of, rlds, tensor

TEXT: dict[str, Any] = {"text": {}}
NONE = {"language_instruction": None}


def texts(*rows: str) -> list[bytes]:
    return [row.encode() for row in rows]


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("observation/natural_language_instruction", tensor(dtype="string")),
        ("language_instruction_2", TEXT),
        ("observation/instruction", TEXT),
        ("task", TEXT),
        ("observation/prompt", TEXT),
    ],
)
def test_an_instruction_is_found_under_other_names(tmp_path: Path, name: str, entry: dict[str, Any]) -> None:
    changed = {k: {**NONE, name: texts(TEXTS[k]) * LENGTHS[k]} for k in range(3)}
    names = {**NONE, name: entry, "observation/robot_name": TEXT}
    episodes = opened(rlds(tmp_path / "data", changed=changed, features=names))
    assert [episode.instruction for episode in episodes.episodes] == list(TEXTS)


def test_the_first_text_that_says_anything_is_the_instruction(tmp_path: Path) -> None:
    droid: dict[str, Any] = {"language_instruction_2": TEXT, "language_instruction_3": TEXT}
    changed = {
        0: {"language_instruction": texts(*[""] * 5), "language_instruction_2": texts(*["turn"] * 5)},
        1: {"language_instruction": texts("", " ", *["lift"] * 4, "drop", ""), "language_instruction_3": texts("no")},
        2: {"language_instruction": texts("", ""), "language_instruction_3": texts("", "wait")},
    }
    episodes = opened(rlds(tmp_path / "data", changed=changed, features=droid)).episodes
    assert set(episodes[0].instructions) == {"turn"}
    assert list(episodes[1].instructions) == [*["lift"] * 6, "drop", "lift"]
    assert list(episodes[2].instructions) == ["wait"] * 3


def steps(episode: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(episode).normal(size=(LENGTHS[episode], *shape)).astype(np.float32)


def in_parts(episode: int) -> dict[str, Any]:
    """An action as RT-1 has it: no array but a dictionary, with a switch of whole numbers and one that is a boolean."""
    return {
        "action": None,
        "action/world_vector": steps(episode, 3).ravel(),
        "action/open_gripper": np.arange(LENGTHS[episode]) % 2,
        "action/terminate_episode": np.tile([0, 1, 0], LENGTHS[episode]),
    }


PARTS: dict[str, Any] = {
    "action": None,
    "action/world_vector": tensor(3),
    "action/terminate_episode": tensor(3, dtype="int32"),
    "action/open_gripper": tensor(dtype="bool"),
}


def test_an_action_in_parts_is_joined_in_the_order_of_their_names_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = rlds(tmp_path / "data", changed={k: in_parts(k) for k in range(3)}, features=PARTS)
    with caplog.at_level(logging.WARNING):
        episodes = opened(root)
    names = ["open_gripper.0", *(f"{part}.{k}" for part in ("terminate_episode", "world_vector") for k in range(3))]
    assert list(episodes.action_names) == names and not episodes.faults
    for episode in episodes.episodes:
        assert episode.action is not None and episode.action.dtype == np.float32
        np.testing.assert_array_equal(episode.action[:, 0], np.arange(LENGTHS[episode.index]) % 2)
        np.testing.assert_array_equal(episode.action[:, 1:4], np.tile([0, 1, 0], (LENGTHS[episode.index], 1)))
        np.testing.assert_array_equal(episode.action[:, 4:], steps(episode.index, 3))
    assert "action is made of the columns ['action.open_gripper', 'action.terminate_episode', " in caplog.text
    few = opened(root, action=["world_vector", "action.open_gripper"])
    assert few.action is not None and few.action.shape[1] == 4
    np.testing.assert_array_equal(few.action[:, :3], episodes.action[:, 4:])  # type: ignore[index]


@pytest.mark.parametrize("odd", [TEXT, tensor(-1), {"tensor": {"shape": {}, "dtype": "int64", "encoding": "zlib"}}])
def test_an_action_with_a_part_that_is_no_number_is_refused(tmp_path: Path, odd: dict[str, Any]) -> None:
    changed = {k: {**in_parts(k), "action/mode": texts("fast") * LENGTHS[k]} for k in range(3)}
    root = rlds(tmp_path / "data", changed=changed, features={**PARTS, "action/mode": odd})
    with pytest.raises(
        ValueError, match=r"'kitchen': parts of its action .*\['action\.mode'\]; choose among .*--action"
    ):
        opened(root)
    assert opened(root, action=["world_vector"]).action is not None


@pytest.mark.parametrize("dtype", ["int64", "bool", "uint8", "float64"])
def test_numbers_may_be_whole_or_yes_and_no(tmp_path: Path, dtype: str) -> None:
    """TFRecords hold floats or 64-bit integers, whatever features.json calls them."""
    chosen = {k: (numbers_of(k)[1] > 0) for k in range(3)}
    stored = "<f4" if dtype == "float64" else np.int64
    changed = {k: {"action": values.astype(stored).ravel()} for k, values in chosen.items()}
    episodes = opened(rlds(tmp_path / "data", changed=changed, features={"action": tensor(2, dtype=dtype)}))
    for episode in episodes.episodes:
        np.testing.assert_array_equal(episode.action, chosen[episode.index].astype(np.float32))
