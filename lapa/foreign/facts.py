"""Where latents are from that another trainer wrote, and which of its rows came of no use: what a report says of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lapa.foreign.place import NO_CLIP, NO_VIDEO, SEVERAL
from lapa.foreign.row import NO_GAP, Bad

REMEDIES = {
    NO_VIDEO: "ingest those videos with the rest: giza ingest VIDEOS",
    NO_CLIP: "give the corpus that has these clip ids, or name videos instead",
    NO_GAP: "say it of all rows with --foreign.gap-s",
    SEVERAL: "name them by more of their path, or --foreign.dataset and --foreign.camera",
}
"""Fault -> what to do."""


@dataclass(frozen=True)
class Fault:
    """Rows that were left out for one reason."""

    reason: str
    rows: int
    example: str
    """One of them."""

    def __str__(self) -> str:
        remedy = REMEDIES.get(self.reason)
        what = f"{self.rows:,} rows: a row that {self.reason} (such as {self.example})"
        return f"{what}; {remedy}" if remedy else what


@dataclass(frozen=True)
class ForeignFacts:
    """Of one file or folder."""

    path: str
    format: str
    rows: int
    """That it holds."""
    pairs: int
    """That found their frames in the corpus."""
    faults: tuple[Fault, ...]
    """The commonest first."""
    one_hot: bool
    """Whether its rows have codes alone, which are then read as one-hot vectors."""
    codebook_size: int
    """0 without codes."""
    codebook_told: bool
    """Whether the settings or the format say it; else it is the largest code and one."""

    @property
    def told(self) -> list[str]:
        """In sentences."""
        said = [f"{self.path} ({self.format}): {self.pairs:,} of {self.rows:,} rows are pairs of this corpus."]
        if self.one_hot:
            said.append("Its rows hold codes and no vectors: a code is read as a one-hot vector.")
        if self.codebook_size and not self.codebook_told:
            said.append(
                f"The size of its codebook is not told, and taken to be {self.codebook_size}, the largest code and one; "
                "--foreign.codebook-size says it."
            )
        return [*said, *(f"Left out: {fault}." for fault in self.faults)]


def faults_of(bad: Iterable[Bad]) -> tuple[Fault, ...]:
    """Counted by reason."""
    by_reason: dict[str, list[Bad]] = {}
    for one in bad:
        by_reason.setdefault(one.reason, []).append(one)
    counted = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    return tuple(
        Fault(reason, len(found), f"{found[0].where}: {found[0].detail}" if found[0].detail else found[0].where)
        for reason, found in counted
    )
