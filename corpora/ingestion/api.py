"""Ingest for who calls it from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from corpora.clips.corpus import Corpus
from corpora.ingestion.pipeline import IngestRun, Progress, silent
from corpora.ingestion.pipeline import ingest as ingest_folder
from corpora.ingestion.settings import IngestSettings
from corpora.sources.source import SourceDefaults
from corpora.store.files import available_cores

SETTINGS = IngestSettings()
DEFAULTS = SourceDefaults()


def ingest(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: IngestSettings = SETTINGS,
    *,
    defaults: SourceDefaults = DEFAULTS,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    progress: Progress = silent,
) -> Corpus:
    """Makes a corpus of clean clips at `out`, or goes on with it, or opens it where it is finished.

    `inputs`: video files, folders, globs, .jsonl lists, WebDataset tars, LeRobot datasets, and kinds that were registered.
    `defaults`: tier, embodiment and text of sources of which no list says otherwise. `workers`: processes that decode side
    by side; None: one for each core. Raises FileNotFoundError for an input that is not there, and ValueError where `out`
    holds something else, another ingest writes there, or there is no video.
    """
    several = [inputs] if isinstance(inputs, str | Path) else inputs
    run = IngestRun(Path(out), engine, workers or available_cores())
    ingest_folder([os.fspath(each) for each in several], settings, defaults, run, progress)
    return Corpus(run.out)
