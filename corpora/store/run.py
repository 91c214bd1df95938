"""The folder of a training run: it belongs to one configuration, and its files appear whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

SETTINGS = "train.json"
SUMMARY = "run.json"
BUDGET = ("steps", "minutes", "training.workers")
"""What may change when a run is resumed: a longer budget continues it, loaders do not change the order."""


def claim(
    folder: Path,
    settings: dict[str, Any],
    *,
    free: Sequence[str] = BUDGET,
    formats: Mapping[str, int | None] = MappingProxyType({}),
) -> None:
    """Writes `settings` and `formats` to the run folder.

    `free`: settings that may change. `formats`: numbers of this version of giza, no flags; None where one has no say in
    the run. Raises ValueError where the folder holds a run with other settings, or one of another version: formats
    differ, or one record has a setting that the other lacks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    mine = _flat(json.loads(json.dumps(settings, default=str))) | dict(formats)
    if path.is_file():
        theirs = _flat(json.loads(path.read_text("utf-8")))
        differ = [name for name in sorted({*mine, *theirs} - set(free)) if mine.get(name) != theirs.get(name)]
        chosen = [name for name in differ if name in mine and name in theirs and name not in formats]
        if chosen:
            raise ValueError(
                f"'{folder}' holds a run with other settings ({', '.join(chosen)}): resume with the same flags, or give "
                "another --out"
            )
        if differ:
            said = ", ".join(
                f"{name} {theirs.get(name, 'absent')} there and {mine.get(name, 'absent')} here" for name in differ
            )
            raise ValueError(
                f"'{folder}' holds a run that was begun by another version of giza ({said}), which this one cannot resume: "
                f"begin again with another --out, or remove '{folder}'"
            )
    write_json(path, mine)


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """{"training": {"lr": 1}} -> {"training.lr": 1}; of a list of such also its length, {"members": 1, "members.0.name": "a"}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            flat[f"{before}{name}"] = len(value)
            value = {str(place): entry for place, entry in enumerate(value)}
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat


def write_json(path: Path, value: Any) -> None:
    """Under a temporary name, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, default=str), "utf-8")
    os.replace(temporary, path)


def recipe_in(argv: Sequence[str], default: str) -> str:
    """The value of --recipe in a command line: a recipe's fields are the defaults that the other flags override."""
    for place, word in enumerate(argv):
        if word == "--recipe" and place + 1 < len(argv):
            return argv[place + 1]
        if word.startswith("--recipe="):
            return word.split("=", 1)[1]
    return default
