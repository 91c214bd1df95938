"""What a policy was trained on and what was held out of it, as its checkpoint stores it: an evaluation must know."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from corpora.episodes.selection import named_episodes
from corpora.store.decode import decode
from corpora.store.files import write_json

DATA = "data.json"
"""Beside the policy's configuration."""
Standing = Literal["held out", "trained on", "partly trained on", "other data", "not known"]
"""Of episodes that a policy is measured on. Other data: not of a dataset that it was trained on. Not known: it does not say,
or the dataset has changed since."""


@dataclass(frozen=True)
class TrainedOn:
    """One dataset of one training."""

    name: str
    """Of the dataset in its mixture."""
    folder: str
    """Name of its folder."""
    fingerprint: str
    """Of a dataset's metadata, or of a corpus."""
    embodiment: str
    kind: Literal["episodes", "clips"]
    trained: tuple[str, ...] = ()
    """Groups of clips, or numbers of episodes: "3", "5:20"."""
    held_out: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    """As they were chosen of a dataset's columns; empty: all."""
    state: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    verdict: str = ""
    """Of latents: what giza report had said of them."""


def numbers_of(parts: Sequence[str]) -> set[int]:
    """Of `spans`."""
    return (named_episodes(",".join(parts)) or set()) if parts else set()


@dataclass(frozen=True)
class Known:
    """What a policy's records say of a dataset of episodes."""

    last: TrainedOn | None
    """The last training on it, as it is now."""
    trained: frozenset[int]
    """Episodes that any training had."""
    held_out: frozenset[int]
    """That the last one held out, and none had."""
    changed: bool
    """There are records of a dataset of this name, but it was another then; or no records at all."""

    def standing(self, chosen: Iterable[int]) -> Standing:
        """Of these episodes."""
        mine = set(chosen)
        if self.last is None:
            return "not known" if self.changed else "other data"
        seen = mine & self.trained
        return "trained on" if seen == mine else "partly trained on" if seen else "held out"


def known_of(records: Sequence[TrainedOn], folder: str, fingerprint: str) -> Known:
    """Of the dataset in the folder of that name."""
    mine = [record for record in records if record.kind == "episodes" and record.fingerprint == fingerprint]
    changed = not records or any(record.kind == "episodes" and record.folder == folder for record in records)
    trained = frozenset(number for record in mine for number in numbers_of(record.trained))
    held_out = frozenset(numbers_of(mine[-1].held_out)) - trained if mine else frozenset()
    return Known(mine[-1] if mine else None, trained, held_out, changed)


def verdicts_on_latents(records: Sequence[TrainedOn]) -> dict[str, str]:
    """Folder of each dataset of latents -> what giza report had said of them when they were last trained on."""
    return {record.folder or record.name: record.verdict for record in records if record.verdict}


def write_records(folder: Path, records: Sequence[TrainedOn]) -> None:
    """To `folder`, beside the policy."""
    write_json(folder / DATA, {"trainings": [dataclasses.asdict(record) for record in records]})


def read_records(folder: Path) -> tuple[TrainedOn, ...]:
    """Of the policy in `folder`; none of one that an older giza wrote. Raises ValueError where they are damaged."""
    path = folder / DATA
    if not path.is_file():
        return ()
    try:
        found = json.loads(path.read_text("utf-8"))["trainings"]
        return tuple(decode(TrainedOn, record, what=str(path)) for record in found)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); copy it again") from error
