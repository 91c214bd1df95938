"""Columns of Parquet files as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def column_array(column: pa.ChunkedArray, dtype: type) -> NDArray[Any]:
    """[N, D], whatever the nesting of the column's lists. Raises ValueError for rows of different lengths or without a
    list; a missing number is NaN."""
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    while _is_list(values.type):
        lengths = pc.unique(pc.list_value_length(values))
        if values.null_count or len(lengths) > 1:
            raise ValueError(f"rows of different lengths: {lengths.to_pylist()[:4]}")
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False)).astype(dtype).reshape(len(column), -1)


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column holds numbers, however deep in lists."""
    while _is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
