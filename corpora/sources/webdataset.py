"""WebDataset tars in video2dataset's layout: for each key a video (mp4, webm, ...), and perhaps json and txt."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from corpora.clips.shards import forget_members
from corpora.sources.source import VIDEO_SUFFIXES, Source
from corpora.store.files import stamp_of

_NOTES_LIMIT = 1 << 20
"""Larger json and txt members are no captions."""


@dataclass
class _Sample:
    key: str
    videos: list[tuple[str, int, int]] = field(default_factory=list)
    """(suffix, offset of the data, bytes)."""
    text: str = ""
    caption: str = ""


def read_tar(path: Path, name: str) -> Iterator[Source]:
    """Sources of one tar, in its own order; only headers and captions are read. A damaged tar yields what comes before
    the damage, then a source whose fault is unreadable."""
    stamp = stamp_of(path)
    sample: _Sample | None = None
    found = 0
    fault = ""
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                forget_members(tar)
                if not info.isfile():
                    continue
                folder, _, file = info.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if sample is None or key != sample.key:
                    if sample is not None:
                        for source in _sources(sample, path, name, stamp):
                            found += 1
                            yield source
                    sample = _Sample(key)
                if f".{suffix.lower()}" in VIDEO_SUFFIXES:
                    if info.offset_data + info.size > stamp[0]:
                        fault = f"{info.name} ends beyond the file"
                        break
                    sample.videos.append((suffix, info.offset_data, info.size))
                elif suffix.lower() in ("txt", "json") and info.size <= _NOTES_LIMIT:
                    member = tar.extractfile(info)
                    _note(sample, suffix.lower(), b"" if member is None else member.read())
    except (tarfile.TarError, OSError, EOFError) as error:
        fault = f"{type(error).__name__}: {error}"
    if sample is not None:
        for source in _sources(sample, path, name, stamp):
            found += 1
            yield source
    if fault:
        yield Source(name=name, group=name, path=str(path), stamp=stamp, fault="unreadable", fault_detail=fault)
    elif not found:
        reason = "empty_file" if stamp[0] == 0 else "no_video_stream"
        detail = "the tar holds no video member"
        yield Source(name=name, group=name, path=str(path), stamp=stamp, fault=reason, fault_detail=detail)


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


def _sources(sample: _Sample, path: Path, name: str, stamp: tuple[int, int]) -> Iterator[Source]:
    for suffix, offset, size in sample.videos:
        title = f"{name}/{sample.key}" + (f".{suffix}" if len(sample.videos) > 1 else "")
        yield Source(
            name=title,
            group=f"{name}/{sample.key}",
            path=str(path),
            stamp=stamp,
            text=sample.text or sample.caption,
            tar_offset=offset,
            tar_bytes=size,
            tar_suffix=f".{suffix.lower()}",
        )
