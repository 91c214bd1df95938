"""The `giza` command: picks a job by name, parses its frozen config with tyro, and turns a user's error into one line.

A job module has a docstring (its first line is the help text) and `main(argv)`. Jobs are imported only when they are
called, so that `giza --help` answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import TypeVar

JOBS = {
    "demo": ("jobs.commands.demo", "run everything on the sample corpus and write report.html"),
    "simulate": ("jobs.commands.simulate", "Meta-World video whose actions are known, as a LeRobot v3.0 dataset"),
    "ingest": ("jobs.commands.ingest", "any video to clean clips: shards, manifest, reasons"),
    "train-lam": ("jobs.commands.train_lam", "train a latent action model on an ingested corpus"),
    "extract": ("jobs.commands.extract", "latent actions of a corpus, as Parquet"),
    "report": ("jobs.commands.report", "may I trust these latents? report.json and report.html"),
    "label": ("jobs.commands.label", "pseudo-actions of a corpus by an inverse dynamics model, as Parquet"),
    "pretrain": ("jobs.commands.pretrain", "a policy on human video, synthetic and robot data in one mixture"),
    "ground": ("jobs.commands.ground", "few-demonstration post-training of a policy on one robot"),
    "evaluate": ("jobs.commands.evaluate", "open loop on held-out episodes, closed loop in Meta-World"),
    "serve": ("jobs.commands.serve", "a policy server in Isaac-GR00T's protocol"),
    "pyramid": ("jobs.commands.pyramid", "print and draw a pyramid file, and check it"),
    "ablate": ("jobs.commands.ablate", "which tier buys what, at a matched budget, with seeds and intervals"),
    "bench": ("jobs.commands.bench", "throughput as a ratio to its limit, measured in one run"),
}

Config = TypeVar("Config")


def closest(name: str, known: Sequence[str]) -> str:
    """`"Did you mean 'x'? "` for the known name nearest to `name`, or an empty string; then the known names."""
    near = difflib.get_close_matches(name, known, n=1)
    return (f"Did you mean '{near[0]}'? " if near else "") + "Known: " + ", ".join(known) + "."


def parse(config_type: type[Config], argv: Sequence[str], *, job: str, default: Config | None = None) -> Config:
    """Parse `argv` into `config_type`; exits with status 2 and a usage message on a wrong flag."""
    import tyro

    if default is None:
        return tyro.cli(config_type, args=list(argv), prog=f"giza {job}")
    return tyro.cli(config_type, args=list(argv), prog=f"giza {job}", default=default)


def usage() -> str:
    lines = ["usage: giza JOB [flags]      (giza JOB --help lists a job's flags)", ""]
    lines += [f"  {name:<10} {text}" for name, (_, text) in JOBS.items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `giza` command; returns the exit status (2: the user's error, in one line)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0
    name, rest = argv[0], argv[1:]
    if name not in JOBS:
        print(f"giza: no job '{name}'. {closest(name, list(JOBS))}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for package in ("corpora", "lapa", "flare", "vla", "jobs"):
        logging.getLogger(package).setLevel(logging.INFO)
    # OpenMP threads that spin while they wait starve the loaders beside them; read when torch is first imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        importlib.import_module(JOBS[name][0]).main(rest)
    except (ValueError, FileNotFoundError) as error:
        print(f"giza {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"giza {name}: stopped; run the same command again to resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
