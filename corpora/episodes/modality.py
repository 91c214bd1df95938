"""Named parts of a robot's state and action: GR00T's meta/modality.json, or slices like "7:14"."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_COLUMNS = {"state": "observation.state", "action": "action"}
_SLICE = re.compile(r"(\d+)(?::(\d+))?")


@dataclass(frozen=True)
class ModalityPart:
    """Dimensions [start, end) of a column, under a name."""

    name: str
    column: str
    start: int
    end: int
    dims: tuple[str, ...]
    """A name for each dimension."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What modality.json says besides: rotation_type, absolute, range, ..."""

    @property
    def width(self) -> int:
        """Dimensions."""
        return self.end - self.start


@dataclass(frozen=True)
class Modality:
    """What meta/modality.json says, or what is assumed without one: all of `observation.state` and all of `action`."""

    state: tuple[ModalityPart, ...]
    action: tuple[ModalityPart, ...]
    cameras: Mapping[str, str]
    """Name -> video feature."""
    annotations: Mapping[str, str]
    """Name -> column that holds task indices."""

    @property
    def instruction_column(self) -> str:
        """Column of the annotation that says what to do; empty where there is none. Of several, the one named
        task_description; a judgement of the recording (validity) is no instruction."""
        names = [name for name in self.annotations if name.rpartition(".")[2] != "validity"]
        names.sort(key=lambda name: name.rpartition(".")[2] != "task_description")
        return self.annotations[names[0]] if names else ""


def read_modality(root: Path, features: Mapping[str, Any]) -> Modality:
    """Of the dataset at `root` with these features (info.json). Raises ValueError for a modality.json that is damaged or
    does not fit the features."""
    path = root / "meta" / "modality.json"
    if not path.is_file():
        state, action = (
            (whole_column(features, column),) if column in features else () for column in DEFAULT_COLUMNS.values()
        )
        return Modality(state, action, {}, {})
    try:
        record = json.loads(path.read_text("utf-8"))
        return Modality(
            _parts(record.get("state") or {}, "state", features),
            _parts(record.get("action") or {}, "action", features),
            {name: str(entry.get("original_key") or name) for name, entry in (record.get("video") or {}).items()},
            {
                name: str(entry.get("original_key") or f"annotation.{name}")
                for name, entry in (record.get("annotation") or {}).items()
            },
        )
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}); repair or remove it") from error


def choose_parts(
    parts: Sequence[ModalityPart], wanted: Sequence[str], kind: str, features: Mapping[str, Any]
) -> tuple[ModalityPart, ...]:
    """The parts named by `wanted`, in that order: a part's name, a numeric column, or dimensions of the whole feature
    ("7:14", "3"); all parts where none is named. Raises ValueError for what there is not. `kind`: "state" or "action"."""
    if not wanted:
        return tuple(parts)
    known = {part.name: part for part in parts}
    return tuple(known[name] if name in known else _slice(name, kind, features, list(known)) for name in wanted)


def names_of(parts: Sequence[ModalityPart]) -> tuple[str, ...]:
    """One for each of their dimensions, part after part."""
    return tuple(dim for part in parts for dim in part.dims)


def whole_column(features: Mapping[str, Any], column: str) -> ModalityPart:
    """A numeric feature as one part."""
    width = _width(features, column)
    return ModalityPart(column, column, 0, width, _dims(features, column)[:width])


def _slice(name: str, kind: str, features: Mapping[str, Any], known: Sequence[str]) -> ModalityPart:
    if name in features and features[name].get("dtype") not in ("video", "image", "string"):
        return whole_column(features, name)
    column = DEFAULT_COLUMNS[kind]
    found = _SLICE.fullmatch(name)
    if found is None or column not in features:
        raise ValueError(
            f"{kind} '{name}': the dataset has the parts {list(known)}; name one of them, a column, or dimensions of "
            f"'{column}' like 7:14"
        )
    start = int(found[1])
    end = int(found[2]) if found[2] else start + 1
    width = _width(features, column)
    if not start < end <= width:
        raise ValueError(f"{kind} '{name}': '{column}' has {width} dimensions; choose a range within 0:{width}")
    return ModalityPart(name, column, start, end, _dims(features, column)[start:end])


def _parts(record: Mapping[str, Any], kind: str, features: Mapping[str, Any]) -> tuple[ModalityPart, ...]:
    parts = []
    for name, entry in record.items():
        column = str(entry.get("original_key") or DEFAULT_COLUMNS[kind])
        if column not in features:
            raise ValueError(
                f"meta/modality.json: {kind} '{name}' lies in '{column}', which meta/info.json does not list"
            )
        width = _width(features, column)
        start, end = int(entry.get("start", 0)), int(entry.get("end", width))
        if not 0 <= start < end <= width:
            raise ValueError(f"meta/modality.json: {kind} '{name}' is {start}:{end} of '{column}', which has {width}")
        dims = tuple(f"{name}.{dim}" for dim in _dims(features, column)[start:end])
        facts = {key: value for key, value in entry.items() if key not in ("start", "end", "original_key")}
        parts.append(ModalityPart(name, column, start, end, dims, facts))
    return tuple(parts)


def _width(features: Mapping[str, Any], column: str) -> int:
    return math.prod(int(side) for side in features[column].get("shape") or [1])


def _dims(features: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """Names of the dimensions, numbered where the dataset names them not, or not all."""
    names = tuple(_flat(features[column].get("names")))
    width = _width(features, column)
    last = column.rpartition(".")[2]
    return names if len(names) == width else tuple(f"{last}_{index}" for index in range(width))


def _flat(names: Any) -> list[str]:
    """LeRobot writes lists, lists of lists, and {"motors": [...]}."""
    if isinstance(names, Mapping):
        names = list(names.values())
    if isinstance(names, (list, tuple)):
        return [name for entry in names for name in _flat(entry)]
    return [names] if isinstance(names, str) else []
