"""JSONL: an object a line with (video or clip, t_s, gap_s, vector and / or codes)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lapa.foreign.files import files_of, place
from lapa.foreign.row import Bad, Row, row_of
from lapa.foreign.settings import ForeignSettings

CODEBOOK_SIZE = 0


def files(path: Path) -> list[Path]:
    return files_of(path, ".jsonl", ".ndjson")


def takes(path: Path) -> bool:
    return bool(files(path))


def rows(path: Path, settings: ForeignSettings) -> Iterator[Row | Bad]:
    for where, record in records(path):
        yield record if isinstance(record, Bad) else row_of(where, record, settings.gap_s)


def records(path: Path) -> Iterator[tuple[str, dict[str, Any] | Bad]]:
    """(where, the object) of each line that is not blank; a line that a killed writer left half is bad by itself."""
    for file in files(path):
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                where = place(file, path, f"line {number}")
                try:
                    value = json.loads(line)
                except ValueError as error:
                    yield where, Bad(where, "is no JSON", str(error)[:80])
                    continue
                yield where, value if isinstance(value, dict) else Bad(where, "is no JSON object")
