"""What there is to ingest: files, folders, globs and JSONL lists, as a stream of sources in a fixed order.

WebDataset tars and LeRobot datasets are recognised on the way (`webdataset_source.py`, `lerobot_reader.py`).
"""

from __future__ import annotations

import glob
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corpora.clips.manifest import TIERS
from corpora.episodes.lerobot import read_lerobot
from corpora.sources.source import VIDEO_SUFFIXES, Source
from corpora.sources.webdataset import read_tar
from corpora.store.files import stamp_of

GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True)
class SourceDefaults:
    """What applies to sources of which no list says otherwise."""

    tier: str = ""
    embodiment: str = ""
    text: str = ""
    cameras: tuple[str, ...] = ()
    """Cameras of LeRobot datasets; empty: all."""


def find_sources(
    inputs: Sequence[str], defaults: SourceDefaults, *, skipped: Counter[str], exclude: Path | None = None
) -> Iterator[Source]:
    """Sources of all inputs: inputs in the order given, each in alphabetical order.

    `skipped` counts, by suffix, the files of folders that are no video. `exclude` is a folder not to look into (the
    output). Raises FileNotFoundError for an input that does not exist and ValueError for a list that cannot be read.
    """
    paths = expand_inputs(inputs)
    labels = _labels(paths)
    for path, label in zip(paths, labels, strict=True):
        for source in _one_input(path, label, defaults, skipped, exclude):
            yield replace(
                source,
                tier=source.tier or defaults.tier or "human",
                embodiment=source.embodiment or defaults.embodiment,
                text=source.text or defaults.text,
            )


def expand_inputs(inputs: Sequence[str]) -> list[Path]:
    """Paths behind `~` and glob patterns, in order, each once. FileNotFoundError where there is nothing."""
    if not inputs:
        raise ValueError("no input given; name at least one file, folder, glob, .jsonl list or LeRobot dataset")
    found: dict[Path, None] = {}
    for text in inputs:
        expanded = os.path.expanduser(text)
        if os.path.lexists(expanded):
            found[Path(os.path.abspath(expanded))] = None
            continue
        matches = sorted(glob.glob(expanded, recursive=True)) if GLOB_CHARACTERS & set(expanded) else []
        if not matches:
            rule = (
                "no file matches this pattern" if GLOB_CHARACTERS & set(expanded) else "there is no such file or folder"
            )
            raise FileNotFoundError(
                f"input '{text}': {rule}; give existing paths (quote a glob to have it expanded here)"
            )
        for match in matches:
            found[Path(os.path.abspath(match))] = None
    return list(found)


def _labels(paths: Sequence[Path]) -> list[str]:
    """A prefix for the names from each folder: none for a single one, else the shortest tails that differ."""
    folders = [path for path in paths if path.is_dir() and not is_lerobot(path)]
    if len(folders) < 2:
        return [""] * len(paths)
    depth = 1
    while len({path.parts[-depth:] for path in folders}) < len(folders):
        depth += 1
    return ["/".join(path.parts[-depth:]) if path in folders else "" for path in paths]


def _one_input(
    path: Path, label: str, defaults: SourceDefaults, skipped: Counter[str], exclude: Path | None
) -> Iterator[Source]:
    if path.is_dir():
        yield from _folder(path, label, defaults, skipped, exclude)
    elif path.suffix.lower() == ".jsonl":
        yield from _listed(path)
    else:
        yield from _file(path, path.name)


def _folder(
    root: Path, label: str, defaults: SourceDefaults, skipped: Counter[str], exclude: Path | None
) -> Iterator[Source]:
    def name_of(path: Path) -> str:
        inner = path.relative_to(root).as_posix()
        return "/".join(part for part in (label, "" if inner == "." else inner) if part)

    for folder, subfolders, files in os.walk(root):
        here = Path(folder)
        if exclude is not None and here == exclude:
            subfolders.clear()
            continue
        if is_lerobot(here):
            subfolders.clear()
            for source in read_lerobot(here, name_of(here) or root.name, cameras=defaults.cameras):
                # What the dataset suggests gives way to what was asked for, unlike the lines of a list.
                yield replace(
                    source,
                    tier=defaults.tier or source.tier,
                    embodiment=defaults.embodiment or source.embodiment,
                )
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for file in sorted(files):
            path = here / file
            if path.suffix.lower() == ".tar" or is_video(path):
                yield from _file(path, name_of(path))
            else:
                skipped[path.suffix.lower() or "(none)"] += 1


def _file(path: Path, name: str) -> Iterator[Source]:
    if path.suffix.lower() == ".tar":
        yield from read_tar(path, name)
    else:
        yield Source(name=name, group=name, path=str(path), stamp=stamp_of(path))


_LIST_FIELDS = {"path", "start", "end", "start_s", "end_s", "text", "tier", "embodiment"}


def _listed(list_path: Path) -> Iterator[Source]:
    """Sources of a JSONL list; paths are relative to the list, times in seconds."""
    with list_path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{list_path} line {number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: not JSON ({error}); write one object a line") from error
            yield _list_entry(record, list_path, where)


def _list_entry(record: Any, list_path: Path, where: str) -> Source:
    if not isinstance(record, dict) or not isinstance(record.get("path"), str):
        raise ValueError(f'{where}: {str(record)[:80]} has no "path"; write {{"path": "video.mp4", ...}}')
    unknown = set(record) - _LIST_FIELDS
    if unknown:
        raise ValueError(f"{where}: unknown fields {sorted(unknown)}; known: {sorted(_LIST_FIELDS)}")
    start, end = (record.get(name, record.get(f"{name}_s")) for name in ("start", "end"))
    for label, value in (("start", start), ("end", end)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise ValueError(f"{where}: {label} {value!r} is no time; give seconds from the video's beginning")
    if end is not None and end <= (start or 0):
        raise ValueError(f"{where}: end {end} is not after start {start or 0}; give both in seconds")
    tier = str(record.get("tier") or "")
    check_tier(tier, where)
    path = Path(os.path.expanduser(record["path"]))
    path = path if path.is_absolute() else list_path.parent / path
    exists = os.path.lexists(path)
    return Source(
        name=record["path"],
        group=record["path"],
        path=str(path),
        stamp=stamp_of(path) if exists else (0, 0),
        start_s=float(start or 0.0),
        end_s=None if end is None else float(end),
        text=str(record.get("text") or ""),
        tier=tier,
        embodiment=str(record.get("embodiment") or ""),
        fault="" if exists else "missing_file",
        fault_detail="" if exists else where,
    )


def check_tier(tier: str, where: str) -> None:
    """ValueError unless `tier` is empty or one of the four."""
    if tier and tier not in TIERS:
        raise ValueError(f"{where}: tier '{tier}' is unknown; use one of {', '.join(TIERS)}")


def is_lerobot(folder: Path) -> bool:
    """Whether `folder` is a LeRobot dataset."""
    return (folder / "meta" / "info.json").is_file()


def is_video(path: Path) -> bool:
    """By its suffix or, for regular files, by its first bytes."""
    if path.name.startswith("._"):  # what macOS leaves beside files on foreign disks
        return False
    if path.suffix.lower() in VIDEO_SUFFIXES:
        # ".ts" is TypeScript far more often than a transport stream.
        return path.suffix.lower() != ".ts" or _first_bytes(path, 1) == b"G"
    head = _first_bytes(path, 16)
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat")
        or head.startswith(
            (b"\x1aE\xdf\xa3", b"GIF87a", b"GIF89a", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")
        )
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
    )


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""  # a pipe would block
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""
