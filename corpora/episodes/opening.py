"""Opens the episodes of a dataset, whichever format it has."""

from __future__ import annotations

from pathlib import Path

from corpora.episodes.episode import ALL_DEMONSTRATIONS, Episodes, EpisodeSelection, named_episodes
from corpora.episodes.lerobot import read_lerobot
from corpora.episodes.rlds import is_rlds, read_rlds


def open_episodes(folder: str | Path, selection: EpisodeSelection = ALL_DEMONSTRATIONS) -> Episodes:
    """The episodes at `folder`, a LeRobot dataset (v2.0, v2.1 or v3.0) or an RLDS one, that `selection` leaves.

    An episode whose rows or images are missing or damaged is left out and listed in `faults`. Raises ValueError where the
    dataset cannot be read at all, lacks what was asked for, or has no episode left.
    """
    root = Path(folder).expanduser()
    episodes = (read_rlds if is_rlds(root) else read_lerobot)(root, selection)
    named = named_episodes(selection.episodes)
    told = {index for index, _ in episodes.faults if named is None or index in named}
    return episodes.take({*episodes.choose(selection), *told})
