"""Whether latents are giza's own."""

from __future__ import annotations

from pathlib import Path

from corpora.clips.parts import part_paths, read_footer


def is_own(path: Path) -> bool:
    """Whether `path` is a folder of latents in giza's own form; others call their parts so, too."""
    parts = part_paths(path)
    return bool(parts) and bool(read_footer(parts[0]).made)
