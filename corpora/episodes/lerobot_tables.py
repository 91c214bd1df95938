"""Arrow tables as LeRobot v3.0 lays them out: vectors as lists of fixed length, statistics as flat columns, tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray


def arrow_type(dtype: str, dimensions: int) -> pa.DataType:
    """Of a feature: a number, or a list of `dimensions` numbers where there is more than one."""
    scalar = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}[dtype]
    return scalar if dimensions == 1 else pa.list_(scalar, dimensions)


def _arrow_column(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind.value_type), type=kind)
    return pa.array(values[:, 0], kind)


def table(rows: Mapping[str, NDArray[Any]], schema: pa.Schema) -> pa.Table:
    """Columns [N, D] in the order and the types of `schema`."""
    columns = [_arrow_column(rows[name], schema.field(name).type) for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """{"stats/action": {"min": ...}} -> {"stats/action/min": ...}; other entries stay."""
    columns: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            columns |= {f"{key}/{inner}": item for inner, item in value.items()}
        else:
            columns[key] = value
    return columns


def tasks_table(tasks: Mapping[str, int]) -> pa.Table:
    """Column task_index, and the task itself as what pandas takes for the index."""
    index = "__index_level_0__"
    table = pa.table({"task_index": pa.array([*tasks.values()], pa.int64()), index: pa.array([*tasks], pa.string())})
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
