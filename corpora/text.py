"""Instructions as models read them: one form of the same text, and what of a text a model does not read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

from corpora.store.told import faults_told

TEXT_FORMAT = 2
"""Raised when the same text would be read otherwise. In 1 it was read as it stood, and words had no signs."""

ReadText = tuple[tuple[int, ...], int]
"""Tokens of a text, and how many more there are that are cut."""

_ALIKE = str.maketrans("\u2212\u2010\u2011\u2044", "---/")
_WORD = re.compile(r"(?<!\w)[-+]?\d+(?:\.\d+)*\w*|\w+")


def one_form(text: str, text_format: int = TEXT_FORMAT) -> str:
    """NFKC, with one minus and one slash: texts that look alike are alike."""
    return text if text_format < 2 else unicodedata.normalize("NFKC", text).translate(_ALIKE)


def words_of(text: str, text_format: int = TEXT_FORMAT) -> list[str]:
    """In small letters; a number is a word with its sign and its decimals."""
    if text_format < 2:
        return re.findall(r"\w+", text.lower())
    return _WORD.findall(one_form(text).lower())


def unread(texts: Iterable[str], read: Callable[[str], ReadText | None], reader: str) -> list[str]:
    """Sentences: how many of the texts `reader` cuts, and how many it cannot tell from another. Texts that differ in
    capitals, spaces and punctuation alone mean the same. `read`: None where it is not known what is read."""
    found: dict[tuple[int, ...], dict[str, str]] = {}
    cut: list[tuple[str, int]] = []
    each = sorted(set(texts))
    for text in each:
        seen = read(text)
        if seen is None:
            return []
        tokens, lost = seen
        if lost:
            cut.append((text, lost))
        meaning = " ".join(re.findall(r"[^\s.,;:!?\"'()]+(?:[.,:]\d+)*", one_form(text).casefold()))
        found.setdefault(tokens, {}).setdefault(meaning, text)
    said = []
    if cut:
        told = faults_told((f"'{text}'", f"{lost} tokens too long") for text, lost in cut)
        said.append(
            f"{reader} cuts {len(cut)} of {len(each)} instructions, by up to {max(n for _, n in cut)} tokens: {told}"
        )
    alike = [list(group.values()) for group in found.values() if len(group) > 1]
    if alike:
        total = sum(map(len, alike))
        said.append(
            f"{reader} reads {total} of {len(each)} instructions as the same as another, such as '{alike[0][0]}' and "
            f"'{alike[0][1]}': it cannot learn what tells them apart"
        )
    return said
