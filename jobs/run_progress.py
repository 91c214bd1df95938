"""What the policy's jobs show: a bar while pictures are decoded, and a table of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table


@contextmanager
def member_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for the pictures of one member."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"decoding {title}", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def print_run(summary: Mapping[str, Any], title: str) -> None:
    """Members with their shares and epochs, then the run and its held-out losses."""
    console = Console()
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
    console.print(members)
    run = Table(show_header=False)
    for name in (
        "steps",
        "minutes",
        "samples_seen",
        "samples_per_s",
        "data_wait_share",
        "parameters",
        "trained_parameters",
    ):
        run.add_row(name, str(summary[name]))
    for name, value in summary["held_out"].items():
        run.add_row(f"held out: {name.removeprefix('val/')}", f"{value:.4f}")
    console.print(run)
