"""Columns of Parquet files as arrays, and arrays as the columns and tables of LeRobot v3.0."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from corpora.store.told import listed


def column_array(column: pa.ChunkedArray, dtype: type[np.generic]) -> NDArray[Any]:
    """[N, D], whatever the nesting of the column's lists. A row without a list, or without a number, is NaN. Raises
    ValueError for rows of different lengths, where no row holds anything, and for what `dtype` has no NaN for."""
    values = _dense(pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type))
    if np.issubdtype(dtype, np.integer) and not np.issubdtype(values.dtype, np.integer) and np.isnan(values).any():
        raise ValueError("a row without a number")
    return values.astype(dtype).reshape(len(column), math.prod(values.shape[1:]))


def _dense(values: pa.Array) -> NDArray[Any]:
    """[N, ...], one axis for each level of lists."""
    if not _is_list(values.type):
        if len(values) and values.null_count == len(values):
            raise ValueError("no row holds a number")
        return np.asarray((values.cast(pa.float64(), safe=False) if values.null_count else values).to_numpy(False))
    held = values.drop_null()
    lengths = pc.unique(pc.list_value_length(held)).to_pylist()
    if len(lengths) > 1:
        raise ValueError(f"rows of different lengths: [{listed(lengths, 4)}]")
    if len(values) and not lengths:
        raise ValueError("no row holds a list")
    inner = _dense(held.flatten())
    inner = inner.reshape(len(held), lengths[0] if lengths else 0, *inner.shape[1:])
    if len(held) == len(values):
        return inner
    whole = np.full((len(values), *inner.shape[1:]), np.nan)
    whole[values.is_valid().to_numpy(False)] = inner
    return whole


def may_hold_numbers(kind: pa.DataType) -> bool:
    """Whether a column holds numbers, however deep in lists, or is null in every row."""
    while _is_list(kind):
        kind = kind.value_type
    types = pa.types
    return any(of(kind) for of in (types.is_floating, types.is_integer, types.is_boolean, types.is_null))


def arrow_type(dtype: str, dimensions: int) -> pa.DataType:
    """Of a feature: a number, or a list of `dimensions` numbers where there is more than one."""
    scalar = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_()}[dtype]
    return scalar if dimensions == 1 else pa.list_(scalar, dimensions)


def _arrow_column(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind.value_type), type=kind)
    return pa.array(values[:, 0], kind)


def table(rows: Mapping[str, NDArray[Any]], schema: pa.Schema) -> pa.Table:
    """Columns [N, D] in the order and the types of `schema`."""
    columns = [_arrow_column(rows[name], schema.field(name).type) for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Column task_index, from 0, and the task itself as what pandas takes for the index."""
    index = "__index_level_0__"
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), index: pa.array(tasks, pa.string())})
    column = {"metadata": None, "pandas_type": "int64", "numpy_type": "int64"}
    words = {"metadata": None, "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": [index],
        "column_indexes": [{"name": None, "field_name": None, **words}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **column},
            {"name": None, "field_name": index, **words},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
