"""What a corpus holds, and why the rest of its videos is not in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Count:
    """Of clips or of candidates."""

    count: int
    hours: float


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

    def __str__(self) -> str:
        lines = [f"{self.sources} sources, {self.kept.count} clips, {self.kept.hours:.3f} h"]
        for title, counts in (("dropped", self.dropped), ("tier", self.tiers), ("embodiment", self.embodiments)):
            lines += [f"{title:<12}{name:<20}{each.count:>8}{each.hours:>10.3f} h" for name, each in counts.items()]
        return "\n".join(lines)


def _counts(table: Mapping[str, Mapping[str, float]]) -> dict[str, Count]:
    found = {name: Count(int(cell["count"]), float(cell["hours"])) for name, cell in table.items()}
    return dict(sorted(found.items(), key=lambda item: (-item[1].count, item[0])))
