"""What a job reads, looked for before anything is loaded that takes seconds.

corpus: Path = field(metadata=READ)
policy: str = field(metadata=READ_OR_HUB)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from corpora.store.files import read_json
from corpora.store.kinds import expect_own
from corpora.store.remote import at_hand, url_in
from corpora.store.told import near, unknown_robot

Config = TypeVar("Config")
OUTPUT = "out"
"""The field of each job that names the folder it writes."""

READ: Mapping[str, bool] = MappingProxyType({"read": True})
"""Metadata of a field that names a file or folder, or several."""
READ_OR_HUB: Mapping[str, bool] = MappingProxyType({"read": True, "hub": True})
"""Likewise, or owner/name on the hub."""
ROBOT: Mapping[str, bool] = MappingProxyType({"robot": True})
"""Metadata of a field that names a robot which the policy of the field `policy` was trained on; empty: none is named."""
HUB_PREFIX = "hf:"


def with_copies(config: Config) -> Config:
    """The config with the local copies of all URLs that it reads, and of the one that it writes to. Raises as `at_hand`."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if field.metadata.get("read") or field.name == OUTPUT:
            new = tuple(map(_copy, value)) if isinstance(value, tuple) else _copy(value, field.name == OUTPUT)
        else:
            new = with_copies(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        if new is not value and new != value:
            changed[field.name] = new
    return dataclasses.replace(config, **changed) if changed else config  # type: ignore[type-var]


def _copy(value: Any, made_here: bool = False) -> Any:
    if not isinstance(value, str | Path) or not url_in(value):
        return value
    return type(value)(at_hand(value, made_here=made_here))


def expect_inputs(config: Any) -> None:
    """Raises ValueError that names the flag and the first file or folder that is not there, and what may have been meant; and for
    a robot that a policy in a folder does not know."""
    for flag, value, hub in _read(config):
        expect_input(flag, value, hub=hub)
    for field in dataclasses.fields(config):
        named = getattr(config, field.name)
        if field.metadata.get("robot") and named and config.policy:
            robots = (read_json(Path(config.policy).expanduser() / "config.json") or {}).get("robots")
            if robots is not None and named not in robots:
                raise ValueError(unknown_robot(named, robots))


def expect_output(config: Any, job: str) -> None:
    """Raises ValueError where the folder that `job` is to write to is of another kind."""
    out = getattr(config, OUTPUT, None)
    if isinstance(out, Path):
        expect_own(out.expanduser(), job)


def expect_input(flag: str, value: str | Path, *, hub: bool = False) -> None:
    """As `expect_inputs`, of one flag's value."""
    path = Path(value).expanduser()
    if str(value).startswith(HUB_PREFIX) or path.exists() or (hub and _on_the_hub(str(value))):
        return
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ValueError(f"--{flag} '{value}': there is no such file or folder{near(path.name, beside)}")


def _read(config: Any) -> Iterator[tuple[str, str | Path, bool]]:
    """(flag, value, whether it may be on the hub) of all fields that are read and given, those of parts, whose flags have no prefix,
    among them."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        flag = field.name.replace("_", "-")
        if field.metadata.get("read"):
            values = value if isinstance(value, tuple) else (value,)
            yield from ((flag, each, bool(field.metadata.get("hub"))) for each in values if each)
        elif dataclasses.is_dataclass(value):
            yield from _read(value)


def _on_the_hub(name: str) -> bool:
    """Whether it can be a repository there: "owner/name", where no folder `owner` lies here; a path is none, nor a typo in one."""
    owner, slash, rest = name.partition("/")
    return (
        bool(owner and slash and rest)
        and "/" not in rest
        and owner not in (".", "..", "~")
        and not Path(owner).exists()
    )
