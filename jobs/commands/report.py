"""May I trust these latents? Writes report.json and a self-contained report.html."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from corpora.store import remote, upload
from corpora.store.files import read_json
from corpora.store.inputs import READ
from corpora.store.run import Run
from jobs.cli import parse
from lapa.foreign.settings import ForeignSettings
from lapa.reporting.settings import ReportSettings

if TYPE_CHECKING:
    from lapa.reporting.card import Card

log = logging.getLogger(__name__)

LATENTS = "latents"
"""In --out: latents from elsewhere, as giza keeps its own."""


@dataclass(frozen=True)
class ReportConfig:
    """The report card of latents: those that a latent action model extracted, or those of another trainer."""

    corpus: Path | tuple[Path, ...] = field(metadata=READ)
    """Folder of giza ingest; or several, of which read-outs between bodies are told: how well one that was fitted on the robot
    alone reads people's latents."""
    latents: Path | tuple[Path, ...] = field(metadata=READ)
    """Folder of giza extract, one for each corpus; or what another trainer wrote of one corpus: Parquet, NPZ or JSONL with (video
    or clip, t_s, gap_s, vector and / or codes), LAPA's JSONL, a LeRobot dataset whose action is a latent."""
    out: Path
    """Folder for report.json and report.html, and for latents from elsewhere as giza keeps its own."""
    lam: Path | None = field(default=None, metadata=READ)
    """Run folder of giza train-lam; without it, what needs the decoder is left out."""
    foreign: ForeignSettings = field(default_factory=ForeignSettings)
    same_pairs: tuple[Path, ...] = field(default=(), metadata=READ)
    """Only pairs that these folders of latents hold as well (of giza extract, or `latents` in the --out of another report), so
    that giza compare can set the reports side by side."""
    settings: Annotated[ReportSettings, tyro.conf.arg(name="")] = field(default_factory=ReportSettings)
    threads: int = 0
    """Cores of the model; 0: all."""
    seed: int = 0
    """Of all that is drawn at random."""


def run(config: ReportConfig) -> Card:
    """Measures, writes report.json and report.html, prints the card and returns it.

    Raises ValueError where run, corpus and latents do not belong together.
    """
    from corpora.clips.several import open_corpora

    start = time.monotonic()
    corpus = open_corpora(config.corpus)
    foreign = foreign_latents(config)

    import torch
    from rich.console import Console

    from corpora.clips.parts import SETTINGS as PARTS_SETTINGS
    from jobs.progress import bar
    from lapa.foreign.bring import bring_in
    from lapa.foreign.formats import fingerprint
    from lapa.latents import Latents
    from lapa.model.checkpoint import model_hash, read_lam_config
    from lapa.reporting.card import Card
    from lapa.reporting.measure import report
    from lapa.reporting.verdict import FORMAT

    settings = dataclasses.replace(config.settings, seed=config.seed)
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    if config.lam is not None:
        read_lam_config(config.lam)  # says what is wrong with a folder that is no run
        made_by = model_hash(config.lam)
    elif foreign is not None:
        made_by = fingerprint(foreign, config.foreign)
    else:
        made_by = next(iter(Latents(config.latents).keys.values())).model_hash
    made_of = {"model_hash": made_by, "corpus_identity": corpus.identity}
    same_pairs = [Latents(folder) for folder in config.same_pairs]
    if same_pairs:
        made_of["same_pairs"] = ", ".join(each.key.model_hash for each in same_pairs)
    how = [read_json(folder.expanduser() / PARTS_SETTINGS) for folder in folders(config.latents)]
    run = Run(
        config.out,
        dataclasses.asdict(settings) | made_of | {"latents": how[0] if len(how) == 1 else how},
        summary="report.json",
        formats={"report_format": FORMAT},
    )
    record = run.finished
    if record is None:
        with bar("", quiet=False) as progress:

            def told(what: str, done: int, total: int) -> None:
                progress(done, total, what)

            latents = config.latents
            if foreign is not None:
                latents = config.out.expanduser() / LATENTS
                bring_in(foreign, corpus, latents, config.foreign, progress=told)
            card = report(config.lam, corpus, latents, settings, same_pairs=same_pairs, progress=told)
        places = {"corpus": folders(config.corpus), "latents": folders(config.latents)}
        named = {name: ", ".join(map(str, several)) for name, several in places.items()}
        inputs = {**named, "lam": str(config.lam or ""), "seed": config.seed}
        with run.claim():
            card.save_html(config.out / "report.html")
            record = run.finish(card.to_json() | {"config": inputs, "wall_s": round(time.monotonic() - start, 1)})
        if foreign is None:
            _keep_verdict(config, card)
    else:
        card = Card.from_json(record)
    print_card(card)
    Console().print(f"{record['wall_s']:.0f} s -> {remote.told(config.out / 'report.html')}")
    return card


def _keep_verdict(config: ReportConfig, card: Card) -> None:
    """Beside latents of giza's own: whoever uses them hears it."""
    from corpora.mixture.judged import Judged
    from lapa.latents import Latents

    levels = {body: verdict.level for body, verdict in card.verdicts.items()}
    for folder, key in Latents(folders(config.latents)).keys.items():
        try:
            with upload.uploaded(folder):
                Judged(levels, datetime.date.today().isoformat(), key.model_hash).save(folder)
        except OSError as error:
            log.warning(
                "the verdict is not kept beside the latents '%s' (%s): jobs will call them never judged", folder, error
            )


