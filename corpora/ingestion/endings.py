"""What is to be said when an ingest ends: what is to be tried again, whose ground truth is odd, and why nothing was kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corpora.clips.survey import CorpusSurvey, listed


def remarks(summary: Mapping[str, Any], out: Path) -> list[str]:
    """Sentences for the terminal; none where all sources were looked at, some clip was kept, and none has to be doubted."""
    found = []
    if summary["retry"]:
        found.append(
            f"{sum(summary['retry'].values())} of {summary['sources']} sources could not be looked at "
            f"({listed(summary['retry'])}): the manifest says why, and the same command takes them up again. If they will "
            f"never be there, remove {out / 'staging'}, which is kept for that"
        )
    noted = summary.get("truth_notes", {"clips": 0})
    if noted["clips"]:
        found.append(
            f"{noted['clips']} of {summary['clips']} clips lack ground truth that their dataset promises, or its rows and frames "
            f"disagree (the column `detail` of manifest.parquet tells of each), the first of them {noted['first']}"
        )
    if not summary["clips"]:
        found.append(CorpusSurvey.of(summary).nothing_kept)
    return found
