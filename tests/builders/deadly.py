"""Work that ends the worker it is given to, for a cluster's workers to import (GIZA_MODULES)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from corpora.clips.parts import Part, PartSummary
from corpora.ingestion.stage import stage_source
from corpora.ingestion.worker import Heartbeat

DEADLY_PART = "GIZA_TEST_DEADLY_PART"
"""Environment variable: a file; where it is there, the part whose number it holds ends its worker."""


def stage(task: dict[str, Any], heartbeat: Heartbeat) -> dict[str, Any]:
    """As ingest's own; of "deadly.mp4" it ends the worker that listens to it, and of "crashing.mp4" itself."""
    if task["source"]["name"] == "deadly.mp4":
        os.kill(os.getppid(), signal.SIGKILL)
    if task["source"]["name"] == "crashing.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    return stage_source(task, heartbeat)


if (note := Path(os.environ.get(DEADLY_PART) or "/")).is_file():
    from lapa.extraction.engine import ExtractionPipeline

    write = ExtractionPipeline.write

    def deadly(self: ExtractionPipeline, root: Path, parts: Iterable[Part], *rest: Any) -> Iterator[PartSummary]:
        parts = list(parts)
        if parts[0].index == int(note.read_text()):
            os.kill(os.getpid(), signal.SIGSEGV)
        return write(self, root, parts, *rest)

    ExtractionPipeline.write = deadly  # type: ignore[method-assign]
