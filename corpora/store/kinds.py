"""What kind of folder one is, by its records, so that no job writes into another's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from corpora.store.files import read_json


@dataclass(frozen=True)
class Kind:
    """Of a folder."""

    what: str
    jobs: tuple[str, ...]
    """That write such folders."""
    marks: tuple[str, ...]
    """Files of it, any of which tells it: those of earlier versions of giza, and of a job that is not done yet, among them.
    FILE:SETTING is a file of settings that has this one."""
    several: bool = False
    """Its marks are of several kinds: they count where none tells one."""


_PARTS = ("extract", "label", "track")
_DATASETS = ("simulate", "multiply", "export", "crosspaint")
KINDS = (
    Kind("a corpus", ("ingest", "crosspaint"), ("ingest.json", "manifest.parquet", "staging")),
    Kind("latents", ("extract",), ("_extract.json", "extract.json", "_settings.json:stride_s")),
    Kind("labels", ("label",), ("_label.json", "label.json", "_settings.json:robot_contents")),
    Kind("tracks", ("track",), ("_track.json", "track.json", "_settings.json:source")),
    Kind(
        "a LeRobot dataset",
        _DATASETS,
        ("meta/info.json", ".simulate-settings.json", ".multiply-settings.json", ".export-settings.json"),
    ),
    Kind("an RLDS dataset", (), ("features.json", "dataset_info.json")),
    Kind("a report", ("report",), ("report.json", "settings.json:report_format")),
    Kind("an evaluation", ("evaluate",), ("evaluation.json", "settings.json:fingerprint")),
    Kind("an ablation", ("ablate",), ("ablation.json", "train.json:design")),
    Kind("a comparison", ("compare",), ("compare.json",)),
    Kind("a pyramid's drawing", ("pyramid",), ("pyramid.json",)),
    Kind("a benchmark", ("bench",), ("bench.json",)),
    Kind("a demo", ("demo",), ("demo.json",)),
    Kind("a latent action model", ("train-lam",), ("train.json:model.quantiser.kind",)),
    Kind("a policy", ("pretrain", "ground"), ("train.json:model.head",)),
    Kind("latents, labels or tracks", _PARTS, ("_settings.json",), several=True),
    Kind("a training", ("train-lam", "pretrain", "ground", "ablate"), ("train.json", "run.json"), several=True),
    Kind("another job's run", ("report", "evaluate", "demo"), ("settings.json",), several=True),
)


def expect_own(folder: Path, job: str = "", own: Collection[str] = ()) -> None:
    """Raises ValueError where the folder is of other kinds than `job` writes, or than files called `own` make it, and not also of
    such a one."""
    there = [(kind, mark) for kind in KINDS for mark in kind.marks if _has(folder, mark)]
    found = [each for each in there if not each[0].several] or there
    if any(job in kind.jobs or {*own} & {each.partition(":")[0] for each in kind.marks} for kind, _ in found):
        return
    for kind, mark in found:
        raise ValueError(f"--out '{folder}' is {kind.what} ({mark.partition(':')[0]}): name a new or empty folder")


def _has(folder: Path, mark: str) -> bool:
    file, _, setting = mark.partition(":")
    return (folder / file).exists() and (not setting or setting in (read_json(folder / file) or {}))
