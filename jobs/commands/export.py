"""Latents, or a robot's episodes, as a dataset that other trainers read."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.table import Table

from corpora.store.files import digest_of
from corpora.store.inputs import READ
from corpora.store.run import Run
from corpora.video.encoding import VideoEncoding
from jobs.cli import parse
from jobs.console import facts_table, print_ending
from jobs.progress import bar
from lapa.exporting.settings import LatentRows

if TYPE_CHECKING:
    from corpora.episodes.layouts import Layout

SUMMARY = "export.json"
_SETTINGS = ".export-settings.json"
_PASSING = ".v3"
"""In --out, while latents become another layout than v3.0: the same as v3.0."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A dataset for LeRobot's, openpi's or Isaac-GR00T's trainers: of latents (--latents and --corpus), whose action is the latent
    of each frame, or of another LeRobot dataset (--dataset)."""

    out: Path
    """Folder of the dataset; the same command again resumes."""
    format: Literal["lerobot-v3", "lerobot-v2.1", "gr00t"] = "lerobot-v3"
    """lerobot-v3: LeRobot from 0.4 on; lerobot-v2.1: LeRobot before it, openpi; gr00t: v2.1 with meta/modality.json, as Isaac-GR00T
    reads it."""
    latents: Path | None = field(default=None, metadata=READ)
    """Folder of giza extract."""
    corpus: Path | None = field(default=None, metadata=READ)
    """Folder of giza ingest of which the latents are."""
    dataset: Path | None = field(default=None, metadata=READ)
    """A LeRobot dataset, v2.0, v2.1 or v3.0, instead of latents: rows as they are, in another layout."""
    report: Path | None = field(default=None, metadata=READ)
    """Folder of giza report on these latents, whose verdict goes with them."""
    licence: str = ""
    """Of all clips, or of the dataset, as the hub spells it (cc-by-4.0); empty: not known, and said."""
    licences: Path | None = field(default=None, metadata=READ)
    """A JSON file of the beginnings of sources' names to licences, {"dexwild/": "cc-by-sa-4.0"}, before --licence."""
    rows: Annotated[LatentRows, tyro.conf.arg(name="")] = field(default_factory=LatentRows)
    encoding: Annotated[VideoEncoding, tyro.conf.arg(name="")] = field(default_factory=VideoEncoding)
    push: str = ""
    """owner/name on the Hugging Face hub, where the finished dataset then goes; empty: nowhere."""
    private: bool = False
    """With --push: for those alone who are let in."""

    def __post_init__(self) -> None:
        if (self.dataset is None) == (self.latents is None):
            raise ValueError("give --latents and --corpus, or --dataset: the export is of one of them")
        if (self.latents is None) != (self.corpus is None):
            raise ValueError("latents without their corpus have no images: give both --latents and --corpus")
        if self.dataset is not None:
            given = [name for name in ("report", "licences") if getattr(self, name) is not None]
            given += ["fps, vector, state and min_s"] if self.rows != LatentRows() else []
            if given:
                raise ValueError(f"{' and '.join(given)}: of latents alone; leave out with --dataset")
            if self.dataset.expanduser().resolve() == self.out.expanduser().resolve():
                raise ValueError(f"--out '{self.out}' is the dataset itself: name another folder")
        elif self.private and not self.push:
            raise ValueError("private: only with --push")


def run(config: ExportConfig) -> dict[str, Any]:
    """Writes what is missing and returns the summary (export.json); a finished one is left as it is, and pushed where that is asked.

    Raises ValueError for inputs that do not go together, and where the hub refuses."""
    from corpora.episodes.hub import check_repo, push_dataset
    from corpora.episodes.layouts import LAYOUTS

    if config.push:
        check_repo(config.push)
    layout = LAYOUTS[config.format]
    with bar("exporting", keep=True) as show:
        write = _latents_export if config.latents is not None else _dataset_export
        summary = write(config, layout, lambda done, total: show(done, total))
    if config.push:
        summary = {**summary, "pushed": push_dataset(config.out.expanduser(), config.push, private=config.private)}
    return summary


def _folder(config: ExportConfig, settings: dict[str, Any], formats: dict[str, int | None]) -> Run:
    how = {"as": config.format, "encoding": dataclasses.asdict(config.encoding), "licence": config.licence}
    return Run(
        config.out,
        {**how, **settings},
        summary=SUMMARY,
        record=_SETTINGS,
        inside="settings",
        alone=True,
        formats=formats,
    )


