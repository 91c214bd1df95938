"""Latent actions of a corpus, as Parquet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from corpora.mixture.judged import NEVER, judged
from jobs.cli import parse
from jobs.console import facts_table, print_ending
from jobs.progress import bar
from lapa.extraction.settings import ExtractionSettings


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(ExtractionSettings):
    """Latent actions of every pair of frames a gap apart, one row a pair."""

    out: Path
    """Folder of the latents; the same command again resumes."""
    measure_s: float = 2.0
    """Seconds for which decoding alone and the model alone are timed once the rows are written; 0: not at all."""


def run(config: ExtractConfig) -> dict[str, Any]:
    """Extracts and returns the summary (_extract.json), see `lapa.extraction.extract.write_latents`."""
    from lapa.extraction.extract import write_latents

    began, made = time.perf_counter(), 0

    def rate() -> str:
        return f"{made / (time.perf_counter() - began):.0f} pairs/s"

    with bar("extracting", unit="clips", keep=True, text=rate) as show:

        def progress(clips: int, total: int, pairs: int) -> None:
            nonlocal made
            made = pairs
            show(clips, total)

        return write_latents(config, config.out, progress=progress)


def table(summary: dict[str, Any]) -> Table:
    """Rows, what was skipped and why, and the speeds."""
    facts = {"pairs": summary["pairs"], "clips": summary["clips"]}
    facts |= {f"skipped: {reason}": count for reason, count in sorted(summary["skipped_reasons"].items())}
    facts["gap"] = f"{summary['gap_s']:g} s"
    for label, name in (("model of", "made_by"), ("frames", "preprocessing")):
        facts[label] = summary.get(name, "-")  # a summary of before has none
    for label, name in (
        ("pairs/s end to end", "pairs_per_s"),
        ("pairs/s decoding alone", "decode_pairs_per_s"),
        ("pairs/s model alone", "model_pairs_per_s"),
        ("end to end / slower stage", "end_to_end_over_slower_stage"),
        ("peak memory, MB", "peak_memory_mb"),
    ):
        value = summary.get(name)
        facts[label] = "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"
    if (rounding := summary.get("rounding")) is not None:
        codes = rounding["codes_equal"]
        facts["bfloat16 moves latents by"] = f"{100 * rounding['latent_moved']:.1f}% of their spread"
        facts["codes as in float32"] = "-" if codes is None else f"{100 * codes:.1f}%"
    return facts_table("giza extract", facts)


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    config = parse(ExtractConfig, argv, job="extract")
    summary = run(config)
    found = judged(config.out, summary["model_hash"])
    print(f"verdict: {found or f'{NEVER}; giza report says whether to trust them'}")
    totals = f"{summary['pairs']} pairs of {summary['clips']} clips, model {summary['model_hash']}"
    print_ending(table(summary), summary, config.out, totals)
