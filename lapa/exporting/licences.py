"""Under which licence each clip is: of all, or by the beginning of its source's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Licences:
    """Names as the hub has them ("cc-by-4.0", "mit") or any other."""

    default: str = ""
    """Of clips of which `by_source` says nothing; empty: not known."""
    by_source: Mapping[str, str] = field(default_factory=dict)
    """Beginning of a source's name ("dexwild/") -> licence; the longest that fits decides."""

    @staticmethod
    def read(default: str, path: Path | None) -> Licences:
        """`path`: a JSON file of `by_source`. Raises ValueError for one that is none."""
        if path is None:
            return Licences(default)
        try:
            record = json.loads(path.expanduser().read_text("utf-8"))
            if not isinstance(record, dict) or not all(isinstance(each, str) for each in record.values()):
                raise ValueError("it holds something else")
        except (OSError, ValueError) as error:
            raise ValueError(
                f'licences {path}: not a map of sources to licences ({error}); write {{"dexwild/": "cc-by-sa-4.0"}}'
            ) from error
        return Licences(default, record)

    def of(self, source: str) -> str:
        fitting = [start for start in self.by_source if source.startswith(start)]
        return self.by_source[max(fitting, key=len)] if fitting else self.default or UNKNOWN
