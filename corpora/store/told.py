"""Many of something in one sentence: each kind of fault once, with its count and one example; of long lists how many more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

KINDS = 3
"""Kinds of faults that are told with an example."""
ITEMS = 8
"""Of a list."""


def faults_told(faults: Iterable[tuple[str, str]], most: int = KINDS) -> str:
    """Of faults (where, reason): "44 such as episode 3: missing file: 3.parquet; episode 7: truncated". Reasons that differ in
    numbers or file names alone are of one kind; the commonest come first."""
    kinds: dict[str, list[str]] = {}
    for where, reason in faults:
        kind = re.sub(r"\S*[/\\]\S*|\d+(?:\.\d+)?", "#", reason)
        kinds.setdefault(kind, []).append(f"{where}: {reason}")
    order = sorted(kinds.values(), key=len, reverse=True)
    said = [f"{len(found)} such as {found[0]}" if len(found) > 1 else found[0] for found in order[:most]]
    if len(order) > most:
        said.append(f"{sum(len(found) for found in order[most:])} more of {len(order) - most} other kinds")
    return "; ".join(said)


def listed(items: Sequence[Any], most: int = ITEMS) -> str:
    """ "3, 4, 5 and 40 more"."""
    shown = ", ".join(map(str, items[:most]))
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown
