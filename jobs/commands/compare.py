"""Several report cards side by side, on the same pairs, held-out episodes and label budgets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from corpora.store.files import read_json, write_json
from corpora.store.inputs import READ
from corpora.store.kinds import expect_own
from corpora.store.remote import told
from corpora.store.told import listed
from corpora.store.upload import uploaded
from jobs.cli import parse

if TYPE_CHECKING:
    from lapa.reporting.comparison import Comparison


@dataclass(frozen=True)
class CompareConfig:
    """Reports that were asked the same, in one table and one page; others are refused by name."""

    reports: tyro.conf.Positional[tuple[Path, ...]] = field(metadata=READ)
    """Folders of giza report."""
    out: Path
    """Folder for compare.json and compare.html."""
    names: tuple[str, ...] = ()
    """What to call them, one for each; by default their folders' names."""


def run(config: CompareConfig) -> Comparison:
    """Prints the table, writes compare.json and compare.html, and returns what was found. Raises ValueError for a folder without a
    report, and for reports that do not go together."""
    names = named(config)
    records = {}
    for name, folder in names.items():
        record = read_json(folder.expanduser() / "report.json")
        if record is None:
            raise ValueError(f"'{folder}' holds no report.json: make it with giza report --out {folder}")
        records[name] = record

    from corpora.store.provenance import provenance
    from lapa.reporting.card import Card
    from lapa.reporting.comparison import compare
    from lapa.reporting.page import provenance_rows, write_page

    found = compare({name: Card.from_json(record) for name, record in records.items()})
    out = config.out.expanduser()
    expect_own(out, "compare")
    out.mkdir(parents=True, exist_ok=True)
    with uploaded(out):
        write_page(out / "compare.html", "compare.html.j2", found=found, made=provenance_rows(provenance()))
        write_json(out / "compare.json", dataclasses.asdict(found))
    print_comparison(found)
    print(f"-> {told(out / 'compare.html')}")
    return found


def named(config: CompareConfig) -> dict[str, Path]:
    """Name -> folder. Raises ValueError for names that are too few, too many, or not told apart."""
    folders = [folder.expanduser() for folder in config.reports]
    names = config.names or tuple(folder.resolve().name for folder in folders)
    if len(names) != len(folders):
        raise ValueError(f"{len(names)} names for {len(folders)} reports: give --names one for each")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several reports are called {listed(twice, 4)}: tell them apart with --names")
    return dict(zip(names, folders, strict=True))


def print_comparison(found: Comparison) -> None:
    """A table for each body on the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from lapa.reporting.scores import figure, span

    console = Console()
    for body in found.bodies:
        title = f"{body.embodiment}: R2 of {body.target} over {body.gap_s:.2f} s, {len(body.test_groups)} test episodes"
        table = Table(title=escape(title), title_justify="left")
        table.add_column("")
        for labels in body.labels:
            table.add_column(f"{labels} labels", justify="right")
        table.add_column("beside the best")
        if body.frozen:
            table.add_column("beside frozen features")
        for row in body.rows:
            cells = [escape(f"{figure(row.scores[n].r2_mean)} {span(row.scores[n].ci95)}") for n in body.labels]
            last: list[str] = [body.standing(row, body.labels[-1])]
            if body.frozen:
                stands = [(n, body.beside_frozen(row, n)) for n in body.labels]
                last.append(", ".join(f"{n}: {word}" for n, word in stands if word))
            title = f"{row.title} ({row.numbers})" if row.numbers else row.title
            table.add_row(escape(title), *cells, *last, style="bold" if row.kind == "latent" else "")
        console.print(table)
        if body.frozen is None:
            console.print("No report has frozen features (giza report --features): whether they tell more stays open.")
    for note in found.notes:
        console.print(note, highlight=False)


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    run(parse(CompareConfig, argv, job="compare"))
