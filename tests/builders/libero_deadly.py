"""An order that ends its process, or never is done."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corpora.simulation.libero.channel import Say
from tests.builders.fake_libero import World


def work(order: Mapping[str, Any], say: Say) -> None:
    if "start" in order:
        World("libero_object", size=16).begin(order["start"])
    note = Path(order["note"])
    note.with_suffix(".part").write_text(str(os.getpid()))
    note.with_suffix(".part").rename(note)
    time.sleep(600)
