"""Several report cards side by side, on the same pairs, held-out episodes and label budgets; or several evaluations, on the same
data and starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from corpora.store.files import read_json, write_json
from corpora.store.inputs import READ
from corpora.store.kinds import expect_own
from corpora.store.remote import told
from corpora.store.told import listed
from corpora.store.upload import uploaded
from jobs.cli import parse

if TYPE_CHECKING:
    from jobs.evaluation.side_by_side import EvaluationComparison
    from lapa.reporting.comparison import Comparison

REPORT, EVALUATION = "report.json", "evaluation.json"


@dataclass(frozen=True)
class CompareConfig:
    """Reports, or evaluations, that were asked the same, in one table and one page; others are refused by name."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = field(metadata=READ)
    """Folders of giza report, or of giza evaluate."""
    out: Path
    """Folder for compare.json and compare.html."""
    names: tuple[str, ...] = ()
    """What to call them, one for each; by default their folders' names."""


def run(config: CompareConfig) -> Comparison | EvaluationComparison:
    """Prints the tables, writes compare.json and compare.html, and returns what was found. Raises ValueError for a folder that is
    neither, for reports beside evaluations, and for those that do not go together."""
    out = config.out.expanduser()
    expect_own(out, "compare")
    kind, records = read_records(named(config))

    from corpora.store.provenance import provenance
    from lapa.reporting.page import provenance_rows, write_page

    found: Comparison | EvaluationComparison
    show: Callable[[], None]
    if kind == REPORT:
        from lapa.reporting.card import Card
        from lapa.reporting.comparison import compare

        found = compare({name: Card.from_json(record) for name, record in records.items()})
        template, show = Path("compare.html.j2"), partial(print_comparison, found)
    else:
        from jobs.evaluation.side_by_side import TEMPLATE, compare_evaluations

        found = compare_evaluations(records)
        template, show = TEMPLATE, partial(print_evaluations, found)
    out.mkdir(parents=True, exist_ok=True)
    with uploaded(out):
        write_page(out / "compare.html", template, found=found, made=provenance_rows(provenance()))
        write_json(out / "compare.json", dataclasses.asdict(found))
    show()
    print(f"-> {told(out / 'compare.html')}")
    return found


def read_records(folders: Mapping[str, Path]) -> tuple[str, dict[str, dict[str, Any]]]:
    """(REPORT or EVALUATION, name -> what is in that file). Raises ValueError for a folder that holds neither, and where some hold
    the one and some the other."""
    found: dict[str, dict[str, Path]] = {REPORT: {}, EVALUATION: {}}
    for name, folder in folders.items():
        kind = next((kind for kind in found if (folder / kind).is_file()), "")
        if not kind:
            raise ValueError(
                f"'{folder}' holds no {REPORT} and no {EVALUATION}: make it with giza report, or giza evaluate, --out {folder}"
            )
        found[kind][name] = folder / kind
    if all(found.values()):
        told = " and ".join(f"'{folders[next(iter(paths))]}' a {kind}" for kind, paths in found.items())
        raise ValueError(f"reports and evaluations are of different things ({told}): compare each with its own kind")
    kind = next(kind for kind, paths in found.items() if paths)
    return kind, {name: read_json(path) or {} for name, path in found[kind].items()}


def named(config: CompareConfig) -> dict[str, Path]:
    """Name -> folder. Raises ValueError for names that are too few, too many, or not told apart."""
    folders = [folder.expanduser() for folder in config.runs]
    names = config.names or tuple(folder.resolve().name for folder in folders)
    if len(names) != len(folders):
        raise ValueError(f"{len(names)} names for {len(folders)} folders: give --names one for each")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several folders are called {listed(twice, 4)}: tell them apart with --names")
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


def print_evaluations(found: EvaluationComparison) -> None:
    """A table for each part on the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    names = [each.name for each in found.evaluations]
    for part in found.parts:
        table = Table(title=escape(f"{part.title}: {part.told}"), title_justify="left")
        table.add_column("")
        for name in names:
            table.add_column(escape(name), justify="right")
        for row, after in zip(part.rows, (*part.rows[1:], None), strict=True):
            cells = []
            for name in names:
                standing = row.standing(name)
                cells.append(escape(row.cells[name].told) + (f"\n{standing}" if standing else ""))
            last = after is not None and after.kind != row.kind
            style = "bold" if row.kind == "policy" else ""
            table.add_row(escape(row.title), *cells, style=style, end_section=last)
        console.print(table)
    for each in found.evaluations:
        for headline in each.verdicts.values():
            console.print(f"{each.name}: {headline}", highlight=False, markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    run(parse(CompareConfig, argv, job="compare"))
