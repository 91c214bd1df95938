"""Settings that nobody reads: a flag that changes nothing is refused by name, for whoever gave it believes that it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any


def given(settings: Any, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Of a config with defaults the fields (of `names`) that have another value, by name."""
    fields = {field.name: field.default for field in dataclasses.fields(settings)}
    wanted: Iterable[str] = fields if names is None else names
    return {name: getattr(settings, name) for name in wanted if getattr(settings, name) != fields[name]}


def flag(name: str) -> str:
    """As the command line has it."""
    return "--" + name.replace("_", "-")


def expect_read(settings: Any, choice: str, variants: Mapping[str, type[Any]]) -> None:
    """`settings.<choice>` names one of `variants`, classes of a registry whose `reads` names the settings that each reads (None:
    all). Raises ValueError for a setting that is given and that it does not read, with the variants that do."""
    chosen = getattr(settings, choice)
    if variants[chosen].reads is None:
        return
    for name, value in given(settings).items():
        if name != choice and name not in variants[chosen].reads:
            who = sorted(each for each, kind in variants.items() if kind.reads is None or name in kind.reads)
            others = f", or choose {flag(choice)} {' or '.join(who)}" if who else ""
            raise ValueError(
                f"{flag(name)} {value}: {flag(choice)} {chosen} does not read it, so it would change nothing; leave it out{others}"
            )
