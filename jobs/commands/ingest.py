"""Any video to clean clips: shards, manifest, reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table

from corpora.ingestion.settings import IngestRun, IngestSettings
from jobs.cli import parse
from jobs.console import numbers_table, print_ending
from jobs.progress import bar

UNDECIDED, NOTHING_KEPT = 3, 4
"""Statuses of the command: much could not be looked at; no clip was kept."""


@dataclass(frozen=True)
class IngestConfig:
    """From videos to a corpus of clips at training resolution."""

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Video files, folders, globs, .jsonl lists, WebDataset .tar files, LeRobot datasets."""
    out: Path
    """Folder of the corpus; the same command again resumes."""
    settings: Annotated[IngestSettings, tyro.conf.arg(name="")] = field(default_factory=IngestSettings)
    tier: Literal["", "human", "synthetic", "neural", "robot"] = ""
    """Of all sources of which no list says otherwise; by default robot for datasets with actions, else human."""
    embodiment: str = ""
    """Of all sources of which no list says otherwise; by default the robot that a LeRobot dataset names."""
    text: str = ""
    """Instruction for sources that have none."""
    cameras: tuple[str, ...] = ()
    """Cameras of LeRobot datasets to use; by default all that are no depth maps."""
    fps: float = 0.0
    """Frames a second at which videos were recorded that are stored at another rate (time-lapse, slow motion): clips, spans
    of lists and gaps then count as recorded; 0: as stored."""
    workers: int | None = None
    """Processes that decode side by side; by default one for each core, with engine ray of all machines of the cluster."""
    file_timeout_s: float = 120.0
    """A file that yields no further second of video for this long is given up."""
    engine: Literal["local", "ray"] = "local"
    """ray: over the cluster of RAY_ADDRESS or of `ray start`, whose machines share the folders; the same bytes."""
    seed: int = 0
    max_retry_share: float = 0.1
    """Share of the sources; where more than it could not be looked at (missing, unreachable, a crash), the status is 3."""


def run(config: IngestConfig) -> dict[str, Any]:
    """Ingests and returns the summary; see `corpora.ingestion.pipeline.make_corpus`."""
    from corpora.ingestion.pipeline import make_corpus
    from corpora.sources.source import SourceDefaults

    defaults = SourceDefaults(config.tier, config.embodiment, config.text, tuple(config.cameras), config.fps)
    how = IngestRun(config.out, config.engine, config.workers, config.file_timeout_s, config.seed)
    with bar("", unit="sources", keep=True) as show:

        def progress(phase: str, done: int, total: int, seconds: float) -> None:
            show(done, total, f"{phase}, {seconds / 3600:.3f} h of video" if seconds else phase)

        return make_corpus(config.inputs, config.settings, defaults, how, progress)


def table(summary: dict[str, Any]) -> Table:
    """Counts and hours per reason, tier and decoder."""
    result = numbers_table("giza ingest", ("", "name"), ("clips", "hours"))
    for title in ("reasons", "tiers", "decoders"):
        cells = summary[title]
        names = sorted(cells, key=lambda name: (name != "kept", -cells[name]["count"], name))
        for number, name in enumerate(names):
            label = title.rstrip("s") if number == 0 else ""
            cell = cells[name]
            result.add_row(
                label, name, str(cell["count"]), f"{cell['hours']:.4f}", end_section=number == len(names) - 1
            )
    return result


def main(argv: Sequence[str]) -> int:
    """The job's command line; 0, UNDECIDED or NOTHING_KEPT."""
    config = parse(IngestConfig, argv, job="ingest")
    summary = run(config)
    totals = (
        f"{summary['sources']} sources, {summary['clips']} clips, {summary['hours']:.4f} h kept of "
        f"{summary['hours_seen']:.4f} h; {summary.get('wall_s', 0):.1f} s, "
        f"{summary.get('video_hours_per_hour', 0):.1f} h of video an hour"
    )
    print_ending(table(summary), summary, config.out, totals)
    if skipped := summary["files_skipped"]:
        from corpora.clips.survey import listed

        print(f"left out, for it is no video: {listed(skipped)}")
    if sum(summary["retry"].values()) > config.max_retry_share * summary["sources"]:
        return UNDECIDED
    return 0 if summary["clips"] else NOTHING_KEPT
