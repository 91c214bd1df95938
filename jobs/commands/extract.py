"""Latent actions of a corpus, as Parquet."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from corpora.clips.corpus import Corpus
from corpora.store.run import Run
from jobs.cli import parse
from jobs.console import print_ending
from lapa.extraction.engine import extract_parts, peak_memory_mb
from lapa.extraction.settings import ExtractionSettings, Machinery, build_machinery, choose_device
from lapa.extraction.throughput import StageSpeeds, measure_stages
from lapa.latents import (
    SUMMARY,
    LatentKey,
    Part,
    PartSummary,
    finished_parts,
    plan_parts,
)
from lapa.model.checkpoint import load_lam

Shown = Callable[[int, int], None]
"""Told (clips, pairs) that were done since the last time."""


@dataclass(frozen=True)
class ExtractConfig:
    """Latent actions of every pair of frames a gap apart, one row a pair."""

    lam: Path
    """Run folder of giza train-lam."""
    corpus: Path
    """Folder of giza ingest."""
    out: Path
    """Folder of the latents; the same command again resumes."""
    gap_s: float | None = None
    """Time between the frames of a pair in seconds; by default the one the model was made for."""
    stride_s: float = 0.1
    """Pairs of a clip begin at least this many seconds apart."""
    batch_size: int = 64
    """Pairs that go through the model at once."""
    workers: int | None = None
    """Threads that decode; by default half of the cores, or all but one where the model has a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs."""
    engine: Literal["local", "ray"] = "local"
    """ray: over a cluster whose machines share the folders; the same rows."""
    part_frames: int = 4096
    """Stored frames for one Parquet file, which is what a kill can cost."""
    measure_s: float = 2.0
    """Seconds for which decoding alone and the model alone are timed once the rows are written; 0: not at all."""
    seed: int = 0
    """Extraction draws nothing at random; kept with the summary."""

    def __post_init__(self) -> None:
        if self.measure_s < 0:
            raise ValueError(f"measure_s {self.measure_s}: must be 0 or more seconds; try 2")


def run(config: ExtractConfig) -> dict[str, Any]:
    """Extracts and returns the summary (extract.json).

    Does nothing where all is there. Raises ValueError where `lam` or `corpus` is not one, or `out` holds other latents
    or is being written to.
    """
    corpus = Corpus(config.corpus)
    model = load_lam(config.lam)
    gap_s = model.config.pair.extract_gap_s if config.gap_s is None else config.gap_s
    del model
    lam, root = config.lam.expanduser().absolute(), corpus.root.absolute()
    settings = ExtractionSettings(lam, root, gap_s, config.stride_s, config.part_frames)
    key, plan = settings.key(corpus), plan_parts(corpus.clips, config.part_frames)
    if not plan:
        raise ValueError(f"corpus {config.corpus} holds no clip; its manifest gives the reasons")
    out = config.out.expanduser().absolute()
    folder = Run(out, dataclasses.asdict(key), summary=SUMMARY, formats={"format": key.format})
    if (before := folder.finished) is not None:
        return before
    with folder.claim():
        done = finished_parts(out, plan, key)
        todo = [part for part in plan if part.index not in done]
        device = choose_device(config.device)
        with _progress() as bar:
            task = bar.add_task("extracting", total=sum(len(part.rows) for part in plan), pairs_per_s=0.0)
            bar.advance(task, sum(len(plan[index].rows) for index in done))
            began, counted = time.perf_counter(), Counter[str]()

            def show(clips: int, pairs: int) -> None:
                counted["pairs"] += pairs
                speed = counted["pairs"] / max(time.perf_counter() - began, 1e-9)
                bar.update(task, advance=clips, pairs_per_s=speed)

            if config.engine == "ray":
                from lapa.extraction.ray_engine import extract_on_ray

                written, facts = extract_on_ray(
                    settings,
                    key,
                    todo,
                    out,
                    device,
                    batch_size=config.batch_size,
                    workers=config.workers,
                    measure_s=config.measure_s,
                    seed=config.seed,
                    show=show,
                )
            else:
                written, facts = extract_locally(settings, key, todo, out, config, device, show)
        return folder.finish(_summary(config, settings, key, plan, done, written, facts))


def extract_locally(
    settings: ExtractionSettings,
    key: LatentKey,
    todo: Sequence[Part],
    out: Path,
    config: ExtractConfig,
    device: str,
    show: Shown,
) -> tuple[list[PartSummary], dict[str, Any]]:
    """Writes the parts `todo` in this process; what it wrote, and how fast."""
    machinery = build_machinery(
        settings, device=device, batch_size=config.batch_size, workers=config.workers, seed=config.seed
    )
    began = time.perf_counter()
    written = write_parts(machinery, settings.corpus, todo, key, out, show)
    seconds = time.perf_counter() - began
    peak = peak_memory_mb()  # of the extraction, before anything is measured
    parts = todo or plan_parts(Corpus(settings.corpus).clips, settings.part_frames)
    speeds = measure_stages(machinery, settings.corpus, parts, config.measure_s) if config.measure_s else None
    return written, {
        "device": device,
        "workers": machinery.workers,
        "torch_threads": machinery.torch_threads,
        "seconds": seconds,
        "peak_memory_mb": peak,
        "speeds": speeds,
    }


def write_parts(
    machinery: Machinery, corpus: Path, todo: Sequence[Part], key: LatentKey, out: Path, show: Shown
) -> list[PartSummary]:
    """Decoding threads feed the model, which runs in this one."""
    written: list[PartSummary] = []
    for event in extract_parts(machinery.feed(corpus, todo), machinery.runner(), key, out):
        if isinstance(event, PartSummary):
            written.append(event)
        else:
            show(1, event)
    return written


def _summary(
    config: ExtractConfig,
    settings: ExtractionSettings,
    key: LatentKey,
    plan: Sequence[Part],
    done: dict[int, PartSummary],
    written: Sequence[PartSummary],
    facts: dict[str, Any],
) -> dict[str, Any]:
    parts = {**done, **{part.index: part for part in written}}
    assert len(parts) == len(plan)
    skipped = [record for index in sorted(parts) for record in parts[index].skipped]
    pairs_now = sum(part.pairs for part in written)
    speeds: StageSpeeds | None = facts.pop("speeds")
    seconds = facts.pop("seconds")
    per_s = pairs_now / seconds if pairs_now and seconds > 0 else None
    decode = speeds.decode_pairs_per_s if speeds else None
    model = speeds.model_pairs_per_s if speeds else None
    return {
        "pairs": sum(part.pairs for part in parts.values()),
        "clips": sum(part.clips for part in parts.values()),
        "clips_skipped": len(skipped),
        "skipped_reasons": dict(Counter(record["reason"] for record in skipped)),
        "skipped": skipped,
        "parts": len(parts),
        "model_hash": key.model_hash,
        "gap_s": settings.gap_s,
        "stride_s": settings.stride_s,
        "pairs_this_run": pairs_now,
        "wall_s": _rounded(seconds),
        "pairs_per_s": _rounded(per_s),
        "decode_pairs_per_s": _rounded(decode),
        "model_pairs_per_s": _rounded(model),
        "end_to_end_over_slower_stage": _rounded(per_s / min(decode, model)) if per_s and decode and model else None,
        **{name: _rounded(value) if isinstance(value, float) else value for name, value in facts.items()},
        "batch_size": config.batch_size,
        "engine": config.engine,
        "seed": config.seed,
        "lam": str(config.lam),
        "corpus": str(config.corpus),
        "part_frames": settings.part_frames,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("clips"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[pairs_per_s]:.0f} pairs/s"),
    )
    return Progress(*columns, console=Console(stderr=True))


def table(summary: dict[str, Any]) -> Table:
    """Rows, what was skipped and why, and the speeds."""
    result = Table(title="giza extract", title_justify="left", show_header=False)
    result.add_row("pairs", str(summary["pairs"]))
    result.add_row("clips", str(summary["clips"]))
    for reason, count in sorted(summary["skipped_reasons"].items()):
        result.add_row(f"skipped: {reason}", str(count))
    result.add_row("gap", f"{summary['gap_s']:g} s", end_section=True)
    for label, name in (
        ("pairs/s end to end", "pairs_per_s"),
        ("pairs/s decoding alone", "decode_pairs_per_s"),
        ("pairs/s model alone", "model_pairs_per_s"),
        ("end to end / slower stage", "end_to_end_over_slower_stage"),
        ("peak memory, MB", "peak_memory_mb"),
    ):
        value = summary.get(name)
        result.add_row(label, "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}")
    return result


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    config = parse(ExtractConfig, argv, job="extract")
    summary = run(config)
    totals = f"{summary['pairs']} pairs of {summary['clips']} clips, model {summary['model_hash']}"
    print_ending(table(summary), summary, config.out, totals)