def _latents_export(config: ExportConfig, layout: Layout, progress: Callable[[int, int], None]) -> dict[str, Any]:
    from corpora.clips.corpus import Corpus
    from corpora.episodes.conversion import FORMAT as CONVERSION
    from corpora.episodes.conversion import convert_dataset
    from corpora.episodes.hub import write_dataset_card
    from corpora.episodes.lerobot import LeRobotDataset
    from lapa.exporting.card import facts_of, notes_of
    from lapa.exporting.dataset import FORMAT, write_latents_dataset
    from lapa.exporting.licences import Licences
    from lapa.exporting.plan import plan_episodes
    from lapa.exporting.sidecar import found_by, write_sidecar
    from lapa.latents import Latents

    assert config.latents is not None and config.corpus is not None
    corpus, latents = Corpus(config.corpus), Latents(config.latents)
    corpus.expect_clips()
    licences = Licences.read(config.licence, config.licences)
    report = None if config.report is None else found_by(config.report, latents, corpus)
    plan = plan_episodes(corpus, latents, config.rows)
    converted = layout.version != "v3.0"
    settings = {
        "rows": dataclasses.asdict(config.rows),
        "model_hash": latents.key.model_hash,
        "gap_s": latents.key.gap_s,
        "stride_s": latents.key.stride_s,
        "corpus": corpus.identity,
        "licences": dict(licences.by_source),
        "report": digest_of(str(report)) if report else "",
    }
    formats = {"format": FORMAT, "conversion": CONVERSION if converted else None}
    run = _folder(config, settings, formats)
    if (done := run.finished) is not None:
        _clear(run.folder)
        return done
    with run.claim():
        root = run.folder / _PASSING if converted else run.folder
        written = write_latents_dataset(
            corpus, latents, plan, config.rows, root, licences, config.encoding, progress=progress
        )
        if converted:
            convert_dataset(LeRobotDataset.open(root), run.folder, layout, config.encoding)
        told = write_sidecar(run.folder, corpus, latents, plan, config.rows, written, report)
        title = f"Latent actions of {corpus.folder.resolve().name}"
        write_dataset_card(run.folder, title, facts_of(told), told["licences"], notes_of(told))
        kept = {name: value for name, value in told.items() if name not in ("report", "left_out")}
        summary = run.finish({**kept, "format": config.format, "settings": run.settings})
        _clear(run.folder)
    return summary


def _dataset_export(config: ExportConfig, layout: Layout, progress: Callable[[int, int], None]) -> dict[str, Any]:
    from corpora.episodes.conversion import FORMAT, convert_dataset
    from corpora.episodes.hub import write_dataset_card
    from corpora.episodes.lerobot import LeRobotDataset

    assert config.dataset is not None
    dataset = LeRobotDataset.open(config.dataset.expanduser())
    files = sorted(path for part in ("meta", "data", "videos") for path in (dataset.root / part).rglob("*.*"))
    stamps = [f"{path.relative_to(dataset.root)} {path.stat().st_size}" for path in files if path.is_file()]
    run = _folder(config, {"dataset": digest_of(*stamps)}, {"format": FORMAT})
    if (done := run.finished) is not None:
        _clear(run.folder)
        return done
    with run.claim():
        made = convert_dataset(dataset, run.folder, layout, config.encoding, progress=progress)
        facts = {
            "from": f"{dataset.name}, LeRobot {dataset.info['codebase_version']}",
            "episodes": made.episodes,
            "rows": made.rows,
            "rows a second": round(dataset.fps),
        }
        write_dataset_card(run.folder, dataset.name, facts, {config.licence or "unknown": made.episodes}, [])
        summary = run.finish(
            {
                "kind": "dataset",
                "episodes": made.episodes,
                "rows": made.rows,
                "fps": round(dataset.fps),
                "videos": dict(made.videos),
                "left_out": [{"episode": number, "why": why} for number, why in made.left.items()],
                "features_left_out": dict(made.dropped),
                "source_episodes": list(made.sources),
                "format": config.format,
                "settings": run.settings,
            }
        )
        _clear(run.folder)
    return summary


def _clear(out: Path) -> None:
    """What an unfinished export needs to go on."""
    from corpora.episodes.conversion import STAGING
    from corpora.episodes.lerobot_writer import STAGING as RECORDED

    for name in (STAGING, RECORDED, _PASSING):
        shutil.rmtree(out / name, ignore_errors=True)


def table(summary: dict[str, Any]) -> Table:
    """What was written, and what was left out and why."""
    facts: dict[str, Any] = {"layout": summary["format"], "episodes": summary["episodes"], "rows": summary["rows"]}
    facts["rows a second"] = summary["fps"]
    if summary["kind"] == "latents":
        facts |= {
            "action": f"{summary['width']} dimensions, {summary['codes']} codes",
            "gap": f"{summary['gap_s']:g} s",
        }
        facts["latents off their rows' times"] = f"at most {summary['time_off_s']:.3f} s"
        facts["clips"] = summary["clips"]
        facts |= {f"clips left out: {reason}": n for reason, n in sorted(summary["left_out_reasons"].items())}
        facts |= {f"licence {name}": f"{n} episodes" for name, n in summary["licences"].items()}
        for name, dims in summary["degenerate_dims"].items():
            facts[f"{name}: hardly vary"] = f"dimensions {', '.join(map(str, dims[:8]))}" + (" ..." if dims[8:] else "")
    else:
        facts |= {f"videos {how}": n for how, n in sorted(summary["videos"].items())}
        facts["episodes left out"] = len(summary["left_out"])
    if "pushed" in summary:
        facts["on the hub"] = summary["pushed"]
    return facts_table("giza export", facts)


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    config = parse(ExportConfig, argv, job="export")
    summary = run(config)
    print_ending(table(summary), summary, config.out, f"{summary['episodes']} episodes, {summary['rows']} rows")
