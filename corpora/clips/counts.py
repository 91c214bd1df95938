"""What the summary of a corpus (ingest.json) says of its rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from corpora.clips.manifest import ClipRow
from corpora.clips.survey import widths_of_all


class Counts:
    """Counts and hours of the rows that went by."""

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
