"""Tracks from files: see corpora.agent.track_file."""

from __future__ import annotations

import json
from pathlib import Path

from corpora.agent.settings import TrackSettings
from corpora.agent.source import TrackSource, register
from corpora.agent.track import Track, Untracked
from corpora.agent.track_file import TrackFile
from corpora.clips.corpus import Clip, Corpus
from corpora.clips.manifest import ClipRow
from corpora.store.files import digest_of


@register
class TrackFiles(TrackSource):
    """A file for a clip, or for the video or episode that it is cut from. A clip without a file has no track."""

    name, reads = "files", frozenset({"files"})

    def __init__(self, settings: TrackSettings, corpus: Corpus) -> None:
        if settings.files is None:
            raise ValueError("--source files: name the folder of the npz files, --files FOLDER")
        self._folder = settings.files.expanduser()
        self._names = {
            path.relative_to(self._folder).as_posix(): path.stat().st_size for path in self._folder.rglob("*.npz")
        }
        if not self._names:
            raise ValueError(f"--files '{settings.files}': holds no .npz file")
        self._crop = corpus.fit == "crop"
        self._held: tuple[str, TrackFile] | None = None

    @property
    def identity(self) -> str:
        return digest_of("files", json.dumps(self._names, sort_keys=True))

    def track(self, clip: Clip) -> Track:
        row = clip.row
        known = candidates(row)
        name = next((name for name in known if name in self._names), None)
        if name is None:
            raise Untracked("no_file", f"none of {', '.join(known)}")
        if self._held is None or self._held[0] != name:
            self._held = name, TrackFile.read(self._folder / name)
        track = self._held[1].at(clip.t_s, (row.size, row.size), row.width / row.height, crop=self._crop)
        if not track.mask.any():
            raise Untracked("no_agent", f"{name} has no mask within {clip.t_s[0]:.2f} to {clip.t_s[-1]:.2f} s")
        return track


def candidates(row: ClipRow) -> list[str]:
    """Names of the file of a clip, the nearest first."""
    names = [row.clip_id, row.source, str(Path(row.source).with_suffix("")), row.group]
    names.append(str(Path(row.group).with_suffix("")))
    return [f"{name}.npz" for name in dict.fromkeys(names)]
