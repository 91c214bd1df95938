"""Where tracks come from: a class for each kind, known by its name.

A source of one's own is a class too:

    @register
    class Mine(TrackSource):
        name = "mine"
        ...                                          # giza track --source mine
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

from corpora.agent.settings import TrackSettings
from corpora.agent.track import Track
from corpora.clips.corpus import Clip, Corpus


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
