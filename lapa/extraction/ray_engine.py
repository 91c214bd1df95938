"""Extraction as a Ray Data pipeline: the same function on every machine of a cluster that shares the folders."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from corpora.clips.corpus import Corpus
from corpora.clips.parts import Part, PartSummary, plan_parts
from corpora.store.decode import decode
from corpora.store.files import peak_memory_mb
from lapa.extraction.engine import open_pipeline
from lapa.extraction.settings import Device, ExtractionSettings
from lapa.extraction.throughput import StageSpeeds, measure_stages
from lapa.latents import LatentKey

BATCH = 4096
"""Parts handed to one pipeline: what is known of them at a time, however large the corpus."""


class _Extractor:
    """A Ray actor: one model, to which parts go one after another."""

    def __init__(self, settings: ExtractionSettings, key: LatentKey, out: Path, cores: int) -> None:
        self._settings, self._key, self._out = settings, key, out
        self._pipeline = open_pipeline(settings, cores)
        self._plan = plan_parts(Corpus(self._settings.corpus).clips, self._settings.part_frames)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        parts = [self._plan[int(row["index"])]]
        if row["measure"]:
            speeds = measure_stages(self._pipeline, self._settings.corpus, parts, self._settings.measure_s)
            return {"reply": json.dumps({"speeds": None if speeds is None else dataclasses.asdict(speeds)})}
        (summary,) = self._pipeline.write(self._settings.corpus, parts, self._key, self._out)
        made = {"peak_memory_mb": peak_memory_mb(), "device": self._pipeline.device}
        reply = {"part": dataclasses.asdict(summary), **made}
        return {"reply": json.dumps(reply)}


def extract_on_ray(
    settings: ExtractionSettings,
    key: LatentKey,
    todo: Sequence[Part],
    out: Path,
    count: Callable[[int, int], None],
) -> tuple[list[PartSummary], dict[str, Any]]:
    """Writes the parts `todo` on the cluster Ray is connected to (started on this machine where there is none).

    An actor for each core, with one thread that decodes and one for the model, which take turns; or for each GPU, with
    `settings.workers` threads that decode. The folders must be visible under the same paths everywhere. Returns what was
    written, and how fast; the speeds of the stages are those of one actor times the number of actors.
    `count`: called with the (clips, pairs) that were done since its last call.
    """
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the job has its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if settings.device != "cpu" else 0
    if settings.device == "cuda" and not gpus:
        raise ValueError("device 'cuda': no machine of the cluster has a GPU; use --device cpu or auto")
    cores = max(1, int(resources.get("CPU", 1)))
    threads = (settings.workers or max(1, cores // gpus - 1)) if gpus else 1
    actors = max(1, min(gpus or cores, len(todo)))
    device: Device = settings.device if gpus else "cpu"  # each actor sees what it has, and not what this machine has
    arguments = (dataclasses.replace(settings, workers=threads, device=device), key, out, threads + 1)

    extractor: Any = _Extractor  # Ray's types know of functions only

    def pipeline(rows: list[dict[str, Any]], size: int) -> Any:
        return (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .map(
                extractor,
                fn_constructor_args=arguments,
                num_cpus=min(threads, cores) if gpus else 1,
                num_gpus=1 if gpus else 0,
                compute=ray.data.ActorPoolStrategy(size=size),
            )
            .iter_rows()
        )

    written: list[PartSummary] = []
    speeds: StageSpeeds | None = None
    peak, seconds, began = 0.0, 0.0, time.perf_counter()
    for start in range(0, max(1, len(todo)), BATCH):
        rows = [{"index": part.index, "measure": False} for part in todo[start : start + BATCH]]
        if settings.measure_s and start + BATCH >= len(todo):
            rows.append({"index": todo[0].index if todo else 0, "measure": True})  # once an actor is free
        for row in pipeline(rows, min(actors, len(rows))) if rows else ():
            reply = json.loads(row["reply"])
            if "part" not in reply:
                alone = reply["speeds"]
                speeds = alone and StageSpeeds(**{name: value * actors for name, value in alone.items()})
                continue
            summary = decode(PartSummary, reply["part"], what="reply of an actor")
            written.append(summary)
            device = reply["device"]
            peak, seconds = max(peak, reply["peak_memory_mb"]), time.perf_counter() - began
            count(summary.clips + len(summary.skipped), summary.pairs)
    return written, {
        "device": device,
        "workers": threads,
        "actors": actors,
        "seconds": seconds,
        "peak_memory_mb": peak,
        "speeds": speeds,
    }
