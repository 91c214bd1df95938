"""What kind of folder one is, by its records, so that no job writes into another's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """Of a folder."""

    what: str
    jobs: tuple[str, ...]
    """That write such folders."""
    marks: tuple[str, ...]
    """Files of it, any of which tells it: those of earlier versions of giza, and of a job that is not done yet, among them."""


_PARTS = ("extract", "label", "track")
_DATASETS = ("simulate", "multiply", "export", "crosspaint")
KINDS = (
    Kind("a corpus", ("ingest", "crosspaint"), ("ingest.json", "manifest.parquet", "staging")),
    Kind("latents", ("extract",), ("_extract.json", "extract.json")),
    Kind("labels", ("label",), ("_label.json", "label.json")),
    Kind("tracks", ("track",), ("_track.json", "track.json")),
    Kind("latents, labels or tracks", _PARTS, ("_settings.json",)),
    Kind(
        "a LeRobot dataset",
        _DATASETS,
        ("meta/info.json", ".simulate-settings.json", ".multiply-settings.json", ".export-settings.json"),
    ),
    Kind("an RLDS dataset", (), ("features.json", "dataset_info.json")),
    Kind("a report", ("report",), ("report.json",)),
    Kind("an evaluation", ("evaluate",), ("evaluation.json",)),
    Kind("an ablation", ("ablate",), ("ablation.json",)),
    Kind("a comparison", ("compare",), ("compare.json",)),
    Kind("a pyramid's drawing", ("pyramid",), ("pyramid.json",)),
    Kind("a benchmark", ("bench",), ("bench.json",)),
    Kind("a demo", ("demo",), ("demo.json",)),
    Kind("a training", ("train-lam", "pretrain", "ground", "ablate"), ("train.json", "run.json")),
    Kind("another job's run", ("report", "evaluate", "demo"), ("settings.json",)),
)


def expect_own(folder: Path, job: str = "", own: Collection[str] = ()) -> None:
    """Raises ValueError where the folder is of other kinds than `job` writes, or than files called `own` make it, and not also of
    such a one."""
    found = {kind.what: mark for kind in KINDS for mark in kind.marks[::-1] if (folder / mark).exists()}
    if any(kind.what in found and (job in kind.jobs or {*own} & {*kind.marks}) for kind in KINDS):
        return
    for what, mark in found.items():
        raise ValueError(f"--out '{folder}' is {what} ({mark}): name a new or empty folder")
