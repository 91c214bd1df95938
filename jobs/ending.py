"""How a job ends on the terminal: its table, whether there was nothing left to do, and one line of totals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def print_ending(table: Table, summary: Mapping[str, Any], out: Path, totals: str) -> None:
    """`summary` is what the job returned; its "already_finished" says that this call found everything there."""
    console = Console()
    console.print(table)
    if summary.get("already_finished"):
        console.print(f"{out} was already finished: nothing to do", soft_wrap=True)
    console.print(f"{totals} -> {out}", soft_wrap=True)
