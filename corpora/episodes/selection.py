"""Which episodes and columns of a dataset are used."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EpisodeSelection:
    """Which episodes and columns of a dataset; empty: all of them.

    Raises ValueError for episodes that are no list, and for demos below 0.
    """

    episodes: str = ""
    """"0:20" or "0,3,5"; empty for all."""
    demos: int = 0
    """The first N episodes of each instruction; 0 for all."""
    failures: bool = False
    """Also episodes that the dataset's next.success calls failed; they are no demonstrations."""
    cameras: tuple[str, ...] = ()
    """Video features, or their last parts ("head"); default: all that are no depth maps."""
    state: tuple[str, ...] = ()
    """Parts of the state (proprioception), columns, or dimensions ("7:14"); default: all."""
    action: tuple[str, ...] = ()
    """Parts of the action, columns, or dimensions; default: all."""
    previous_action: bool = False
    """The state also holds the last action; `relative` is then relative to it."""
    keep_idle: bool = False
    """Train also on the rows at an episode's beginning in which neither state nor action moves yet."""

    def __post_init__(self) -> None:
        named_episodes(self.episodes)
        if self.demos < 0:
            raise ValueError(f"demos {self.demos}: must be 0 (all) or more")

    @property
    def columns(self) -> EpisodeSelection:
        """The same cameras and columns of all episodes."""
        return dataclasses.replace(self, episodes="", demos=0, failures=True)

    def choose(self, indices: Sequence[int], instructions: Sequence[str]) -> list[int]:
        """Of the episodes `indices`, those that `episodes` and `demos` leave. Raises ValueError where nothing is left."""
        wanted = named_episodes(self.episodes)
        kept: list[int] = []
        seen: dict[str, int] = {}
        for index, instruction in zip(indices, instructions, strict=True):
            if wanted is not None and index not in wanted:
                continue
            seen[instruction] = seen.get(instruction, 0) + 1
            if not self.demos or seen[instruction] <= self.demos:
                kept.append(index)
        if not kept:
            raise ValueError(f"episodes '{self.episodes}', demos {self.demos}: no episode is left of {len(indices)}")
        return kept


def named_episodes(text: str) -> set[int] | None:
    """Of "0:20" or "0,3,5"; None for an empty text, which names all. Raises ValueError for a text that names none."""
    if not text:
        return None
    wanted: set[int] = set()
    for part in text.split(","):
        first, colon, last = part.strip().partition(":")
        try:
            wanted |= set(range(int(first), int(last))) if colon else {int(first)}
        except ValueError as error:
            raise ValueError(f"episodes '{text}': write 0:20 or 0,3,5") from error
    return wanted


def spans(numbers: Iterable[int]) -> tuple[str, ...]:
    """Of 0, 1, 2 and 7: "0:3" and "7", as `named_episodes` reads them."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number:
            found[-1][1] += 1
        else:
            found.append([number, number + 1])
    return tuple(f"{first}:{stop}" if stop > first + 1 else str(first) for first, stop in found)


ALL_DEMONSTRATIONS = EpisodeSelection()
"""Every episode that the dataset does not call failed."""
ALL_EPISODES = EpisodeSelection(failures=True)
