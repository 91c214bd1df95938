"""Modules of the user's own, which register what giza knows by name (a quantiser, a kind of source, a tracker): the environment
variable GIZA_MODULES names them, so that jobs and the processes that they start know it, too.

    PYTHONPATH=. GIZA_MODULES=my_quantiser giza train-lam --model.quantiser.kind mine ...

A folder that is loaded never names code: only who starts giza does.
"""

from __future__ import annotations

import importlib
import os

VARIABLE = "GIZA_MODULES"


def load_own_modules() -> None:
    """Imports those that are not imported yet. Raises ValueError for one that cannot be."""
    for name in filter(None, (word.strip() for word in os.environ.get(VARIABLE, "").split(","))):
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ValueError(
                f"{VARIABLE} names '{name}', which cannot be imported ({type(error).__name__}: {error}); is its folder on "
                "PYTHONPATH?"
            ) from error
