"""The LIBERO environment's end of a worker: reads its order, does it, and tells what it did as JSON lines on what was its standard
output; what libraries print goes to standard error."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Say = Callable[..., None]
"""Called with a map for JSON, and with arrays by name."""


def main() -> int:
    """Does the order; returns the exit status: 0 also where it could not go on and has said why."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    count = 0

    def say(message: Mapping[str, Any], **arrays: Any) -> None:
        nonlocal count
        told = dict(message)
        if arrays:
            path = Path(order["folder"]) / f"{order['number']}-{count}.npz"
            np.savez(path, **arrays)
            told["file"], count = str(path), count + 1
        print(json.dumps(told), file=out, flush=True)

    try:
        importlib.import_module(order["module"]).work(order, say)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        traceback.print_exc()
        say({"error": " ".join(str(error).split()), "machine": not isinstance(error, ValueError)})
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)
