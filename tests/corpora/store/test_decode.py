"""Dataclasses from JSON: the inverse of asdict, and a path to what is wrong."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from corpora.store.decode import decode


@dataclass(frozen=True)
class Part:
    share: float = 0.5
    names: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError(f"share {self.share}: at most 1")


@dataclass(frozen=True)
class Whole:
    out: Path
    kind: Literal["a", "b"] = "a"
    part: Part = field(default_factory=Part)
    parts: tuple[Part, ...] = ()


WHOLE = Whole(Path("x"), "b", Part(1, ("n", "m"), 3), (Part(), Part(0.25)))


def test_it_is_the_inverse_of_asdict_through_json() -> None:
    record = json.loads(json.dumps(dataclasses.asdict(WHOLE), default=str))
    assert decode(Whole, record, what="settings") == WHOLE
    assert decode(Whole, {"out": "y"}, what="settings") == Whole(Path("y"))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, r"settings: .*out"),
        ({"out": "x", "colour": 1}, "settings: unknown field colour"),
        ({"out": "x", "part": {"shape": 1}}, "unknown field shape @ part"),
        ({"out": "x", "parts": [{}, {"share": "0.5"}]}, r"'0.5' is no float @ parts\[1\].share"),
        ({"out": "x", "part": {"limit": True}}, "part.limit"),
        ({"out": "x", "part": {"share": 2}}, "share 2.0: at most 1 @ part"),
        ({"out": "x", "kind": "c"}, "kind"),
        ({"out": 3}, "3 is no str @ out"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(record: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode(Whole, record, what="settings")
