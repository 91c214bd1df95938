"""How fast each stage of an extraction is by itself, in one process, with the threads it has when all run together."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from corpora.clips.parts import Part
from lapa.extraction.engine import ExtractionPipeline
from lapa.latents import LatentKey
from lapa.pairs.batch import PairBatch

SAMPLE_PAIRS = 512
"""Prepared pairs that the model is timed on, again and again."""


@dataclass(frozen=True)
class StageSpeeds:
    """Pairs a second of each stage with nothing else running."""

    decode_pairs_per_s: float
    """Reading, decoding and preparing pairs (resize, camera warp, optical flow): all that the feeding threads do."""
    model_pairs_per_s: float
    """Upload, network and download of the result: all that the main thread does but writing."""


def measure_stages(
    pipeline: ExtractionPipeline, root: Path, parts: Sequence[Part], seconds: float
) -> StageSpeeds | None:
    """Each stage alone for at least `seconds`, over the corpus again and again where it is short.

    None where the corpus holds no pair.
    """
    sample = prepared_sample(pipeline, root, parts)
    if not sample:
        return None
    return StageSpeeds(feed_alone(pipeline, root, parts, seconds), model_alone(pipeline, sample, seconds))


def end_to_end(
    pipeline: ExtractionPipeline, root: Path, parts: Sequence[Part], key: LatentKey, out: Path, pairs_wanted: int
) -> float:
    """Pairs a second of a whole extraction to `out`, from the first byte read to the last part written.

    The corpus is gone through as often as makes at least `pairs_wanted` pairs; parts are named by how manieth they are.
    """
    pairs, start = 0, time.perf_counter()

    def again_and_again() -> Iterator[Part]:
        for number, part in enumerate(itertools.cycle(parts)):
            if number >= len(parts) and pairs >= pairs_wanted:
                return
            yield dataclasses.replace(part, index=number)

    def add(more: int) -> None:
        nonlocal pairs
        pairs += more

    for _ in pipeline.write(root, again_and_again(), key, out, add):
        pass
    return pairs / (time.perf_counter() - start)


def prepared_sample(pipeline: ExtractionPipeline, root: Path, parts: Sequence[Part]) -> list[PairBatch]:
    """Prepared clips of about SAMPLE_PAIRS pairs; empty where the corpus holds no pair."""
    sample: list[PairBatch] = []
    for _, _, item in pipeline.read(root, parts):
        if isinstance(item, PairBatch):
            sample.append(item)
            if sum(len(clip) for clip in sample) >= SAMPLE_PAIRS:
                break
    return sample


def feed_alone(pipeline: ExtractionPipeline, root: Path, parts: Sequence[Part], seconds: float) -> float:
    """Pairs a second of the feeding threads, with nothing to wait for."""
    pairs, start, now = 0, time.perf_counter(), 0.0
    while now < seconds:
        for _, _, item in pipeline.read(root, parts):
            pairs += len(item) if isinstance(item, PairBatch) else 0
            now = time.perf_counter() - start
            if now >= seconds:
                break
    return pairs / now


def model_alone(pipeline: ExtractionPipeline, sample: Sequence[PairBatch], seconds: float) -> float:
    """Pairs a second of the model, its input ready in memory."""
    encoder = pipeline.encoder()
    for clip in sample[:1]:  # the first batch also pays for what PyTorch sets up
        encoder.add(clip)
    encoder.finish()
    if next(pipeline.model.parameters()).is_cuda:
        torch.cuda.synchronize()
    pairs, start, now = 0, time.perf_counter(), 0.0
    for number, clip in enumerate(itertools.cycle(sample), 1):
        encoder.add(clip)
        pairs += len(clip)
        if number % len(sample) == 0:
            encoder.finish()
            now = time.perf_counter() - start
            if now >= seconds:
                break
    return pairs / now
