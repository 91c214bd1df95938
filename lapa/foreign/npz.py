"""NPZ: arrays video or clip [N], t_s [N], gap_s [N] or one number, vector [N, D] and / or codes [N, K]."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.store.files import machine_trouble
from lapa.foreign.files import files_of, place
from lapa.foreign.row import NAMES, Bad, Row, row_of
from lapa.foreign.settings import ForeignSettings

CODEBOOK_SIZE = 0


def files(path: Path) -> list[Path]:
    return files_of(path, ".npz")


def takes(path: Path) -> bool:
    return bool(files(path))


def rows(path: Path, settings: ForeignSettings) -> Iterator[Row | Bad]:
    for file in files(path):
        arrays = _arrays(file)
        for number in range(len(arrays["t_s"])):
            record = {name: _plain(array[number]) for name, array in arrays.items()}
            yield row_of(place(file, path, f"row {number}"), record, settings.gap_s)


def _plain(value: Any) -> Any:
    return value.item() if np.ndim(value) == 0 else value


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Those that are known, all as long as t_s."""
    known = {name for names in NAMES.values() for name in names}
    try:
        with file.open("rb") as opened:
            stored = np.load(opened, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                raise ValueError("one array without a name")
            arrays = {name: stored[name] for name in stored.files if name in known}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if machine_trouble(error):
            raise
        raise ValueError(
            f"latents '{file}' cannot be read ({error}): save it whole with np.savez, names as texts (dtype=str), not objects"
        ) from error
    if "t_s" not in arrays or arrays["t_s"].ndim != 1:
        raise ValueError(f"latents '{file}' hold no array t_s [N], the time of each pair's first frame in seconds")
    count = len(arrays["t_s"])
    arrays = {name: np.broadcast_to(array, count) if array.ndim == 0 else array for name, array in arrays.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if set(lengths.values()) > {count}:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"latents '{file}': arrays of different lengths ({told}); each needs one entry a pair")
    return arrays
