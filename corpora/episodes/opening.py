"""Opens the episodes of a dataset, whichever format it has: a format is one entry of `FORMATS`."""

from __future__ import annotations

import hashlib
import importlib
import logging
from dataclasses import dataclass
from pathlib import Path

from corpora.episodes.episode import Episodes
from corpora.episodes.idle import with_idle
from corpora.episodes.modality import none_known
from corpora.episodes.selection import ALL_DEMONSTRATIONS, EpisodeSelection, named_episodes
from corpora.store.remote import at_hand
from corpora.store.told import warn_once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpisodeFormat:
    """A format that episodes lie in."""

    name: str
    marks: tuple[str, ...]
    """Files that a folder of this format has."""
    reader: str
    """ "module:function" of (root, selection) -> all of its Episodes; imported when it is needed."""
    metadata: str
    """Folder of the files that tell datasets apart."""
    pattern: str
    """Which of them."""
    contents: tuple[str, ...] = ()
    """Patterns of its data files."""

    def holds(self, folder: Path) -> bool:
        """Whether `folder` is of this format."""
        return all((folder / mark).is_file() for mark in self.marks)

    def read(self, root: Path, selection: EpisodeSelection) -> Episodes:
        """All episodes, with the cameras and columns of `selection`. Raises ValueError as `open_episodes`."""
        module, _, function = self.reader.partition(":")
        episodes = getattr(importlib.import_module(module), function)(root, selection)
        assert isinstance(episodes, Episodes)
        return episodes


LEROBOT = EpisodeFormat(
    "LeRobot",
    ("meta/info.json",),
    "corpora.episodes.lerobot_reader:read_lerobot",
    "meta",
    "**/*",
    ("**/*.parquet", "**/*.mp4"),
)
RLDS = EpisodeFormat(
    "RLDS",
    ("features.json", "dataset_info.json"),
    "corpora.episodes.rlds:read_rlds",
    ".",
    "*.json",
    ("*.tfrecord*",),
)
FORMATS = [LEROBOT, RLDS]
"""In the order in which they are looked for."""


def is_dataset(folder: Path) -> bool:
    """Whether `folder` is of a format that is known."""
    return any(known.holds(folder) for known in FORMATS)


def format_of(folder: Path) -> EpisodeFormat:
    """Raises ValueError for a folder of none."""
    for known in FORMATS:
        if known.holds(folder):
            return known
    marks = ", or ".join(f"{' and '.join(known.marks)} ({known.name})" for known in FORMATS)
    raise ValueError(f"'{folder}' is no dataset of episodes: it lacks {marks}")


def open_episodes(folder: str | Path, selection: EpisodeSelection = ALL_DEMONSTRATIONS) -> Episodes:
    """The episodes at `folder`, a LeRobot dataset (v2.0, v2.1 or v3.0) or an RLDS one, that `selection` leaves.

    An episode whose rows or images are missing or damaged is left out and listed in `faults`. Raises ValueError where the
    dataset cannot be read at all, lacks what was asked for, or has no episode left.
    """
    root = at_hand(folder).expanduser()
    episodes = with_idle(format_of(root).read(root, selection))
    _tell_of_columns(episodes, selection)
    if selection.previous_action:
        episodes = episodes.with_previous_action()
    named = named_episodes(selection.episodes)
    damaged = {index for index, _ in episodes.faults if named is None or index in named}
    return episodes.take({*episodes.choose(selection), *damaged})


def _tell_of_columns(episodes: Episodes, selection: EpisodeSelection) -> None:
    """Where several were joined, or none was found, and nobody named them."""
    if (episodes.root / "meta" / "modality.json").is_file():
        return
    taken = {part.column for part in (*episodes.state_parts, *episodes.action_parts)}
    spare = [column for column in episodes.modality.columns if column not in taken]
    for kind, wanted, parts in (
        ("state", selection.state, episodes.state_parts),
        ("action", selection.action, episodes.action_parts),
    ):
        columns = list(dict.fromkeys(part.column for part in parts))
        if len(columns) > 1 and not wanted:
            made = f"is made of the columns {columns}; --{kind} chooses among them"
            warn_once(log, f"dataset '{episodes.name}': its {kind} {made}")
        if kind == "state" and not parts and spare:
            warn_once(log, f"{none_known(kind, episodes.name, spare)}; it is read without a state")


def dataset_fingerprint(folder: str | Path) -> str:
    """Of a dataset's metadata, wherever it lies: which dataset it is, also where rows or videos were mended since (see
    `contents_fingerprint`). Raises ValueError where there is none."""
    root = Path(folder).expanduser()
    found = format_of(root)
    base = root / found.metadata
    digest = hashlib.sha256()
    for path in sorted(path for path in base.glob(found.pattern) if path.is_file()):
        digest.update(path.relative_to(base).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
