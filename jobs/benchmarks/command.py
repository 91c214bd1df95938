"""Throughput as a ratio to its limit, measured in one run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from jobs.benchmarks.settings import BenchExtractConfig, BenchPolicyConfig
from jobs.cli import closest, parse

BENCHES: dict[str, tuple[str, type[Any], str]] = {
    "extract": ("extract", BenchExtractConfig, "pairs/s of giza extract over its slower stage alone"),
    "policy": ("policy", BenchPolicyConfig, "milliseconds of an action chunk by part, eager and compiled"),
}
"""Name -> module of jobs.benchmarks with `run(config)` and `table(result)`, its config, and what it measures."""


def usage() -> str:
    lines = ["usage: giza bench WHAT [flags]      (giza bench WHAT --help lists its flags)", ""]
    return "\n".join(lines + [f"  {name:<10} {text}" for name, (_, _, text) in BENCHES.items()])


def main(argv: Sequence[str]) -> None:
    """The job's command line. Raises ValueError for an unknown bench."""
    if not argv or argv[0] in {"-h", "--help"}:
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return
    name, rest = argv[0], argv[1:]
    if name not in BENCHES:
        raise ValueError(f"no bench '{name}'. {closest(name, list(BENCHES))}")
    module, config_type, _ = BENCHES[name]
    config = parse(config_type, rest, job=f"bench {name}")
    from rich.console import Console

    bench = importlib.import_module(f"jobs.benchmarks.{module}")
    Console().print(bench.table(bench.run(config)))
