"""`giza demo`: ingest, train, extract and report on the sample corpus that ships with giza."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.store.files import write_json
from corpora.store.provenance import provenance
from jobs.budget import check_budget
from jobs.cli import parse

SAMPLE = Path(__file__).resolve().parents[2] / "corpora" / "sample"


@dataclass(frozen=True)
class DemoConfig:
    """Video in, latent actions and a report card out, on the sample corpus; under ten minutes on two cores."""

    out: Path = Path("out/demo")
    """Folder for the corpus, the run, the latents and the report; run again to resume."""
    steps: int = 1300
    """Optimiser steps of the training: four minutes on two idle cores."""
    minutes: float | None = None
    """Wall-clock minutes after which the training stops early."""
    seed: int = 0
    """Of every step."""

    def __post_init__(self) -> None:
        check_budget(self.steps, self.minutes)


def run(config: DemoConfig) -> dict[str, Any]:
    """Runs the four jobs and writes demo.json with the seconds that each took; returns the same."""
    from rich.console import Console

    from jobs.commands import extract, ingest, report, train_lam
    from lapa.recipes import RECIPES

    console = Console()
    out = config.out
    seconds: dict[str, float] = {}

    def timed(name: str, what: str, job: Any) -> Any:
        console.rule(f"[bold]giza {name}[/]  {what}")
        start = time.monotonic()
        result = job()
        seconds[name] = round(time.monotonic() - start, 1)
        return result

    timed("ingest", "the sample videos to clips", lambda: ingest.run(
        ingest.IngestConfig(inputs=(str(SAMPLE),), out=out / "corpus", seed=config.seed)))  # fmt: skip
    recipe = RECIPES["small"]
    timed("train-lam", f"recipe small, {config.steps} steps", lambda: train_lam.run(
        train_lam.TrainLamConfig(
            corpus=out / "corpus", out=out / "lam", seed=config.seed, steps=config.steps, minutes=config.minutes,
            model=recipe.model, training=recipe.training)))  # fmt: skip
    timed("extract", "latent actions of every pair", lambda: extract.run(
        extract.ExtractConfig(lam=out / "lam", corpus=out / "corpus", out=out / "latents", seed=config.seed)))  # fmt: skip
    card = timed("report", "may I trust these latents?", lambda: report.run(
        report.ReportConfig(
            lam=out / "lam", corpus=out / "corpus", latents=out / "latents", out=out / "report", seed=config.seed)))  # fmt: skip
    summary = {"seconds": seconds, "verdict": card.verdict.text, "config": dataclasses.asdict(config)}
    write_json(out / "demo.json", summary | {"provenance": provenance()})
    page = (out / "report" / "report.html").resolve()
    console.print(f"[bold]{page}[/] shows the pictures; the whole demo took {sum(seconds.values()):.0f} s")
    return summary


def main(argv: Sequence[str]) -> None:
    run(parse(DemoConfig, argv, job="demo"))
