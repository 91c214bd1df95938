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
    """`settings.<choice>` names one of `variants`, classes of a registry, each of which names in its own `reads` the settings that
    it reads (none, or None: all). Raises ValueError for a setting that is given and that it does not read, with the variants
    that do."""
    chosen = getattr(settings, choice)
    reads = {
        each: vars(kind).get("reads") for each, kind in variants.items()
    }  # what a base says is not a subclass' word
    if (own := reads[chosen]) is None:
        return
    for name, value in given(settings).items():
        if name != choice and name not in own:
            who = sorted(each for each, of in reads.items() if of is None or name in of)
            others = f", or choose {flag(choice)} {' or '.join(who)}" if who else ""
            raise ValueError(
                f"{flag(name)} {value}: {flag(choice)} {chosen} does not read it, so it would change nothing; leave it out{others}"
            )
