"""What the jobs show on the terminal: a bar while they work, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

Tell = Callable[..., None]
"""Called with (done, total), and where it changes `what` is being done."""


@contextmanager
def bar(title: str, *, unit: str = "", quiet: bool = False, keep: bool = False) -> Iterator[Tell]:
    """A bar on the terminal (its standard error), which is gone at the end unless `keep`."""
    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=not keep, disable=quiet) as progress:
        task = progress.add_task(title, total=None)

        def tell(done: int, total: int, what: str | None = None) -> None:
            progress.update(task, completed=done, total=total or None, description=what)

        yield tell


@contextmanager
def decoding_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for the pictures of one dataset."""
    with bar(f"decoding {name}") as tell:
        yield tell


def print_ending(table: Table, summary: Mapping[str, Any], out: Path, totals: str = "") -> None:
    """`summary` is what the job returned; its "already_finished" says that this call found everything there."""
    console = Console()
    console.print(table)
    if summary.get("already_finished"):
        console.print(f"{out} was already finished: nothing to do", soft_wrap=True)
    if totals:
        console.print(f"{totals} -> {out}", soft_wrap=True)


def print_training(summary: Mapping[str, Any], title: str, out: Path) -> None:
    """Members with their shares and epochs, then the run and its held-out losses."""
    members = Table(title=title, title_justify="left")
    for column in ("member", "tier", "embodiment", "share", "samples", "epochs", "held out"):
        members.add_column(column, justify="left" if column in ("member", "tier", "embodiment") else "right")
    for member in summary["members"]:
        members.add_row(
            member["name"],
            member["tier"],
            member["embodiment"],
            f"{member['share']:.1%}",
            str(member["samples"]),
            f"{member['epochs']:.1f}",
            str(member["held_out_samples"]),
        )
    Console().print(members)
    names = ("steps", "minutes", "samples_seen", "samples_per_s", "data_wait_share", "parameters", "trained_parameters")
    run = Table(show_header=False)
    for name in names:
        run.add_row(name, str(summary[name]))
    for name, value in summary["held_out"].items():
        run.add_row(f"held out: {name.removeprefix('val/')}", f"{value:.4f}")
    print_ending(run, summary, out)
