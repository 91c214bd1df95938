"""A card: README.md of what is saved, which the Hugging Face hub reads as well: a header, what it is, how to use it, numbers,
limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.store.files import write_text

if TYPE_CHECKING:
    from huggingface_hub import CardData

CARD = "README.md"


def write_card(
    folder: Path,
    header: CardData,
    title: str,
    *,
    about: Sequence[str] = (),
    usage: Sequence[str] = (),
    facts: Mapping[str, Any],
    sections: Mapping[str, str],
    limits: Sequence[str],
) -> None:
    """`about`: paragraphs; `usage`: lines of Python; `facts`: rows of a table; `sections`: title -> Markdown; `limits`: sentences."""
    parts = [f"---\n{header.to_yaml()}\n---", f"# {title}", *about]
    if usage:
        parts.append("\n".join(["```python", *usage, "```"]))
    parts.append("\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]))
    parts += [f"## {name}\n\n{text}" for name, text in sections.items() if text]
    if limits:
        parts.append("## Limits\n\n" + "\n".join(f"- {sentence}" for sentence in limits))
    write_text(folder / CARD, "\n\n".join(parts) + "\n")
