"""What an extraction is asked for, and the pieces that do it, the same in every process of every engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import torch

from corpora.clips.corpus import Corpus
from corpora.store.files import available_cores
from lapa.extraction.engine import Featurise, PairRunner
from lapa.latents import LatentKey, Part
from lapa.model.checkpoint import load_lam, model_hash
from lapa.model.lam import LatentActionModel
from lapa.pairs.reader import ClipPreparer, Fed, feed

HEAVY_PARAMETERS = 20_000_000
"""A model above this keeps every core busy by itself; decoding for it is no more than a side job."""
AHEAD_BATCHES = 8
"""Stored frames that are prepared ahead of the model, in batches; about half as many make pairs."""


@dataclass(frozen=True)
class ExtractionSettings:
    """Where from, and which pairs."""

    lam: Path
    corpus: Path
    gap_s: float
    stride_s: float
    part_frames: int

    def __post_init__(self) -> None:
        if not self.gap_s > 0:
            raise ValueError(
                f"gap_s {self.gap_s}: the gap between the frames of a pair must be above 0 seconds; try 0.5"
            )
        if not self.stride_s >= 0:
            raise ValueError(
                f"stride_s {self.stride_s}: must be 0 (every frame begins a pair) or more seconds; try 0.1"
            )
        if self.part_frames < 1:
            raise ValueError(f"part_frames {self.part_frames}: must be at least 1; try 4096")

    def key(self, corpus: Corpus) -> LatentKey:
        """Of the rows; see `LatentKey`."""
        return LatentKey(
            model_hash=model_hash(self.lam),
            gap_s=self.gap_s,
            stride_s=self.stride_s,
            corpus=corpus.identity,
            part_frames=self.part_frames,
        )

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "lam": str(self.lam), "corpus": str(self.corpus)}

    @staticmethod
    def from_json(record: dict[str, Any]) -> ExtractionSettings:
        return ExtractionSettings(**{**record, "lam": Path(record["lam"]), "corpus": Path(record["corpus"])})


@dataclass(frozen=True)
class Machinery:
    """A loaded model and the threads that feed it."""

    model: LatentActionModel
    prepare: ClipPreparer
    batch_size: int
    workers: int
    """Threads that decode and prepare."""
    torch_threads: int
    """Threads of the model, where it runs on the CPU."""
    featurise: Featurise | None

    def feed(self, root: Path, parts: Iterable[Part]) -> Iterator[Fed]:
        """Prepared clips of `parts`, far enough ahead that a batch of the model does not empty the queue."""
        return feed(root, parts, self.prepare, self.workers, AHEAD_BATCHES * self.batch_size)

    def runner(self) -> PairRunner:
        return PairRunner(self.model, self.batch_size, self.featurise)


def choose_device(device: Literal["auto", "cpu", "cuda"]) -> str:
    """auto: a GPU where there is one. Raises ValueError for a GPU that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda': PyTorch sees no GPU here; use --device cpu or auto")
    return device


def build_machinery(
    settings: ExtractionSettings,
    *,
    device: str,
    batch_size: int,
    workers: int | None,
    cores: int | None = None,
    seed: int = 0,
) -> Machinery:
    """Loads the model and divides the cores: on a CPU half of them feed and half run the model, so that neither takes
    from the other; with a GPU all but one feed. Sets the threads of PyTorch and OpenCV in this process."""
    torch.manual_seed(seed)
    model = load_lam(settings.lam, device)
    if not model.quantiser.settled:
        raise ValueError(
            f"the code book of '{settings.lam}' has never seen data: train the model with giza train-lam first"
        )
    cores = cores or available_cores()
    heavy = sum(p.numel() for p in model.encoder.parameters()) > HEAVY_PARAMETERS or not model.config.pixels
    if workers is None:
        workers = max(1, cores - 1) if device != "cpu" else 1 if heavy else max(1, cores // 2)
    if workers < 1:
        raise ValueError(f"workers {workers}: must be at least 1")
    torch_threads = cores if heavy else max(1, cores - workers)
    torch.set_num_threads(torch_threads)
    cv2.setNumThreads(1)  # each feeding thread has a clip of its own; more threads below them would only wait for cores
    featurise: Featurise | None = None
    if not model.config.pixels:
        from flare.vision import frozen_vision

        featurise = frozen_vision(model.config.target).to(device).of_frames
    prepare = ClipPreparer(model.config, settings.gap_s, settings.stride_s)
    return Machinery(model, prepare, batch_size, workers, torch_threads, featurise)
