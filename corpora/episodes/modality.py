"""Named parts of a robot's state and action: GR00T's meta/modality.json, or slices like "7:14"."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLUMNS = {
    "state": ("observation.state", "observation.states", "state", "states", "observation.proprio"),
    "action": ("action", "actions"),
}
"""What a state and an action are called where nothing says so; the first that there is."""
TASK_ANNOTATION = {"human.task_description": "task_index"}
"""The annotation of a dataset that names none: what each row is to do, by the number of its task."""
_NO_MEASURE = re.compile(
    r"timestamp|frame_index|episode_index|index|task_index|(next|annotation)\..*|is_first|is_last|is_terminal|reward|discount"
)
"""Numeric features that are neither."""
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
    columns: tuple[str, ...] = ()
    """Those that may be chosen for a state or an action."""

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
        state, action = (default_parts(features, kind) for kind in COLUMNS)
        return Modality(state, action, {}, {}, measured(features))
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
            measured(features),
        )
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}); repair or remove it") from error


def modality_json(modality: Modality, features: Mapping[str, Any]) -> dict[str, Any]:
    """meta/modality.json of a dataset with these features, as every generation of Isaac-GR00T's loaders needs it: with a
    column named for each part, and with an annotation. Parts of features that are not there are left out."""

    def parts(chosen: Sequence[ModalityPart], usual: str) -> dict[str, Any]:
        return {
            (usual if part.name == part.column else part.name): {
                "start": part.start,
                "end": part.end,
                **part.facts,
                "original_key": part.column,
            }
            for part in chosen
            if part.column in features
        }

    videos = [name for name, feature in features.items() if feature.get("dtype") == "video"]
    named = {name: key if key in videos else f"observation.images.{name}" for name, key in modality.cameras.items()}
    named = {name: key for name, key in named.items() if key in videos} or {
        key.rpartition(".")[2]: key for key in videos
    }
    annotations = {name: column for name, column in modality.annotations.items() if column in features}
    return {
        "state": parts(modality.state, "state"),
        "action": parts(modality.action, "action"),
        "video": {name: {"original_key": key} for name, key in named.items()},
        "annotation": {name: {"original_key": key} for name, key in (annotations or TASK_ANNOTATION).items()},
    }


def is_numeric(feature: Mapping[str, Any]) -> bool:
    """By what info.json says of it."""
    return feature.get("dtype") not in ("video", "image", "string")


def measured(features: Mapping[str, Any]) -> tuple[str, ...]:
    """Numeric features that may be a state or an action."""
    return tuple(name for name in features if is_numeric(features[name]) and not _NO_MEASURE.fullmatch(name))


def default_parts(features: Mapping[str, Any], kind: str) -> tuple[ModalityPart, ...]:
    """The column that is commonly called so, as one part; where there is none, but columns of its name and a dot
    ("action.arm", "action.gripper"), each of these, in the order of their names."""
    columns = [name for name in features if is_numeric(features[name])]
    for known in COLUMNS[kind]:
        if known in columns:
            return (whole_column(features, known),)
    for known in COLUMNS[kind]:
        inner = sorted(name for name in columns if name.startswith(f"{known}."))
        if inner:
            return tuple(_inner_part(features, name, name.removeprefix(f"{known}.")) for name in inner)
    return ()


def none_known(kind: str, name: str, columns: Sequence[str]) -> str:
    """That a dataset has no `kind`, and how to choose one of its `columns`."""
    known = f"dataset '{name}' has no {kind}: none of its columns is called {', '.join(COLUMNS[kind][:-1])} or "
    choose = f"choose among {list(columns)} with --{kind}, or with {kind} in the pyramid file"
    return f"{known}{COLUMNS[kind][-1]}; {choose if columns else 'it has no others of numbers'}"


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


def camera_named(name: str, cameras: Sequence[str], dataset: str) -> str:
    """The first of the `cameras` of a dataset that is called so, in full or by its last word. Raises ValueError for none."""
    for camera in cameras:
        if name in (camera, camera.rpartition(".")[2]):
            return camera
    raise ValueError(f"camera '{name}': dataset '{dataset}' has none of this name; it has {list(cameras)}")


def joined(parts: Sequence[ModalityPart], column: Callable[[str], NDArray[np.float32]]) -> NDArray[np.float32] | None:
    """[N, D] of the parts' dimensions, `column` giving [N, width]; None without parts. Raises ValueError for a column that is
    too narrow, and for numbers that are not finite."""
    if not parts:
        return None
    for part in parts:
        if (width := column(part.column).shape[1]) < part.end:
            raise ValueError(f"'{part.column}' has {width} dimensions, not {part.end}")
    values = np.concatenate([column(part.column)[:, part.start : part.end] for part in parts], 1)
    if not np.isfinite(values).all():
        raise ValueError(f"numbers that are not finite in {sorted({part.column for part in parts})}")
    return values


def whole_column(features: Mapping[str, Any], column: str) -> ModalityPart:
    """A numeric feature as one part."""
    width = _width(features, column)
    return ModalityPart(column, column, 0, width, _dims(features, column)[:width])


def _inner_part(features: Mapping[str, Any], column: str, name: str) -> ModalityPart:
    width = _width(features, column)
    dims = tuple(_flat(features[column].get("names")))
    dims = dims if len(dims) == width else tuple(map(str, range(width)))
    return ModalityPart(name, column, 0, width, tuple(f"{name}.{dim}" for dim in dims))


def _slice(name: str, kind: str, features: Mapping[str, Any], known: Sequence[str]) -> ModalityPart:
    if name in features and is_numeric(features[name]):
        return whole_column(features, name)
    column = next((known for known in COLUMNS[kind] if known in features), COLUMNS[kind][0])
    found = _SLICE.fullmatch(name)
    if found is None or column not in features:
        raise ValueError(
            f"{kind} '{name}': the dataset has the parts {list(known)}; name one of them, a column of "
            f"{list(measured(features))}, or dimensions of '{column}' like 7:14"
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
        usual = next((known for known in COLUMNS[kind] if known in features), COLUMNS[kind][0])
        column = str(entry.get("original_key") or usual)
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