def foreign_latents(config: ReportConfig) -> Path | None:
    """The file or folder that another trainer wrote; None of giza's own. Raises ValueError for one that cannot be read, beside
    others, and beside a model."""
    from lapa.foreign.formats import choose_format
    from lapa.foreign.own import is_own

    named = [folder.expanduser() for folder in folders(config.latents)]
    foreign = [path for path in named if not is_own(path)]
    if not foreign or (config.lam is not None and all(path.is_dir() for path in foreign)):
        return None
    if len(named) > 1:
        raise ValueError(
            f"latents '{foreign[0]}' are not of giza extract, and are judged by themselves: give them alone"
        )
    choose_format(foreign[0], config.foreign)
    if config.lam is not None:
        raise ValueError(
            f"latents '{foreign[0]}' are not of giza extract, so --lam '{config.lam}' has not made them: leave out --lam"
        )
    return foreign[0]


def folders(named: Path | tuple[Path, ...]) -> tuple[Path, ...]:
    """Of a flag that takes one or several."""
    return named if isinstance(named, tuple) else (named,)


def print_card(card: Card) -> None:
    """The card as a table on the terminal, and the verdict."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from lapa.reporting.card import FEATURES
    from lapa.reporting.scores import figure, span

    console = Console()
    table = Table(title="giza report", title_justify="left")
    for name, justify in (("", "left"), ("", "left"), ("value", "right"), ("beside", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    codes, latent, probe = card.codes, card.latent, card.probe
    if codes is None:
        table.add_row("codes", "", "-", card.codes_reason)
    else:
        table.add_row("codes", "used", f"{codes.used} of {codes.size}", "COLLAPSED" if codes.collapsed else "")
        table.add_row("", "perplexity", f"{codes.perplexity:.1f}", f"over {codes.pairs} pairs")
        if len(codes.positions) > 1:
            rows = codes.combinations
            table.add_row(
                "", "of whole rows", f"{rows.perplexity:.1f}", f"worst of {len(codes.positions)} positions above"
            )
    table.add_row(
        "latent", "effective dimensions", f"{latent.effective_dims:.1f}", f"of {latent.dim}", end_section=True
    )
    found = card.reconstruction
    if found is None:
        row = ("", "-", f"{card.no_decoder.lower()}, so nothing that needs it was measured")
    elif found.psnr_db is None:
        row = ("change explained", f"{100 * found.explained:.0f}%", f"of {found.unit}")
    else:
        beside = f"copy {found.copy_psnr_db:.1f}, random code {found.random_code_psnr_db:.1f}"
        row = ("PSNR", f"{found.psnr_db:.1f} dB", beside)
    table.add_row("reconstruction", *row, end_section=True)
    if probe is None:
        table.add_row("probe", "", "-", card.probe_reason, end_section=True)
    else:
        for name, score in probe.scores.items():
            few = ", ".join(f"{step.labels}: {figure(step.scores[name].r2_mean)}" for step in probe.budgets)
            table.add_row(
                f"probe {probe.gap_s:.2f} s" if name == "latent" else "",
                FEATURES[name],
                f"{figure(score.r2_mean)} {span(score.ci95)}",
                f"with few labels {few}" if few and name == "latent" else few,
                end_section=name == list(probe.scores)[-1],
            )
        asked = ", ".join(f"{dim} ({spread:.2g})" for dim, spread in zip(probe.dims, probe.spread, strict=True))
        rest = f"{len(probe.other_dims)} others not asked for" if probe.other_dims and not card.settings.dims else ""
        table.add_row("", "dimensions (spread)", asked, rest, end_section=True)
    for between in card.bodies:
        own = between.scores["latent"]
        few = ", ".join(f"{labels}: {figure(with_few.r2_mean)}" for labels, with_few in between.few.items())
        beside = f"PCA of the difference {figure(between.scores['pca'].r2_mean)}" + (
            f"; few labels {few}" if few else ""
        )
        value = f"{figure(own.r2_mean)} {span(own.ci95)}"
        table.add_row("between bodies", f"{between.fitted_on} to {between.tested_on}", value, beside)
    camera = card.camera
    if camera.r2_mean is None:
        table.add_row("camera", "", "-", camera.reason)
    else:
        beside = f"shuffled {figure(camera.baselines['shuffled'].r2_mean)}"
        table.add_row("camera", "R2 to its motion", figure(camera.r2_mean), beside)
    if card.cuts is not None:
        cuts = card.cuts
        beside = (
            f"its code {100 * cuts.explained:.0f}%, a guess {100 * max(cuts.guess_explained, cuts.pca_explained):.0f}%"
        )
        table.add_row("cuts", "change rebuilt", f"{100 * cuts.continuous_explained:.0f}%", beside)
    if (look := card.appearance) is not None:
        beside = f"PCA of the difference {figure(look.difference_r2)}"
        table.add_row("second frame", "R2 to its look", figure(look.r2), beside)
    console.print(table)
    marks = {"good": "[green]+[/]", "concern": "[yellow]![/]", "bad": "[red]x[/]"}
    body = f"{probe.embodiment}: " if probe and len(card.verdicts) > 1 else ""
    console.print(f"[bold]{escape(body)}{card.verdict.title}[/]")
    for reason in card.verdict.reasons:
        console.print(f" {marks[reason.kind]}", escape(reason.text), highlight=False)
    for step in card.verdict.next_steps:
        console.print(" > next:", escape(step), highlight=False)
    for sentence in card.foreign.told if card.foreign else ():
        console.print(escape(sentence), highlight=False)
    for body, verdict in card.verdicts.items():
        if card.probes and verdict is not card.verdict:
            console.print(f"[bold]{escape(body)}: {verdict.title}[/]")


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    run(parse(ReportConfig, argv, job="report"))
