"""`giza ablate`: which tier of the pyramid buys what, at matched steps, batch and robot data, with seeds and intervals."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.ablation.config import RECIPES, AblateConfig
from jobs.cli import parse


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    config = parse(AblateConfig, argv, job="ablate", recipes=RECIPES, recipe="demo")
    from jobs.ablation.running import run  # after the flags: it brings NumPy, PyArrow and PyAV

    run(config)
