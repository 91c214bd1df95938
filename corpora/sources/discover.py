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
from corpora.sources.source import KINDS, File, Source, SourceDefaults, SourceKind

GLOB_CHARACTERS = frozenset("*?[")

for _module in pkgutil.iter_modules(corpora.sources.__path__):  # each registers its kind
    importlib.import_module(f"corpora.sources.{_module.name}")


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


def _kind_of(path: Path, *, named: bool) -> SourceKind | None:
    """The first that recognises it. `named`: as an input, not in a folder."""
    return next((kind for kind in KINDS if (named or not kind.only_named) and kind.recognises(path)), None)


def _labels(paths: Sequence[Path]) -> list[str]:
    """A prefix for the names from each folder: none for a single one, else the shortest tails that differ."""
    folders = [path for path in paths if path.is_dir() and _kind_of(path, named=True) is None]
    if len(folders) < 2:
        return [""] * len(paths)
    depth = 1
    while len({path.parts[-depth:] for path in folders}) < len(folders):
        depth += 1
    return ["/".join(path.parts[-depth:]) if path in folders else "" for path in paths]


def _one_input(
    path: Path, label: str, defaults: SourceDefaults, skipped: Counter[str], exclude: Path | None
) -> Iterator[Source]:
    if path == exclude:
        return
    kind = _kind_of(path, named=True)
    if kind is not None:
        yield from kind.sources(path, path.name, defaults)
    elif path.is_dir():
        yield from _folder(path, label, defaults, skipped, exclude)
    else:  # whoever names a file takes it for a video
        yield Source(name=path.name, group=path.name, media=File.at(path))


def _folder(
    root: Path, label: str, defaults: SourceDefaults, skipped: Counter[str], exclude: Path | None
) -> Iterator[Source]:
    def name_of(path: Path) -> str:
        return "/".join(part for part in (label, path.relative_to(root).as_posix()) if part)

    for folder, subfolders, files in os.walk(root):
        here = Path(folder)
        kind = _kind_of(here, named=False) if here not in (root, exclude) else None
        if here == exclude or kind is not None:
            subfolders.clear()
        if kind is not None:
            yield from kind.sources(here, name_of(here), defaults)
        if here == exclude or kind is not None:
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for file in sorted(files):
            kind = _kind_of(here / file, named=False)
            if kind is not None:
                yield from kind.sources(here / file, name_of(here / file), defaults)
            else:
                skipped[Path(file).suffix.lower() or "(none)"] += 1
