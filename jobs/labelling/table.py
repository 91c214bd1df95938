"""What `giza label` prints."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from corpora.mixture.pseudo_actions import BY_HANDS, BY_IMAGES, BY_TRACKS
from jobs.evaluation.tables import span_told


def label_table(summary: dict[str, Any]) -> Table:
    """What was trained or fitted, how far it is from the truth where that is known, and what was labelled."""
    result = Table(title="giza label", title_justify="left", show_header=False)
    _ROWS[summary["by"]](result, summary)
    result.add_row("clips", str(summary["clips"]))
    return result


def _add_image_rows(table: Table, summary: dict[str, Any]) -> None:
    """What was trained, and its held-out error beside what needs no image."""
    training, held = summary["training"], summary["held_out"]
    table.add_row("robot's pairs of images", str(training["pairs"]))
    table.add_row("steps, epochs", f"{training['steps']}, {training['epochs']:.1f}", end_section=True)
    if held:
        table.add_row("held out: squared error / variance", f"{held['episodes']} episodes, {held['pairs']} pairs")
        for name, found in held["normalised_squared_error"].items():
            told = span_told(found["bootstrap95"])
            table.add_row(f"  {held['titles'][name]}", f"{found['value']:.3f}{told and f' [{told}]'}")
    else:
        table.add_row("held out", "nothing")
    table.add_section()
    table.add_row("frames labelled", str(summary["rows"]))


def _add_track_rows(table: Table, summary: dict[str, Any]) -> None:
    """What was fitted, how good the labels are where that is known, and which frames have none."""
    table.add_row("robot's motions", str(summary["training"]["pairs"]))
    table.add_row("not told, masked", ", ".join(summary["unknown"]) or "nothing", end_section=True)
    for title, found in (("the robot held out", summary["held_out"]), ("the clips, simulated", summary["truth"])):
        table.add_row(f"R2 to {title}", f"{found['chunks']} chunks" if found else "not known")
        for name in found.get("r2", ()):
            values = (found[key][name] for key in ("r2", "r2_of_chunk_mean"))
            step, mean = ("-" if value is None else f"{value:.3f}" for value in values)
            table.add_row(f"  {name.replace('_', ' ')}: step by step, chunk's mean", f"{step}, {mean}")
    table.add_section()
    table.add_row("frames labelled", str(summary["rows"]))
    table.add_row("  of these by a demonstration", str(summary["frames_shown"]))
    for reason, count in summary["frames_without"].items():
        table.add_row(f"  without: {reason}", str(count))


def _add_hand_rows(table: Table, summary: dict[str, Any]) -> None:
    """What is known of the labels' numbers, which of it lies beyond the robot's range, and which frames have none."""
    for name, share in summary["known"].items():
        table.add_row(f"known: {name}", f"{share:.0%}" + (", masked" if name in summary["unknown"] else ""))
    for name, share in summary["beyond_range"].items():
        table.add_row(f"beyond the robot's range: {name}", f"{share:.1%}")
    table.add_section()
    table.add_row("frames labelled", str(summary["rows"]))
    for reason, count in summary["frames_without"].items():
        table.add_row(f"  without: {reason}", str(count))


_ROWS = {BY_IMAGES: _add_image_rows, BY_TRACKS: _add_track_rows, BY_HANDS: _add_hand_rows}
"""What made the labels -> what it adds."""
