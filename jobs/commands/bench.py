"""Throughput as a ratio to its limit, measured in one run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from jobs.cli import closest

BENCHES = {
    "extract": ("jobs.benchmarks.extract", "pairs/s of giza extract over its slower stage alone"),
    "policy": ("jobs.benchmarks.policy", "milliseconds of an action chunk by part, eager and compiled"),
}


def usage() -> str:
    lines = ["usage: giza bench WHAT [flags]      (giza bench WHAT --help lists its flags)", ""]
    return "\n".join(lines + [f"  {name:<10} {text}" for name, (_, text) in BENCHES.items()])


def main(argv: Sequence[str]) -> None:
    """The job's command line. Raises ValueError for an unknown bench."""
    if not argv or argv[0] in {"-h", "--help"}:
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return
    name, rest = argv[0], argv[1:]
    if name not in BENCHES:
        raise ValueError(f"no bench '{name}'. {closest(name, list(BENCHES))}")
    importlib.import_module(BENCHES[name][0]).main(rest)
