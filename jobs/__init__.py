"""What one runs: every `giza JOB` as a function, for notebooks and scripts.

    import jobs

    lam = jobs.train_lam("corpus", recipe="small", minutes=8, out="runs/lam")
    lam.model, lam.summary, lam.folder

A function takes the fields of the job's config by their names (see `giza JOB --help`), a recipe's nested settings as a
dictionary (`training={"lr": 1e-3}`), and where a folder is wanted also what was opened from it or the result that names it.
It does what the command does: writes to `out`, resumes what was interrupted, returns at once what is finished, and raises
ValueError for what the command refuses in a line. Results open what was made when it is first asked for.

Nothing is imported before it is used: `import jobs` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs import ablation, evaluation
    from jobs.functions import (
        ablate,
        crosspaint,
        evaluate,
        extract,
        ground,
        ingest,
        label,
        pretrain,
        report,
        simulate,
        track,
        train_lam,
    )

_FUNCTIONS = (
    "ablate",
    "crosspaint",
    "evaluate",
    "extract",
    "ground",
    "ingest",
    "label",
    "pretrain",
    "report",
    "simulate",
    "track",
    "train_lam",
)
_ROOMS = ("ablation", "evaluation")

__all__ = [
    "ablate",
    "ablation",
    "crosspaint",
    "evaluate",
    "evaluation",
    "extract",
    "ground",
    "ingest",
    "label",
    "pretrain",
    "report",
    "simulate",
    "track",
    "train_lam",
]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module("jobs.functions"), name)
    if name in _ROOMS:
        return importlib.import_module(f"jobs.{name}")
    raise AttributeError(f"module 'jobs' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
