"""The formats that latents from elsewhere lie in; one of one's own is an entry of `FORMATS`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from corpora.store.files import digest_of
from corpora.store.told import closest
from lapa.foreign import jsonl, lapa_jsonl, lerobot, npz, parquet
from lapa.foreign.row import Bad, Row
from lapa.foreign.settings import ForeignSettings


class Format(Protocol):
    """A way to write latents down."""

    CODEBOOK_SIZE: int
    """0 where it may be any."""

    def takes(self, path: Path) -> bool:
        """Whether this file or folder looks like one."""

    def files(self, path: Path) -> list[Path]:
        """Those that hold the rows."""

    def rows(self, path: Path, settings: ForeignSettings) -> Iterator[Row | Bad]:
        """All rows, in order. Raises ValueError for what is wrong with the whole of it."""


FORMATS: dict[str, Format] = {
    "lerobot": lerobot,
    "lapa-jsonl": lapa_jsonl,
    "jsonl": jsonl,
    "npz": npz,
    "parquet": parquet,
}
"""By name, in the order in which they are looked for."""


def choose_format(path: Path, settings: ForeignSettings) -> tuple[str, Format]:
    """(its name, the format) of `path`. Raises ValueError where there is no such file, or it is of no format."""
    if not path.exists():
        raise ValueError(f"latents '{path}': there is no such file or folder")
    if settings.format:
        if settings.format not in FORMATS:
            raise ValueError(f"foreign.format '{settings.format}': {closest(settings.format, FORMATS)}")
        return settings.format, FORMATS[settings.format]
    for name, known in FORMATS.items():
        if known.takes(path):
            return name, known
    raise ValueError(
        f"latents '{path}' are of no format that is known ({', '.join(FORMATS)}): give a folder of giza extract, a .parquet, "
        ".npz or .jsonl file or a folder of such, or a LeRobot dataset"
    )


def fingerprint(path: Path, settings: ForeignSettings) -> str:
    """Of the files' contents, and of how they are read: stands where a model's hash does. Raises ValueError as `choose_format`."""
    name, known = choose_format(path, settings)
    files = known.files(path)
    named = [file.relative_to(path).as_posix() if path.is_dir() else "" for file in files]
    return digest_of(name, str(dataclasses.asdict(settings)), *named, *(file.read_bytes() for file in files))[:16]
