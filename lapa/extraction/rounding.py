"""What a network in bfloat16 does to latents: measured on some pairs of the corpus itself, for it differs between models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corpora.clips.parts import Part
from lapa.extraction.engine import ExtractionPipeline
from lapa.pairs.batch import PairBatch

SAMPLE_PAIRS = 64


@dataclass(frozen=True)
class Rounding:
    """In bfloat16 beside float32."""

    latent_moved: float
    """Root mean square of how far a latent's numbers move, over their standard deviation from pair to pair."""
    codes_equal: float | None
    """Share; None for continuous models."""
    pairs: int


def measure_rounding(pipeline: ExtractionPipeline, root: Path, parts: Sequence[Part]) -> Rounding | None:
    """Of the corpus' first pairs; None where the network is in float32 anyway, or there are fewer than two pairs."""
    if pipeline.precision == "float32":
        return None
    sample: list[PairBatch] = []
    for _, _, item in pipeline.read(root, parts):
        if isinstance(item, PairBatch):
            sample.append(item)
            if sum(map(len, sample)) >= SAMPLE_PAIRS:
                break
    if sum(map(len, sample)) < 2:
        return None
    pairs = PairBatch.cat([item.of_model() for item in sample])
    pairs = pairs.take(np.linspace(0, len(pairs) - 1, min(SAMPLE_PAIRS, len(pairs))).astype(np.int64))
    exact, rounded = (
        dataclasses.replace(pipeline, precision=precision).encoder() for precision in ("float32", "bfloat16")
    )
    for encoder in (exact, rounded):
        encoder.add(pairs)
    one, other = exact.finish(), rounded.finish()
    spread = float(np.sqrt(one["latent"].var(0).mean()))
    moved = float(np.sqrt(((other["latent"] - one["latent"]) ** 2).mean()))
    codes = float((one["codes"] == other["codes"]).mean()) if one["codes"].size else None
    return Rounding(moved / spread if spread else 0.0, codes, len(pairs))
