"""What a corpus holds, and why the rest of its videos is not in it: how rows are counted for ingest.json, and what that says."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corpora.clips.manifest import ClipRow

REMEDIES = {
    "too_short": "lower --min-clip-s",
    "too_small": "lower --quality.min-side",
    "too_dark": "lower --quality.min-luma",
    "blurred": "lower --quality.min-blur",
    "static": "lower --quality.min-change or --quality.min-moving-share",
    "frozen": "lower --quality.min-moving-share",
}
"""Reason -> what to do about it; of the others the manifest's column `detail` tells more."""


class Counts:
    """Counts and hours of the rows that went by, for ingest.json."""

    def __init__(self) -> None:
        self._cells: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0, 0.0]))
        self.sources = 0
        self.retry = Counter[str]()
        self.truth_features: dict[str, int] = {}
        self.noted = 0
        self.note = ""

    def add(self, row: ClipRow) -> None:
        self._count("reasons", row.reason or "kept", row)
        if row.kept:
            self._count("tiers", row.tier, row)
            self._count("embodiments", row.embodiment or "unknown", row)
            self._count("decoders", row.decoder, row)
            self._count("codecs", row.codec, row)

    def add_truth(self, row: ClipRow, features: Mapping[str, int], note: str) -> None:
        """Of a clip that is kept. `note`: what is odd about its ground truth."""
        self.truth_features = widths_of_all((self.truth_features, features))
        if note:
            self.noted += 1
            self.note = self.note or f"{row.source}: {note}"

    def _count(self, table: str, name: str, row: ClipRow) -> None:
        cell = self._cells[table][name]
        cell[0] += 1
        cell[1] += row.seconds / 3600

    def to_json(self) -> dict[str, Any]:
        tables = {
            table: {name: {"count": int(cell[0]), "hours": round(cell[1], 6)} for name, cell in sorted(cells.items())}
            for table, cells in sorted(self._cells.items())
        }
        kept = tables.get("reasons", {}).get("kept", {"count": 0, "hours": 0.0})
        hours = sum(cell["hours"] for cell in tables.get("reasons", {}).values())
        return {
            "sources": self.sources,
            "clips": kept["count"],
            "hours": kept["hours"],
            "hours_seen": round(hours, 6),
            "retry": dict(sorted(self.retry.items())),
            "truth_features": dict(sorted(self.truth_features.items())),
            "truth_notes": {"clips": self.noted, "first": self.note},
            **{name: tables.get(name, {}) for name in ("reasons", "tiers", "embodiments", "decoders", "codecs")},
        }


@dataclass(frozen=True)
class Count:
    """Of clips or of candidates."""

    count: int
    hours: float

    def __add__(self, other: Count) -> Count:
        return Count(self.count + other.count, self.hours + other.hours)


@dataclass(frozen=True)
class CorpusSurvey:
    """Counts and hours of a corpus; printed, it is a table."""

    sources: int
    """Videos that were looked at, those of which nothing was kept among them."""
    kept: Count
    dropped: dict[str, Count]
    """Reason -> candidates, the commonest first."""
    tiers: dict[str, Count]
    """Of what was kept, as are the others."""
    embodiments: dict[str, Count]
    truth_features: dict[str, int]
    """Feature -> dimension, where there is ground truth."""

    @property
    def nothing_kept(self) -> str:
        """Why a corpus has no clip, and what to do about it."""
        counts = {reason: each.count for reason, each in self.dropped.items()}
        remedy = REMEDIES.get(next(iter(counts), ""), "see the column `detail` of manifest.parquet")
        return f"no clips were kept: {listed(counts)}; {remedy}, and ingest again with another --out"

    @staticmethod
    def of(summary: Mapping[str, Any]) -> CorpusSurvey:
        """Of ingest.json."""
        tables = {name: _counts(summary[name]) for name in ("reasons", "tiers", "embodiments")}
        kept = tables["reasons"].pop("kept", Count(0, 0.0))
        return CorpusSurvey(
            int(summary["sources"]),
            kept,
            tables["reasons"],
            tables["tiers"],
            tables["embodiments"],
            dict(summary.get("truth_features", {})),
        )

    @staticmethod
    def together(surveys: Sequence[CorpusSurvey]) -> CorpusSurvey:
        """Of several corpora."""

        def merged(tables: Iterable[Mapping[str, Count]]) -> dict[str, Count]:
            found: dict[str, Count] = {}
            for name, count in itertools.chain.from_iterable(table.items() for table in tables):
                found[name] = found.get(name, Count(0, 0.0)) + count
            return _commonest_first(found)

        return CorpusSurvey(
            sum(each.sources for each in surveys),
            sum((each.kept for each in surveys), Count(0, 0.0)),
            merged(each.dropped for each in surveys),
            merged(each.tiers for each in surveys),
            merged(each.embodiments for each in surveys),
            widths_of_all(each.truth_features for each in surveys),
        )

    def __str__(self) -> str:
        lines = [f"{self.sources} sources, {self.kept.count} clips, {self.kept.hours:.3f} h"]
        for title, counts in (("dropped", self.dropped), ("tier", self.tiers), ("embodiment", self.embodiments)):
            lines += [f"{title:<12}{name:<20}{each.count:>8}{each.hours:>10.3f} h" for name, each in counts.items()]
        return "\n".join(lines)


def _counts(table: Mapping[str, Mapping[str, float]]) -> dict[str, Count]:
    return _commonest_first({name: Count(int(cell["count"]), float(cell["hours"])) for name, cell in table.items()})


def _commonest_first(found: Mapping[str, Count]) -> dict[str, Count]:
    return dict(sorted(found.items(), key=lambda item: (-item[1].count, item[0])))


def widths_of_all(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Feature -> the dimensions that all have who know it."""
    found: dict[str, int] = {}
    for name, width in itertools.chain.from_iterable(table.items() for table in tables):
        found[name] = min(width, found.get(name, width))
    return found


def listed(counts: Mapping[str, int]) -> str:
    """ "6 static, 2 too_short", the commonest first."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
