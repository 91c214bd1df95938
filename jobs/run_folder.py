"""The folder of a training run: it belongs to one configuration, and its files appear whole."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SETTINGS = "train.json"
SUMMARY = "run.json"
BUDGET = ("steps", "minutes", "training.workers")
"""What may change when a run is resumed: a longer budget continues it, loaders do not change the order."""


def claim(folder: Path, settings: dict[str, Any], *, free: Sequence[str] = BUDGET) -> None:
    """Writes `settings` to the run folder. Raises ValueError where it holds a run with others; those in `free` may change."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    mine = _flat(json.loads(json.dumps(settings, default=str)))
    if path.is_file():
        theirs = json.loads(path.read_text("utf-8"))
        differ = [name for name in sorted({*mine, *theirs} - set(free)) if mine.get(name) != theirs.get(name)]
        if differ:
            raise ValueError(
                f"'{folder}' holds a run with other settings ({', '.join(differ)}): resume with the same flags, or give "
                "another --out"
            )
    write_json(path, mine)


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """{"training": {"lr": 1}} -> {"training.lr": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
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
