"""Which groups of a dataset (source videos, episodes) are held out: one rule for every job, so that what one trains on and
what another holds out stay apart."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corpora.episodes.episode import Episode

log = logging.getLogger(__name__)

HELD_OUT = 2
"""Raised when the same names would be held out otherwise."""
NO_TASKS: Mapping[str, Collection[str]] = MappingProxyType({})
_ONE_TASK = ("",)
_SLACK = 1e-9
"""0.14 * 100 is a little more than 14."""


def place_of(name: str, seed: int) -> float:
    """In [0, 1), a hash of the two alone."""
    digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def hold_out(
    names: Iterable[str],
    share: float,
    seed: int,
    *,
    trained: Collection[str] = (),
    tasks: Mapping[str, Collection[str]] = NO_TASKS,
) -> set[str]:
    """About a `share` of the names: at least one where there are two, never all.

    Held out is a name whose place, a hash of itself, is below `share`, whatever the other names are: two datasets that share
    names, or one before and after some are removed or added, hold out the same ones of those that both have. Only where chance
    puts fewer than half, or more than one and a half times, of the share below it, the nearest in the order of places
    change sides, as many as that takes.

    `tasks`: of each name; of the names of a task at least one is trained on. `trained`: names that are trained on in any
    case, and whose others are not: the others alone are held out, if need be all.
    """
    everything = set(names)
    places = {name: place_of(name, seed) for name in everything.difference(trained)}
    wished = share * len(everything)
    least, most = max(1, math.ceil(wished / 2 - _SLACK)), max(1, math.floor(1.5 * wished + _SLACK))
    left = Counter(task for name in places for task in tasks.get(name, _ONE_TASK))
    held: set[str] = set()
    for name in sorted(places, key=places.__getitem__) if share > 0 else ():
        if len(held) >= most or (places[name] >= share and len(held) >= least):
            break
        mine = tasks.get(name, _ONE_TASK)
        if trained or all(left[task] > 1 for task in mine):
            held.add(name)
            left.subtract(mine)
    return held


def hold_out_episodes(
    episodes: Iterable[Episode], share: float, seed: int, *, trained: Collection[str] = (), title: str
) -> set[str]:
    """Groups of the episodes that are held out: as `hold_out`, of the episodes of each instruction at most all but one.
    Warns, beginning with `title`, of instructions that have one episode, none of which can be held out."""
    tasks = {episode.group: set(episode.instructions) for episode in episodes}
    held = hold_out(tasks, share, seed, trained=trained, tasks=tasks)
    counts = Counter(task for mine in tasks.values() for task in mine)
    once = sorted(task for task, count in counts.items() if count == 1)
    if once and share > 0 and not trained:
        log.warning(
            "%s: %d of %d instructions (such as '%s') have one episode each, which is trained on; %s",
            title,
            len(once),
            len(counts),
            once[0],
            "no held-out loss is of these tasks"
            if held
            else "so nothing is held out, unless episodes are named for it",
        )
    return held
