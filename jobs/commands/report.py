"""May I trust these latents? Writes report.json and a self-contained report.html."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs.cli import parse
from lapa.reporting.card import make_report_card
from lapa.reporting.settings import ReportSettings, RunFacts


@dataclass(frozen=True)
class ReportConfig:
    """The report card of a latent action model and the latents it extracted."""

    lam: Path
    """Run folder of giza train-lam."""
    corpus: Path
    """Folder of giza ingest."""
    latents: Path
    """Folder of giza extract."""
    out: Path
    """Folder for report.json and report.html."""
    settings: Annotated[ReportSettings, tyro.conf.arg(name="")] = field(default_factory=ReportSettings)
    threads: int = 0
    """Cores of the model; 0: all."""
    seed: int = 0
    """Of all that is drawn at random."""


def run(config: ReportConfig) -> dict[str, Any]:
    """Measures, writes report.json and report.html, each under a temporary name first, prints the card and returns it.

    Raises ValueError where run, corpus and latents do not belong together.
    """
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from corpora.clips.corpus import Corpus
    from lapa.model.checkpoint import load_lam, model_hash
    from lapa.reporting.page import render

    start = time.monotonic()
    settings = dataclasses.replace(config.settings, seed=config.seed)
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    corpus = Corpus(config.corpus)
    model = load_lam(config.lam)
    record = config.lam.expanduser() / "run.json"
    facts = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    known = RunFacts.from_json(facts | {"model_hash": model_hash(config.lam)})
    featurise = None
    if not model.config.pixels:
        from flare.vision import frozen_vision

        featurise = frozen_vision(model.config.target).of_frames
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        card, pictures = make_report_card(corpus, model, known, config.latents, settings, featurise, tell)
    card = plain(card) | {
        "config": plain(
            {"lam": str(config.lam), "corpus": str(config.corpus), "latents": str(config.latents), "seed": config.seed}
        ),
        "wall_s": round(time.monotonic() - start, 1),
    }
    config.out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("report.json", json.dumps(card, indent=1, allow_nan=False) + "\n"),
        ("report.html", render(card, pictures)),
    ):
        temporary = config.out / (name + ".tmp")
        temporary.write_text(text, "utf-8")
        os.replace(temporary, config.out / name)
    print_card(card, config.out)
    return card


def plain(value: Any) -> Any:
    """`value` as JSON has it: NumPy numbers become Python's, what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_card(card: dict[str, Any], out: Path) -> None:
    """The card as a table on the terminal, and the verdict."""
    from rich.console import Console
    from rich.table import Table

    from lapa.reporting.page import TITLES
    from lapa.reporting.verdict import figure, span

    console = Console()
    table = Table(title="giza report", title_justify="left")
    for name, justify in (("", "left"), ("", "left"), ("value", "right"), ("beside", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    codes, latent, probe = card["codes"], card["latent"], card["probe"]
    if codes is None:
        table.add_row("codes", "", "-", card["codes_reason"])
    else:
        table.add_row("codes", "used", f"{codes['used']} of {codes['size']}", "COLLAPSED" if codes["collapsed"] else "")
        table.add_row("", "perplexity", f"{codes['perplexity']:.1f}", f"over {codes['pairs']} pairs")
    table.add_row(
        "latent", "effective dimensions", f"{latent['effective_dims']:.1f}", f"of {latent['dim']}", end_section=True
    )
    found = card["reconstruction"]
    if found["psnr_db"] is None:
        table.add_row(
            "reconstruction",
            "change explained",
            f"{100 * found['explained']:.0f}%",
            f"of {found['unit']}",
            end_section=True,
        )
    else:
        beside = f"copy {found['copy_psnr_db']:.1f}, random code {found['random_code_psnr_db']:.1f}"
        table.add_row("reconstruction", "PSNR", f"{found['psnr_db']:.1f} dB", beside, end_section=True)
    if probe is None:
        table.add_row("probe", "", "-", card["probe_reason"], end_section=True)
    else:
        names = [name for name in TITLES if name in probe]
        for name in names:
            few = ", ".join(f"{step['labels']}: {figure(step[name]['r2_mean'])}" for step in probe["budgets"].values())
            table.add_row(
                f"probe {probe['gap_s']:.2f} s" if name == "latent" else "",
                TITLES[name],
                f"{figure(probe[name]['r2_mean'])} {span(probe[name]['ci95'])}",
                f"with few labels {few}" if few and name == "latent" else few,
                end_section=name == names[-1],
            )
    camera = card["camera"]
    if camera["r2_mean"] is None:
        table.add_row("camera", "", "-", camera["reason"])
    else:
        table.add_row(
            "camera",
            "R2 to its motion",
            figure(camera["r2_mean"]),
            f"shuffled {figure(camera['baselines']['shuffled']['r2_mean'])}",
        )
    if card["cuts"] is not None:
        cuts = card["cuts"]
        table.add_row(
            "cuts",
            "change rebuilt",
            f"{100 * cuts['explained']:.0f}%",
            f"real pairs {100 * cuts['real_explained']:.0f}%",
        )
    console.print(table)
    marks = {"good": "[green]+[/]", "concern": "[yellow]![/]", "bad": "[red]x[/]"}
    console.print(f"[bold]{card['verdict_detail']['title']}[/]")
    for reason in card["verdict_detail"]["reasons"]:
        console.print(f" {marks[reason['kind']]}", reason["text"], highlight=False, markup=True)
    console.print(f"{card['wall_s']:.0f} s -> {out / 'report.html'}")


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    run(parse(ReportConfig, argv, job="report"))
