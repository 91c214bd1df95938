"""Sentences of messages: each kind of fault once, with its count and one example; of long lists how many more; and what a wrong
word was meant to be."""

from __future__ import annotations

import difflib
import functools
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

KINDS = 3
"""Kinds of faults that are told with an example."""
ITEMS = 8
"""Of a list."""


def faults_told(faults: Iterable[tuple[str, str]]) -> str:
    """Of faults (where, reason): "44 such as episode 3: missing file: 3.parquet; episode 7: truncated". Reasons that differ in
    numbers, file names or words with digits alone are of one kind; the commonest come first."""
    kinds: dict[str, list[str]] = {}
    for where, reason in faults:
        kind = re.sub(r"\S*[/\\\d]\S*", "#", reason)
        kinds.setdefault(kind, []).append(f"{where}: {reason}")
    order = sorted(kinds.values(), key=len, reverse=True)
    said = [f"{len(found)} such as {found[0]}" if len(found) > 1 else found[0] for found in order[:KINDS]]
    if len(order) > KINDS:
        said.append(f"{sum(len(found) for found in order[KINDS:])} more of {len(order) - KINDS} other kinds")
    return "; ".join(said)


@functools.cache
def warn_once(log: logging.Logger, text: str) -> None:
    """However often a dataset is opened."""
    log.warning("%s", text)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest to a wrong one; "" where none is near."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), "")


def near(word: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the nearest, or nothing."""
    found = nearest(word, known)
    return f" (did you mean '{found}'?)" if found else ""


def misspelt(robot: str, known: Iterable[str]) -> str:
    """As `near`, of a robot's name: one with other words, or whose words with digits differ (unitree_h1, gr2), is another robot."""
    words = robot.split("_")
    pairs = {
        name: list(zip(name.split("_"), words, strict=False)) for name in known if name.count("_") + 1 == len(words)
    }
    alike = [name for name, found in pairs.items() if all(a == b or not re.search(r"\d", a + b) for a, b in found)]
    return near(robot, alike)


def unknown_robot(name: str, known: Iterable[str]) -> str:
    """Of a robot that a policy was not trained on."""
    known = list(known)
    meant = misspelt(name, known)
    remedy = "" if meant else f"; ground it first with giza ground --embodiment {name or 'NAME'}"
    return f"embodiment '{name}'{meant}: this policy was trained on {', '.join(known) or 'none'}{remedy}"


def closest(name: str, known: Iterable[str]) -> str:
    """`"Did you mean 'x'? "` for the nearest, or nothing; then the known names."""
    found = nearest(name, known := list(known))
    return (f"Did you mean '{found}'? " if found else "") + "Known: " + ", ".join(known) + "."


def listed(items: Sequence[Any], most: int = ITEMS) -> str:
    """ "3, 4, 5 and 40 more"."""
    shown = ", ".join(map(str, items[:most]))
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown


def not_compiled(flag: str, error: Exception) -> str:
    """In a line: what torch.compile, which `flag` asked for, failed at."""
    reason = " ".join(str(error).split("\n\n")[0].split())[:200]
    return f"--{flag}: torch.compile failed ({reason}); leave the flag out, or see to it that there is a C++ compiler (g++)"
