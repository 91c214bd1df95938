"""An evaluation on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from jobs.console import numbers_table
from jobs.evaluation.open_loop import BASELINES, describe_still, episodes_told
from jobs.evaluation.rollout_log import benchmark_told

LANGUAGE = {
    "compliance": "turned as told, both ways",
    "open": 'told "open"',
    "close": 'told "close"',
    "blank": "told nothing: the scene's own way",
    "blank_turned": "told nothing: either way",
}
VERDICT_STYLES = {"good": "bold green", "concern": "bold yellow", "bad": "bold red", "unknown": "bold"}
"""Kind of a verdict -> how it looks on the terminal."""


def open_loop_table(found: Mapping[str, Any]) -> Table:
    """Squared errors over variances, and the policy's error as a part of the baseline's: below 1 it is better."""
    told = episodes_told(found["episodes"], found["standing"])
    title = f"Open loop: {found['samples']} chunks of {told}; squared error / variance"
    rules = found.get("hold_still_is")
    caption = f"hold still: {describe_still(rules)}" if rules else None
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("error", "95%", "policy /", "95%"):
        table.add_column(column, justify="right", no_wrap=True)
    several = found["episodes"] > 1  # of one, earlier versions stored an interval
    for method, error in found["normalised_squared_error"].items():
        ratio = found["policy_over_baseline"].get(method)
        table.add_row(
            BASELINES.get(method, method),
            f"{error['value']:.4g}",
            span_told(error["bootstrap95"]) if several else "",
            "" if ratio is None else f"{ratio['value']:.3f}",
            span_told(ratio["bootstrap95"]) if several and ratio is not None else "",
        )
    return table


def closed_loop_tables(found: Mapping[str, Any]) -> list[Table]:
    """Success by task and, where it was checked, how the faucet answers to words."""
    columns = ("success", "95% (Wilson)", "seconds")
    success = numbers_table(f"Closed loop in {benchmark_told(found['settings'])}, unseen starts", ["task"], columns)
    for task, share in found["success"].items():
        seconds = found["mean_seconds"].get(task)
        success.add_row(task, *_share(share), "" if seconds is None else f"{seconds:.2f}")
    if "language" not in found:
        return [success]
    language = numbers_table("Which way the faucet was turned", [""], ("share", "95% (Wilson)"))
    for name, share in found["language"].items():
        language.add_row(LANGUAGE[name], *_share(share))
    return [success, language]


def span_told(bounds: Sequence[float | None]) -> str:
    """ "0.1 to 0.3"; empty where it is not known."""
    low, high = bounds
    return "" if low is None or high is None or math.isnan(low + high) else f"{low:.3g} to {high:.3g}"


def _share(share: Mapping[str, Any]) -> tuple[str, str]:
    if not share["trials"]:
        return "-", ""
    low, high = share["wilson95"]
    return f"{share['successes']} of {share['trials']}", f"{low:.0%} to {high:.0%}"
