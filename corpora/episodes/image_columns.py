"""Images that a LeRobot dataset keeps in its Parquet files (features of type image) instead of in videos."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image


def images_of(column: pa.ChunkedArray, root: Path) -> Iterator[NDArray[np.uint8]]:
    """uint8 [H, W, 3] RGB of each row: of an encoded file's bytes, or of a path below the dataset's `root`. Raises ValueError for a
    row that holds neither, or is no image."""
    for number, value in enumerate(column.to_pylist()):
        record = value if isinstance(value, dict) else {"bytes": value}
        data, path = record.get("bytes"), record.get("path")
        if not data and not path:
            raise ValueError(f"row {number} holds no image")
        try:
            with Image.open(io.BytesIO(data) if data else root / str(path)) as image:
                yield np.asarray(image.convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"row {number}: its image cannot be read ({type(error).__name__})") from error


REMEDY = "images lie inside of its Parquet files: giza export --dataset '{root}' --format lerobot-v3 --out FOLDER makes them video"
"""Of a dataset that has no other."""
