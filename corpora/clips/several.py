"""Several corpora read as one: people's video that was painted, and the robot's own."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from corpora.clips.corpus import SHARDS, Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.survey import CorpusSurvey, widths_of_all
from corpora.store.files import digest_of
from corpora.store.told import listed
from corpora.video.view import View, view_told


def open_corpora(folders: str | Path | Sequence[str | Path]) -> Corpus:
    """The corpus of a folder, or of several. Raises ValueError as `Corpus` and `SeveralCorpora`."""
    several = [folders] if isinstance(folders, str | Path) else list(folders)
    return Corpus(several[0]) if len(several) == 1 else SeveralCorpora(several)


class SeveralCorpora(Corpus):
    """All clips of some corpora, each in its own shards.

    Raises ValueError where there are none, where their frames were made square in different ways, or two hold the same clip.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
        if not folders:
            raise ValueError("no corpus is named: give the folder of at least one")
        self._parts = [Corpus(folder) for folder in folders]
        self.root = self._parts[0].root
        """Of the first, whose caches are everybody's; a clip's shard is named by its whole path."""
        self.clips = [
            dataclasses.replace(row, shard=str((part.folder / SHARDS / row.shard).absolute()))
            for part in self._parts
            for row in part.clips
        ]
        if len({part.fit for part in self._parts}) > 1:
            made = ", ".join(f"'{part.folder}' {part.fit}" for part in self._parts)
            raise ValueError(
                f"the frames of these corpora were made square in different ways ({made}): ingest them alike"
            )
        twice = [name for name, count in Counter(row.clip_id for row in self.clips).items() if count > 1]
        if twice:
            holders = listed(
                [f"'{part.folder}'" for part in self._parts if twice[0] in {r.clip_id for r in part.clips}], 3
            )
            raise ValueError(
                f"{len(twice)} clips are in more than one of the corpora, {twice[0]} in {holders}: a painted corpus has the "
                "clips of the one that it was painted from; give one of them"
            )

    @property
    def parts(self) -> Sequence[Corpus]:
        return self._parts

    @property
    def folder(self) -> Path:
        raise ValueError(
            f"{self} are several corpora, which lie in no one folder: give one after the other, or, where several are taken, "
            "the list of their folders"
        )

    @cached_property
    def summary(self) -> dict[str, Any]:
        raise ValueError(f"{self} are several corpora, each with its own ingest.json: see the parts' summary")

    def rows(self) -> Iterator[ClipRow]:
        return itertools.chain.from_iterable(part.rows() for part in self._parts)

    def survey(self) -> CorpusSurvey:
        return CorpusSurvey.together([part.survey() for part in self._parts])

    @cached_property
    def identity(self) -> str:
        return digest_of(*sorted(part.identity for part in self._parts))

    @property
    def fit(self) -> str:
        return self._parts[0].fit

    @property
    def view(self) -> View | None:
        """Of all. Raises ValueError where they differ."""
        if len({part.view for part in self._parts}) > 1:
            told = "; ".join(f"'{part.folder}': {view_told(part.view)}" for part in self._parts)
            raise ValueError(f"the pictures of these corpora are not alike ({told}): paint them alike")
        return self._parts[0].view

    @cached_property
    def truth_features(self) -> dict[str, int]:
        return widths_of_all(part.truth_features for part in self._parts)
