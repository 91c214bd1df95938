"""WebDataset tars in video2dataset's layout: for each key a video (mp4, webm, ...), and perhaps json and txt."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from corpora.clips.shards import forget_members
from corpora.sources.files import HEAD, is_video
from corpora.sources.source import (
    UNREACHABLE,
    VIDEO_SUFFIXES,
    File,
    LeftOut,
    Source,
    SourceDefaults,
    SourceKind,
    TarMember,
    register,
)
from corpora.store.files import machine_trouble
from corpora.store.remote import here

_NOTES_LIMIT = 1 << 20
"""Larger json and txt members are no captions."""
_VIEW = re.compile(r"[A-Za-z_][\w-]*")
"""What may tell the views of one moment apart: "00001.left.mp4" and "00001.right.mp4", but not "vol. 2.mp4" nor "0.5.mp4"."""


@dataclass
class _Contents:
    """What a tar holds, in its order; where it is damaged, what could be read."""

    videos: list[tuple[str, TarMember, str]] = field(default_factory=list)
    """(member's name, where it lies, why it cannot be used)."""
    texts: dict[str, str] = field(default_factory=dict)
    """By the note's name without its suffix."""
    captions: dict[str, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    """By suffix, what is neither."""
    damage: str = ""
    unreachable: bool = False
    """Whether the damage is the machine's."""

    def text_of(self, name: str) -> str:
        """Of the note whose name is a video's up to one of its dots, the later the better."""
        while name:
            if text := self.texts.get(name) or self.captions.get(name):
                return text
            name = _before_last_dot(name)
        return ""


@register
class Tars(SourceKind):
    """Each video of a tar is one source, in the tar's own order; only headers, captions and first bytes are read."""

    rank = 50

    def recognises(self, path: Path) -> bool:
        return path.suffix.lower() == ".tar" and not os.path.isdir(path)

    def sources(self, path: Path, name: str, defaults: SourceDefaults) -> Iterator[Source | LeftOut]:
        """What is left of a damaged tar, then a source whose fault is unreadable."""
        tar, found = File.at(path), _Contents()
        try:
            with here(path).open("rb") as file:
                _read(file, tar, found)
        except (tarfile.TarError, OSError, EOFError) as error:
            found.damage = f"{type(error).__name__}: {error}"
            found.unreachable = machine_trouble(error)
        yield from (LeftOut(suffix) for suffix in found.others.elements())
        names = _unique([member for member, _, _ in found.videos])
        groups = _groups([_stem(member) for member, _, _ in found.videos], {*found.texts, *found.captions})
        for (member, place, fault), title in zip(found.videos, names, strict=True):
            yield Source(
                name=f"{name}/{title}",
                group=f"{name}/{groups[_stem(member)]}",
                media=place,
                text=found.text_of(member),
                fault="unsupported" if fault else "",
                fault_detail=fault,
            )
        if found.unreachable:
            yield Source(name=name, group=name, media=tar, fault=UNREACHABLE, fault_detail=found.damage)
        elif tar.stamp[0] == 0:
            yield Source(name=name, group=name, media=tar, fault="empty_file", fault_detail="0 bytes")
        elif found.damage:
            yield Source(name=name, group=name, media=tar, fault="unreadable", fault_detail=found.damage)
        elif not found.videos:
            detail = "the tar holds no video member"
            yield Source(name=name, group=name, media=tar, fault="no_video_stream", fault_detail=detail)


def _read(file: BinaryIO, place: File, found: _Contents) -> None:
    """Goes on behind what is no header, for tars are also joined end to end, and says where that is no padding."""
    size, end = place.stamp[0], 0

    def skip(to: int) -> None:
        file.seek(end)
        while not found.damage and (left := to - file.tell()) > 0 and (block := file.read(min(left, 1 << 20))):
            if block.strip(b"\0"):
                found.damage = f"what lies behind byte {end} is no member of a tar"

    with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as tar:
        while info := tar.next():
            forget_members(tar)
            skip(info.offset)
            held = info.size if info.isreg() else 0
            end = info.offset_data + (held + 511) // 512 * 512
            if info.offset_data + held > size:
                found.damage = found.damage or f"{info.name} ends beyond the file"
                return
            if not info.isdir():
                _sort(file, info, place, found)
        skip(size)


def _sort(file: BinaryIO, info: tarfile.TarInfo, place: File, found: _Contents) -> None:
    """Takes a member for a video, a note or something else."""
    name = re.sub(r"^(\./+)+", "", info.name)
    suffix = os.path.splitext(name)[1].lower()

    def head() -> bytes:
        return _bytes(file, info, HEAD)

    if is_video(os.path.basename(name), head) and (info.isreg() or suffix in VIDEO_SUFFIXES):
        known = suffix if suffix in VIDEO_SUFFIXES else ""
        fault = ""
        if info.issparse() or not info.isreg():
            fault = f"a {'file with holes' if info.isreg() else 'link or device'} within a tar; unpack the tar"
        found.videos.append((name, TarMember(place.path, place.stamp, info.offset_data, info.size, known), fault))
    elif suffix == ".txt" and info.size <= _NOTES_LIMIT:
        found.texts[_before_last_dot(name)] = _text(file, info)
    elif suffix == ".json" and info.size <= _NOTES_LIMIT:
        found.captions[_before_last_dot(name)] = _caption(_text(file, info))
    else:
        found.others[suffix or "(none)"] += 1


def _bytes(file: BinaryIO, info: tarfile.TarInfo, count: int) -> bytes:
    if not info.isreg():
        return b""
    file.seek(info.offset_data)
    return file.read(min(count, info.size))


def _text(file: BinaryIO, info: tarfile.TarInfo) -> str:
    return _bytes(file, info, _NOTES_LIMIT).decode("utf-8", errors="replace").strip()


def _caption(text: str) -> str:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return ""  # a caption that cannot be read is no reason to lose the video
    caption = record.get("caption") if isinstance(record, dict) else None
    return caption.strip() if isinstance(caption, str) else ""


def _before_last_dot(name: str) -> str:
    """Of a path; the dots of its folders do not count. Empty where there is none left."""
    folder, slash, file = name.rpartition("/")
    stem = file.rpartition(".")[0]
    return f"{folder}{slash}{stem}" if stem else ""


def _stem(member: str) -> str:
    """Without the suffix that makes it a video; what was known for one by its bytes keeps its whole name."""
    return os.path.splitext(member)[0] if os.path.splitext(member)[1].lower() in VIDEO_SUFFIXES else member


def _unique(members: list[str]) -> list[str]:
    """Names without suffixes where these tell nothing apart; of two members of one name the second is "name#2"."""
    stems, seen = Counter(map(_stem, members)), Counter[str]()
    names = []
    for member in members:
        name = _stem(member) if stems[_stem(member)] == 1 else member
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _groups(stems: list[str], notes: set[str]) -> dict[str, str]:
    """Views of one moment share what stands before their last dot, with a note or a video of that name, or with another
    view."""
    views = Counter(_before_last_dot(stem) for stem in set(stems) if _VIEW.fullmatch(stem.rpartition(".")[2]))
    known = {*stems, *notes}
    groups = {}
    for stem in stems:
        group = stem
        while (shorter := _before_last_dot(group)) and (
            shorter in known or (views[shorter] > 1 and _VIEW.fullmatch(group.rpartition(".")[2]))
        ):
            group = shorter
        groups[stem] = group
    return groups
