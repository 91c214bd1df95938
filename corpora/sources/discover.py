"""What there is to ingest: files, folders, globs, lists and whatever kind is registered, as a stream of sources in a fixed
order."""

from __future__ import annotations

import glob
import importlib
import os
import pkgutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import corpora.sources
from corpora.sources.source import KINDS, UNREACHABLE, File, LeftOut, Source, SourceDefaults, SourceKind
from corpora.store.files import as_utf8
from corpora.store.remote import at_hand, url_in

GLOB_CHARACTERS = frozenset("*?[")

for _module in pkgutil.iter_modules(corpora.sources.__path__):  # each registers its kind
    importlib.import_module(f"corpora.sources.{_module.name}")


def find_sources(
    inputs: Sequence[str], defaults: SourceDefaults, *, skipped: Counter[str], exclude: Path | None = None
) -> Iterator[Source]:
    """Sources of all inputs: inputs in the order given, each in alphabetical order.

    `skipped` counts, by suffix, the files of folders and tars that are no video. `exclude` is a folder not to look into (the
    output). Raises FileNotFoundError for an input that does not exist and ValueError for a list that cannot be read.
    """
    paths = expand_inputs(inputs)
    kinds = [_kind_of(path, named=True) for path in paths]
    names = _Names([path if kind is None else kind.root(path) for path, kind in zip(paths, kinds, strict=True)])
    for path, kind in zip(paths, kinds, strict=True):
        for source in _one_input(path, kind, names, defaults, skipped, exclude):
            if isinstance(source, LeftOut):
                skipped[as_utf8(source.suffix)] += 1
                continue
            if defaults.fps and source.selector:
                raise ValueError(
                    f"fps {defaults.fps:g}: {source.name} is of a dataset, whose rows say when frames were recorded; "
                    "leave it out, or ingest datasets apart"
                )
            yield replace(
                source,
                fps=source.fps or defaults.fps,
                name=as_utf8(source.name),
                group=as_utf8(source.group),
                tier=source.tier or defaults.tier or "human",
                embodiment=as_utf8(source.embodiment or defaults.embodiment),
                text=as_utf8(source.text or defaults.text),
                fault_detail=as_utf8(source.fault_detail),
            )


def expand_inputs(inputs: Sequence[str]) -> list[Path]:
    """Paths behind `~` and glob patterns, in order, each once. FileNotFoundError where there is nothing."""
    if not inputs:
        raise ValueError("no input given; name at least one file, folder, glob, .jsonl list or LeRobot dataset")
    found: dict[Path, None] = {}
    for text in inputs:
        expanded = os.path.expanduser(_copy(text))
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


def _copy(text: str) -> str:
    """An input as a path of this machine: of a URL its local copy, of a pattern of URLs in that of the folder above it."""
    url = url_in(text)
    parts = url.split("/")
    fixed = next((number for number, part in enumerate(parts) if GLOB_CHARACTERS & set(part)), len(parts))
    return str(Path(at_hand("/".join(parts[:fixed])), *parts[fixed:])) if url else text


def _kind_of(path: Path, *, named: bool) -> SourceKind | None:
    """The first that recognises it. `named`: as an input, not in a folder."""
    return next((kind for kind in KINDS if (named or not kind.only_named) and kind.recognises(path)), None)


class _Names:
    """What each path below the inputs is called: no two videos alike, and one video always the same, whichever of the
    inputs it was found by. That is its path below the input, after as much of the input's own path as tells the inputs
    apart."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = [root for root in dict.fromkeys(roots) if not set(root.parents) & set(roots)]
        self._depth = 1
        while len({root.parts[-self._depth :] for root in self._roots}) < len(self._roots):
            self._depth += 1

    def of(self, path: Path) -> str:
        root = next(root for root in self._roots if path == root or root in path.parents)
        below = path.relative_to(root).parts
        alone = len(self._roots) == 1 and (below or root.is_dir())
        return "/".join((*(() if alone else root.parts[-self._depth :]), *below)).replace("//", "/")


def _one_input(
    path: Path,
    kind: SourceKind | None,
    names: _Names,
    defaults: SourceDefaults,
    skipped: Counter[str],
    exclude: Path | None,
) -> Iterator[Source | LeftOut]:
    if path == exclude:
        return
    if kind is not None:
        yield from kind.sources(path, names.of(path) or path.name, defaults)
    elif path.is_dir():
        yield from _folder(path, names, defaults, skipped, exclude)
    else:  # whoever names a file takes it for a video
        name = names.of(path)
        yield Source(name=name, group=name, media=File.at(path))


def _folder(
    root: Path, names: _Names, defaults: SourceDefaults, skipped: Counter[str], exclude: Path | None
) -> Iterator[Source | LeftOut]:
    """Links to folders are followed, and each folder is read once."""
    refused: list[OSError] = []
    seen = {_identity(root)}
    for folder, subfolders, files in os.walk(root, onerror=refused.append, followlinks=True):
        yield from _faults(refused, names)
        here = Path(folder)
        kind = _kind_of(here, named=False) if here not in (root, exclude) else None
        if here == exclude or kind is not None:
            subfolders.clear()
        if kind is not None:
            yield from kind.sources(here, names.of(here), defaults)
        if here == exclude or kind is not None:
            continue
        subfolders[:] = sorted(_worth_reading(here, subfolders, seen, skipped))
        for file in sorted(files):
            kind = _kind_of(here / file, named=False)
            if kind is not None:
                yield from kind.sources(here / file, names.of(here / file), defaults)
            else:
                skipped[as_utf8(Path(file).suffix.lower()) or "(none)"] += 1
    yield from _faults(refused, names)


def _faults(refused: list[OSError], names: _Names) -> Iterator[Source]:
    """Of folders that cannot be read now."""
    while refused:
        error = refused.pop(0)
        path = Path(error.filename)
        name = names.of(path) or path.name
        detail = f"{type(error).__name__}: {error.strerror}"
        yield Source(name=name, group=name, media=File.at(path), fault=UNREACHABLE, fault_detail=detail)


def _worth_reading(
    here: Path, subfolders: Sequence[str], seen: set[tuple[int, int] | None], skipped: Counter[str]
) -> Iterator[str]:
    """Not what is hidden, nor what was read under another name."""
    left_out = _repeated_by_hub(here, subfolders)
    for name in sorted(subfolders):
        identity = _identity(here / name)
        if name in left_out:
            skipped["(repeated in a hub cache)"] += 1
        elif name.startswith("."):
            skipped["(hidden folder)"] += 1
        elif identity is not None and identity in seen:
            skipped["(folder already read)"] += 1
        else:
            seen.add(identity)
            yield name


def _repeated_by_hub(here: Path, subfolders: Sequence[str]) -> set[str]:
    """In a cache of the Hugging Face hub files lie in `blobs`, without names; `snapshots` link to them, one folder for each
    revision, and `refs/main` says which is current."""
    if {"blobs", "snapshots"} <= set(subfolders):
        return {"blobs", "refs"}
    current = here.parent / "refs" / "main"
    if here.name == "snapshots" and (here.parent / "blobs").is_dir() and current.is_file():
        revision = current.read_text("utf-8", errors="replace").strip()
        return set(subfolders) - {revision} if revision in subfolders else set()
    return set()


def _identity(folder: Path) -> tuple[int, int] | None:
    """(device, inode), where it can be asked for."""
    try:
        facts = folder.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
