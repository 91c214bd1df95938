"""`giza ablate`: which tier of the pyramid buys what, at matched steps, batch and robot data, with seeds and intervals."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.ablation.config import RECIPES, AblateConfig
from jobs.cli import parse


def run(config: AblateConfig) -> None:
    """Imports what runs it when the flags are known to be right: it brings NumPy, PyArrow and PyAV."""
    from jobs.ablation import running

    running.run(config)


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    run(parse(AblateConfig, argv, job="ablate", recipes=RECIPES, recipe="demo"))
