"""What a job reads, looked for before anything is loaded that takes seconds.

corpus: Path = field(metadata=READ)
policy: str = field(metadata=READ_OR_HUB)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
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
    for flag, value, hub in sorted(_read(config), key=lambda found: found[2]):  # the hub takes longer than a folder
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
    """As `expect_inputs`, of one flag's value. What may lie on the hub is asked for there by its config.json."""
    path = Path(value).expanduser()
    if str(value).startswith(HUB_PREFIX) or path.exists():
        return
    owner, _, rest = str(value).partition("/")
    on_hub = (
        hub and bool(owner and rest) and "/" not in rest and owner not in (".", "..", "~") and not Path(owner).exists()
    )
    meant = near(owner, [each.name for each in Path().iterdir() if each.is_dir()]) if on_hub else ""
    if on_hub and not meant:
        from corpora.store.hub import fetched

        fetched(value, ["config.json"])
        return
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    of_hub = f"; of the hub: hf://{value}" if meant else ""
    raise ValueError(f"--{flag} '{value}': there is no such file or folder{meant or near(path.name, beside)}{of_hub}")


def expect_words(config_type: type[Any], value_of: Callable[[str], str]) -> None:
    """As `expect_inputs`, of a job's own flags before they are parsed, but for what may lie on the hub. `value_of`: of a flag, ""
    where it is not given."""
    for field in dataclasses.fields(config_type):
        flag = field.name.replace("_", "-")
        if (
            field.metadata.get("read")
            and not field.metadata.get("hub")
            and (value := value_of(flag))
            and not url_in(value)
        ):
            expect_input(flag, value)


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
