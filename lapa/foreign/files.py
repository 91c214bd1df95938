"""A file, or a folder of files of one kind."""

from __future__ import annotations

from pathlib import Path


def files_of(path: Path, *suffixes: str) -> list[Path]:
    """`path` itself, or what a folder holds with one of `suffixes`, in order; [] where it is of another kind."""
    if path.is_dir():
        return sorted(each for each in path.rglob("*") if each.suffix.lower() in suffixes and each.is_file())
    return [path] if path.suffix.lower() in suffixes else []


def place(file: Path, path: Path, what: str) -> str:
    """Where a row lies, as people look for it."""
    return f"{file.relative_to(path)} {what}" if path.is_dir() else what
