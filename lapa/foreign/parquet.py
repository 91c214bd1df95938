"""Parquet: columns video or clip, t_s, gap_s, vector and / or codes (lists of numbers)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from corpora.store.files import machine_trouble
from lapa.foreign.files import files_of, place
from lapa.foreign.row import NAMES, Bad, Row, row_of
from lapa.foreign.settings import ForeignSettings

CODEBOOK_SIZE = 0


def files(path: Path) -> list[Path]:
    return files_of(path, ".parquet")


def takes(path: Path) -> bool:
    return bool(files(path))


def rows(path: Path, settings: ForeignSettings) -> Iterator[Row | Bad]:
    for file in files(path):
        number = 0
        for batch in _batches(file):
            for record in batch.to_pylist():
                yield row_of(place(file, path, f"row {number}"), record, settings.gap_s)
                number += 1


def _batches(file: Path) -> Iterator[pa.RecordBatch]:
    known = {name for names in NAMES.values() for name in names}
    try:
        with pq.ParquetFile(file) as opened:
            columns = [name for name in opened.schema_arrow.names if name in known]
            if "t_s" not in columns:
                raise ValueError(
                    f"latents '{file}' have no column t_s, the time of each pair's first frame in seconds; it has "
                    f"{', '.join(opened.schema_arrow.names[:12])}"
                )
            yield from opened.iter_batches(batch_size=4096, columns=columns)
    except (OSError, pa.ArrowException) as error:
        if machine_trouble(error):
            raise
        raise ValueError(f"latents '{file}' are no whole Parquet file ({error}): write it again") from error
