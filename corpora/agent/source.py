"""Where tracks come from: a class for each kind, known by its name.

A source of one's own is a class too:

    @register
    class Mine(TrackSource):
        name = "mine"
        ...                                          # giza track --source mine
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from corpora.agent.track import Track
from corpora.clips.corpus import Clip, Corpus
from corpora.store.inputs import READ


@dataclass(frozen=True)
class TrackSettings:
    """What decides the tracks of a corpus; of it each source takes what it needs."""

    source: str = "hands"
    """hands: people's hands by MediaPipe (extra `hands`), for which frames of 256 pixels or more are best (giza ingest --size 256);
    files: masks and points that lie in --files, and no other flag."""
    files: Path | None = field(default=None, metadata=READ)
    """Of --source files: folder of npz files, one a clip, episode or video: CLIP_ID.npz, or as the manifest has `source` or
    `group`, with .npz for the video's suffix. `giza simulate --tracks` writes such a folder; corpora/agent/track_file.py lists
    the arrays."""
    hand: Literal["any", "left", "right"] = "any"
    """Whose point counts; any: the hand that is seen the most in the clip. Masks are of all hands that are found."""
    min_confidence: float = 0.5
    """Hands of which MediaPipe is less sure are none."""
    bridge_s: float = 0.35
    """A hand that is lost for no longer than this is taken to have moved evenly meanwhile, at half the confidence."""
    mask: str = "grabcut"
    """How the mask of a hand is made. grabcut: with its forearm, by colour; sam2: with its forearm, by SAM2 (--mask-model), to
    which the hand is pointed out; hand: the hand alone, as its landmarks lie."""
    mask_model: str = ""
    """Of --mask sam2: SAM2 by hub name (facebook/sam2.1-hiera-tiny) or folder, as transformers reads it."""

    def __post_init__(self) -> None:
        if not 0 < self.min_confidence <= 1:
            raise ValueError(f"min_confidence {self.min_confidence}: must be above 0 and at most 1; try 0.5")
        if self.bridge_s < 0:
            raise ValueError(f"bridge_s {self.bridge_s}: must be at least 0 seconds; 0 bridges nothing")


class TrackSource(ABC):
    """A way to find the agent."""

    name: ClassVar[str]
    reads: ClassVar[frozenset[str] | None] = None
    """Names of the settings that it reads; None: all."""

    @abstractmethod
    def __init__(self, settings: TrackSettings, corpus: Corpus) -> None:
        """Raises ValueError where the settings, or this machine, lack what it needs."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Changes with whatever changes the tracks."""

    @abstractmethod
    def track(self, clip: Clip) -> Track:
        """Of the clip's stored frames. Raises Untracked where nothing is found, or what there is does not fit."""


_Source = TypeVar("_Source", bound=type[TrackSource])
SOURCES: dict[str, type[TrackSource]] = {}


def register(source: _Source) -> _Source:
    """Makes a source known by its name; registered again it takes the place of its older self."""
    SOURCES[source.name] = source
    return source
