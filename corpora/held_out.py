"""Which groups of a dataset (source videos, episodes) are held out: one rule for every job, so that what one trains on and
what another holds out stay apart."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable

HELD_OUT = 1
"""Raised when the same names would be held out otherwise."""
_SLACK = 1e-9
"""0.14 * 100 is a little more than 14."""


def place_of(name: str, seed: int) -> float:
    """In [0, 1), a hash of the two alone."""
    digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def hold_out(names: Iterable[str], share: float, seed: int, *, trained: Collection[str] = ()) -> set[str]:
    """About a `share` of the names: at least one where there are two, never all.

    Held out is a name whose place, a hash of itself, is below `share`, whatever the other names are: two datasets that share
    names, or one before and after some are removed or added, hold out the same ones of those that both have. Only where chance
    puts fewer than half, or more than one and a half times, of the share below it, the nearest in the order of places
    change sides, as many as that takes.

    `trained`: names that are trained on in any case, and whose others are not: the others alone are held out, if need be all.
    """
    everything = set(names)
    places = {name: place_of(name, seed) for name in everything.difference(trained)}
    wished = share * len(everything)
    least, most = max(1, math.ceil(wished / 2 - _SLACK)), max(1, math.floor(1.5 * wished + _SLACK))
    room = len(places) if trained else len(places) - 1
    below = sum(place < share for place in places.values())
    count = min(max(below, least), most, room) if share > 0 else 0
    return set(sorted(places, key=places.__getitem__)[: max(count, 0)])
