"""Dataclasses from what JSON keeps of `dataclasses.asdict`, strictly, with the place of what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs

T = TypeVar("T")


def decode(
    kind: type[T], record: Mapping[str, Any], *, what: str, remedy: str = "was it written by another version of giza?"
) -> T:
    """The `kind` that `record` holds; fields that it lacks take their defaults.

    Raises ValueError, which names `what`, the path and the remedy, for a field that this version does not know, one that is lacking
    and has no default, and a value of another type or without sense.
    """
    try:
        return _CONVERTER.structure(record, kind)
    except cattrs.BaseValidationError as error:
        faults = "; ".join(cattrs.transform_error(error, path="", format_exception=_reason)).replace("@ .", "@ ")
        raise ValueError(f"{what}: {faults}; {remedy}") from error


def _reason(error: BaseException, kind: type | None) -> str:
    if isinstance(error, cattrs.errors.ForbiddenExtraKeysError):
        return f"unknown field {', '.join(sorted(error.extra_fields))}"
    if isinstance(error, KeyError):
        return "lacking"
    return str(error)


def _exactly(value: Any, kind: type) -> Any:
    """`value`, where it is of that type; an int is a float, too, and a bool is no int."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
for _kind in (bool, int, float, str):
    _CONVERTER.register_structure_hook(_kind, _exactly)
_CONVERTER.register_structure_hook(Path, lambda value, _: Path(_exactly(value, str)))
