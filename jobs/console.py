"""How the jobs end on the terminal: tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from corpora.store.remote import told


def print_ending(table: Table, summary: Mapping[str, Any], out: Path, totals: str = "") -> None:
    """`summary` is what the job returned; its "already_finished" says that this call found everything there."""
    console = Console()
    console.print(table)
    if summary.get("already_finished"):
        console.print(f"{told(out)} was already finished: nothing to do", soft_wrap=True)
    if totals:
        console.print(f"{totals} -> {told(out)}", soft_wrap=True)


def print_training(summary: Mapping[str, Any], title: str, out: Path) -> None:
    """Datasets with their shares and epochs, then the run and its held-out losses."""
    columns = ("share", "samples", "epochs", "held out", "idle, left out")
    datasets = numbers_table(title, ("dataset", "tier", "embodiment"), columns)
    for found in summary["members"]:
        names = (found[name] for name in ("name", "tier", "embodiment"))
        counts = (
            f"{found['share']:.1%}",
            found["samples"],
            f"{found['epochs']:.1f}",
            found["held_out_samples"],
            found.get("idle_rows", 0),
        )
        datasets.add_row(*names, *map(str, counts))
    Console().print(datasets)
    shown = ("steps", "minutes", "samples_seen", "samples_per_s", "data_wait_share", "precision", "parameters")
    losses = {f"held out: {name.removeprefix('val/')}": f"{value:.4f}" for name, value in summary["held_out"].items()}
    facts = {name: summary[name] for name in (*shown, "trained_parameters") if name in summary}
    print_ending(facts_table("", facts | losses), summary, out)


def numbers_table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    """Without rows yet: columns of texts, then of numbers, which stand to the right."""
    return Table(*texts, *(Column(name, justify="right") for name in numbers), title=title, title_justify="left")


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Names and what is known of them."""
    table = Table(title=title or None, title_justify="left", show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    return table
