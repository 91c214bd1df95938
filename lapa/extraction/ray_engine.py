"""Extraction on a Ray cluster: the same function on every machine."""

from __future__ import annotations

import dataclasses
import functools
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corpora.clips.corpus import Corpus
from corpora.clips.parts import Part, PartSummary, plan_parts
from corpora.cluster import joined, machines, shared, work_through
from corpora.store.files import peak_memory_mb, put_in_place
from lapa.extraction.engine import latent_key, open_pipeline
from lapa.extraction.settings import Device, ExtractionSettings
from lapa.extraction.throughput import StageSpeeds, measure_stages
from lapa.latents import LatentKey

_MEASURE = -1
"""In the place of a part's index: the speeds of the stages."""


class _Extractor:
    """One model, to which parts go one after another."""

    def __init__(self, settings: ExtractionSettings, key: LatentKey, out: Path, scratch: Path, cores: int) -> None:
        corpus = Corpus(settings.corpus)
        if latent_key(settings, corpus) != key:
            raise ValueError(
                f"a worker on '{socket.gethostname()}' finds another model or corpus under '{settings.lam}' and "
                f"'{settings.corpus}' than this machine does: share the folders, and do not copy them"
            )
        self._settings, self._key, self._out = settings, key, out
        self._own = Path(tempfile.mkdtemp(dir=scratch))  # another may still be at the part that this one is given
        self._pipeline = open_pipeline(settings, cores)
        self._plan = plan_parts(corpus.clips, settings.part_frames)

    def __call__(self, index: int) -> tuple[PartSummary | StageSpeeds | None, float, Device]:
        """What is asked for, the peak memory in MB and the device."""
        made: PartSummary | StageSpeeds | None
        if index == _MEASURE:
            made = measure_stages(self._pipeline, self._settings.corpus, self._plan[:1], self._settings.measure_s)
        else:
            part = self._plan[index]
            (made,) = self._pipeline.write(self._settings.corpus, [part], self._key, self._own)
            put_in_place(self._own / part.name, self._out / part.name)
        return made, peak_memory_mb(), self._pipeline.device


def extract_on_ray(
    settings: ExtractionSettings,
    key: LatentKey,
    todo: Sequence[Part],
    out: Path,
    count: Callable[[int, int], None],
) -> tuple[list[PartSummary], dict[str, Any]]:
    """Writes the parts `todo` on a cluster.

    A worker for each core (at most `settings.workers`), with one thread that decodes and one for the model, which take turns;
    or for each GPU, with `settings.workers` threads that decode. The folders must be visible under the same paths everywhere.
    Returns what was written, and how fast; the speeds of the stages are those of one worker times their number. Raises OSError
    for a part that ends every worker it goes to, once the others are written.
    `count`: called with the (clips, pairs) that were done since its last call.
    """
    with joined(), shared(out, settings.lam, settings.corpus) as folders:
        gpus = 0 if settings.device == "cpu" else sum(has for _, has in machines())
        if settings.device == "cuda" and not gpus:
            raise ValueError("device 'cuda': no machine of the cluster has a GPU; use --device cpu or auto")
        cores = sum(has for has, _ in machines())
        beside = max(1, min((cores // gpus for cores, gpus in machines() if gpus), default=1))
        threads = (settings.workers or max(1, beside - 1)) if gpus else 1
        actors = max(1, min(gpus or settings.workers or cores, gpus or cores, len(todo)))
        device: Device = settings.device if gpus else "cpu"  # workers see what they have, and not what this machine has
        arguments = (dataclasses.replace(settings, workers=threads, device=device), key, out)
        written: list[PartSummary] = []
        speeds: StageSpeeds | None = None
        faults: dict[int, str] = {}
        peak, seconds, began = 0.0, 0.0, time.perf_counter()

        def lost(index: int, reason: str) -> tuple[None, float, Device]:
            faults[index] = reason
            return None, 0.0, device

        work = work_through(
            functools.partial(_Extractor, *arguments, folders.scratch, threads + 1),
            [part.index for part in todo] + [_MEASURE] * bool(settings.measure_s),
            folders,
            lost=lost,
            most=None if gpus else settings.workers,
            cores=min(threads, beside),
            gpus=1 if gpus else 0,
        )
        for _, (made, memory_mb, where) in work:
            if isinstance(made, StageSpeeds):
                alone = dataclasses.asdict(made)
                speeds = StageSpeeds(**{name: value * actors for name, value in alone.items()})
            elif isinstance(made, PartSummary):
                written.append(made)
                device = where
                peak, seconds = max(peak, memory_mb), time.perf_counter() - began
                count(made.clips + len(made.skipped), made.pairs)
    if failed := [part for part in todo if part.index in faults]:
        first, names = failed[0], ", ".join(row.clip_id for row in failed[0].rows)
        raise OSError(
            f"{len(failed)} of {len(todo)} parts could not be made, the others are written; the first is {first.name} (shard "
            f"{first.shard}, clips {names[:200]}): {faults[first.index]}"
        )
    return written, {
        "device": device,
        "workers": threads,
        "actors": actors,
        "seconds": seconds,
        "peak_memory_mb": peak,
        "speeds": speeds,
    }
