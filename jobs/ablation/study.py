"""An ablation that was run: what it shows, as a table, a chart and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from jobs.ablation.charts import forest
from jobs.ablation.findings import Comparison, Statistics, Success
from jobs.ablation.page import write_page
from jobs.ablation.statistics import summarise
from jobs.ablation.tables import success_table


class Study:
    """The result of `giza ablate`, as ablation.json holds it, with its statistics.

    Raises ValueError where two runs claim the same arm, demonstrations and seed.
    """

    def __init__(
        self, result: Mapping[str, Any], statistics: Statistics | None = None, folder: Path | None = None
    ) -> None:
        """`statistics` are computed where they are not given (seed: settings' `seed`, else 0); `folder`: of its films."""
        self.result, self.folder = result, folder
        self.statistics = statistics or summarise(result, seed=int(result["settings"].get("seed", 0)))

    @staticmethod
    def read(folder: str | Path) -> Study:
        """Of the folder of a `giza ablate`. Raises ValueError where it holds no ablation."""
        path = Path(folder).expanduser() / "ablation.json"
        if not path.is_file():
            raise ValueError(f"'{folder}' holds no ablation.json: run giza ablate --out {folder}")
        return Study(json.loads(path.read_text("utf-8")), folder=path.parent)

    @property
    def headline(self) -> str:
        """Which arms lift success over the best baseline and their controls, in one sentence."""
        return self.statistics.headline

    def success(self, arm: str, demos: int) -> Success:
        """Of one arm at so many demonstrations of each task. Raises KeyError for what was not planned."""
        return self.statistics.of(arm, demos)

    def comparison(self, arm: str, reference: str | None = None, demos: int = 1) -> Comparison:
        """`arm` minus `reference` (None: the best baseline); printed, it says what is shown. Raises KeyError for what was
        not compared."""
        return self.statistics.comparison(arm, reference, demos)

    def table(self) -> Table:
        """Success of each arm with its interval."""
        return success_table(self.result, self.statistics)

    def forest(self, reference: str | None = None) -> Figure:
        """All differences with their intervals, or those to one reference. Raises ValueError where nothing was compared
        with it."""
        found = [c for c in self.statistics.comparisons if reference in (None, c.reference)]
        if not found:
            known = ", ".join(dict.fromkeys(c.reference for c in self.statistics.comparisons))
            raise ValueError(f"nothing was compared with '{reference}'; name one of {known or 'none'}")
        return forest(found, self.statistics)

    def save_html(self, path: str | Path) -> None:
        """Writes the page."""
        write_page(self.result, path, self.statistics, self.folder)

    def __str__(self) -> str:
        return "\n".join([self.headline + ".", *(f"  {comparison}" for comparison in self.statistics.comparisons)])
