"""`giza demo`: ingest, train, extract and report on the sample corpus that ships with giza."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.store.run import Run
from jobs.cli import parse
from jobs.training.budget import check_budget

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
    """Runs the four jobs and writes demo.json with the seconds that each took; returns the same.

    Raises ValueError for an `out` that holds a demo of other settings or is being written to.
    """
    from rich.console import Console

    from jobs.commands import extract, ingest, report, train_lam
    from lapa.recipes import RECIPES

    console, out, recipe = Console(), config.out, RECIPES["small"]
    corpus, lam, latents, card = (out / name for name in ("corpus", "lam", "latents", "report"))
    seconds: dict[str, float] = {}

    def timed(name: str, what: str, job: Callable[[Any], Any], settings: Any) -> Any:
        console.rule(f"[bold]giza {name}[/]  {what}")
        start = time.monotonic()
        result = job(settings)
        seconds[name] = round(time.monotonic() - start, 1)
        return result

    run = Run(out, {name: value for name, value in vars(config).items() if name != "out"}, summary="demo.json")
    summary = run.finished
    if summary is None:
        with run.claim():
            to_ingest = ingest.IngestConfig(inputs=(str(SAMPLE),), out=corpus, seed=config.seed)
            timed("ingest", "the sample videos to clips", ingest.run, to_ingest)
            to_train = train_lam.TrainLamConfig(
                corpus,
                lam,
                seed=config.seed,
                steps=config.steps,
                minutes=config.minutes,
                model=recipe.model,
                training=recipe.training,
            )
            timed("train-lam", f"recipe small, {config.steps} steps", train_lam.run, to_train)
            to_extract = extract.ExtractConfig(lam, corpus, out=latents, seed=config.seed)
            timed("extract", "latent actions of every pair", extract.run, to_extract)
            to_report = report.ReportConfig(corpus, latents, card, lam=lam, seed=config.seed)
            made = timed("report", "may I trust these latents?", report.run, to_report)
            verdicts = {body: verdict.text for body, verdict in made.verdicts.items()}
            summary = run.finish({"seconds": seconds, "verdicts": verdicts, "config": dataclasses.asdict(config)})
    page, took = (card / "report.html").resolve(), sum(summary["seconds"].values())
    console.print(f"[bold]{page}[/] shows the images; the whole demo took {took:.0f} s")
    return summary


def main(argv: Sequence[str]) -> None:
    run(parse(DemoConfig, argv, job="demo"))
