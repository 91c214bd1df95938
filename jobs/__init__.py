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

# ruff: noqa: F401 - the names are for type checkers; `door` imports them
from __future__ import annotations

from typing import TYPE_CHECKING

from corpora.door import door

if TYPE_CHECKING:
    from jobs import ablation, evaluation
    from jobs.functions import (
        ablate,
        compare,
        crosspaint,
        evaluate,
        export,
        extract,
        ground,
        ingest,
        label,
        multiply,
        pretrain,
        report,
        simulate,
        track,
        train_lam,
    )

__getattr__, __dir__, __all__ = door(
    __name__,
    {
        "jobs.ablation": "",
        "jobs.evaluation": "",
        "jobs.functions": "ablate compare crosspaint evaluate export extract ground ingest label multiply pretrain report "
        "simulate track train_lam",
    },
)
