"""WebDataset tars in video2dataset's layout: for each key a video (mp4, webm, ...), and perhaps json and txt."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from corpora.clips.shards import forget_members
from corpora.sources.source import VIDEO_SUFFIXES, File, Source, SourceDefaults, SourceKind, TarMember, register

_NOTES_LIMIT = 1 << 20
"""Larger json and txt members are no captions."""


@dataclass
class _Sample:
    key: str
    videos: list[tuple[str, int, int]] = field(default_factory=list)
    """(suffix, offset of the data, bytes)."""
    text: str = ""
    caption: str = ""


@register
class Tars(SourceKind):
    """Each video of a tar is one source, in the tar's own order; only headers and captions are read."""

    rank = 50

    def recognises(self, path: Path) -> bool:
        return path.suffix.lower() == ".tar" and not os.path.isdir(path)

    def sources(self, path: Path, name: str, defaults: SourceDefaults) -> Iterator[Source]:
        """A damaged tar yields what comes before the damage, then a source whose fault is unreadable."""
        tar = File.at(path)
        found = 0
        fault, detail = "", ""
        try:
            for sample in _samples(path, tar.stamp[0]):
                found += len(sample.videos)
                yield from _sources(sample, tar, name)
        except (tarfile.TarError, OSError, EOFError) as error:
            fault, detail = "unreadable", f"{type(error).__name__}: {error}"
        except _Truncated as error:
            fault, detail = "unreadable", str(error)
        if not fault and not found:
            fault = "empty_file" if tar.stamp[0] == 0 else "no_video_stream"
            detail = "the tar holds no video member"
        if fault:
            yield Source(name=name, group=name, media=tar, fault=fault, fault_detail=detail)


class _Truncated(Exception):
    """A member ends beyond the file."""


def _samples(path: Path, size: int) -> Iterator[_Sample]:
    """What shares a key, one after another; of a damaged tar also the sample that it breaks off in."""
    sample = _Sample("")
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                forget_members(tar)
                if not info.isfile():
                    continue
                folder, _, file = info.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if key != sample.key:
                    yield sample
                    sample = _Sample(key)
                if f".{suffix.lower()}" in VIDEO_SUFFIXES:
                    if info.offset_data + info.size > size:
                        raise _Truncated(f"{info.name} ends beyond the file")
                    sample.videos.append((suffix, info.offset_data, info.size))
                elif suffix.lower() in ("txt", "json") and info.size <= _NOTES_LIMIT:
                    member = tar.extractfile(info)
                    _note(sample, suffix.lower(), b"" if member is None else member.read())
    except (tarfile.TarError, OSError, EOFError, _Truncated):
        yield sample
        raise
    yield sample


def _note(sample: _Sample, suffix: str, data: bytes) -> None:
    text = data.decode("utf-8", errors="replace").strip()
    if suffix == "txt":
        sample.text = text
        return
    try:
        record = json.loads(text)
    except json.JSONDecodeError:
        return  # a caption that cannot be read is no reason to lose the video
    caption = record.get("caption") if isinstance(record, dict) else None
    sample.caption = caption.strip() if isinstance(caption, str) else ""


def _sources(sample: _Sample, tar: File, name: str) -> Iterator[Source]:
    for suffix, offset, size in sample.videos:
        yield Source(
            name=f"{name}/{sample.key}" + (f".{suffix}" if len(sample.videos) > 1 else ""),
            group=f"{name}/{sample.key}",
            media=TarMember(tar.path, tar.stamp, offset, size, f".{suffix.lower()}"),
            text=sample.text or sample.caption,
        )
