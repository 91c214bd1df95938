"""Extraction: pairs of clips through a model, and the parts that they are written to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.parts import Part, PartSummary, SkippedClip
from corpora.store.files import available_cores
from corpora.store.told import not_compiled
from lapa.extraction.settings import Device, ExtractionSettings, Precision
from lapa.latents import LatentKey, write_latent_part
from lapa.model.checkpoint import featurise_of, load_lam, model_hash
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch
from lapa.pairs.reader import PairReader

HEAVY_PARAMETERS = 20_000_000
"""A model above this keeps every core busy by itself; decoding for it is no more than a side job."""
AHEAD_BATCHES = 8
"""Stored frames that are prepared ahead of the model, in batches; about half as many make pairs."""


def latent_key(settings: ExtractionSettings, corpus: Corpus) -> LatentKey:
    """Of the rows; see `LatentKey`."""
    assert settings.gap_s is not None
    return LatentKey(
        model_hash=model_hash(settings.lam),
        corpus=corpus.identity,
        part_frames=settings.part_frames,
        gap_s=settings.gap_s,
        stride_s=settings.stride_s,
        precision=settings.precision,
    )


@dataclass(frozen=True)
class ExtractionPipeline:
    """A model and the threads that read pairs for it."""

    model: LatentActionModel
    reader: PairReader
    batch_size: int
    device: Literal["cpu", "cuda"]
    """The model's."""
    workers: int
    """Threads that decode and prepare."""
    torch_threads: int
    """Threads of the model, where it runs on the CPU."""
    precision: Precision = "float32"
    """Of the network."""

    def read(self, root: Path, parts: Iterable[Part]) -> Iterator[tuple[Part, ClipRow, PairBatch | SkippedClip]]:
        """Pairs of the clips of `parts`, far enough ahead that a batch of the model does not empty the queue."""
        ahead = AHEAD_BATCHES * self.batch_size
        return self.reader.read(root, parts, workers=self.workers, ahead_frames=ahead)

    def encoder(self) -> BatchEncoder:
        return BatchEncoder(self.model, self.batch_size, self.precision)

    def write(
        self, root: Path, parts: Iterable[Part], key: LatentKey, out: Path, on_clip: Callable[[int], None] | None = None
    ) -> Iterator[PartSummary]:
        """Writes the latents of `parts` to `out`, and yields the summary of each part as soon as it is whole.

        `on_clip`: called with the number of pairs of each clip as it passes; 0 where it was skipped.
        """
        encoder = self.encoder()
        clips: list[tuple[ClipRow, PairBatch]] = []
        skipped: list[SkippedClip] = []
        for part, row, item in self.read(root, parts):
            pairs = 0
            if isinstance(item, SkippedClip):
                skipped.append(item)
            else:
                encoder.add(item)
                clips.append((row, item.without_images()))
                pairs = len(item)
            if on_clip is not None:
                on_clip(pairs)
            if len(clips) + len(skipped) == len(part.rows):
                yield write_latent_part(out, part, key, clips, encoder.finish(), skipped)
                clips, skipped = [], []


def open_pipeline(settings: ExtractionSettings, cores: int | None = None) -> ExtractionPipeline:
    """Loads the model and divides the cores (default: all): on a CPU half of them feed and half run the model, so that
    neither takes from the other; with a GPU all but one feed. Sets the threads of PyTorch and OpenCV in this process."""
    assert settings.gap_s is not None
    torch.manual_seed(settings.seed)
    device, workers = choose_device(settings.device), settings.workers
    model = load_lam(settings.lam, device)
    if not model.quantiser.settled:
        raise ValueError(
            f"the codebook of '{settings.lam}' has never seen data: train the model with giza train-lam first"
        )
    if settings.compile:
        model.encoder.compile()
    cores = cores or available_cores()
    heavy = sum(p.numel() for p in model.encoder.parameters()) > HEAVY_PARAMETERS or not model.config.pixels
    if workers is None:
        workers = max(1, cores - 1) if device != "cpu" else 1 if heavy else max(1, cores // 2)
    torch_threads = cores if heavy else max(1, cores - workers)
    torch.set_num_threads(torch_threads)
    cv2.setNumThreads(1)  # each feeding thread has a clip of its own; more threads below them would only wait for cores
    featurise = featurise_of(settings.lam, model.config, device)
    reader = PairReader(model.config.pair, (settings.gap_s,), settings.stride_s, featurise=featurise)
    return ExtractionPipeline(model, reader, settings.batch_size, device, workers, torch_threads, settings.precision)


def choose_device(device: Device) -> Literal["cpu", "cuda"]:
    """auto: a GPU where there is one. Raises ValueError for a GPU that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda': PyTorch sees no GPU here; use --device cpu or auto")
    return device


class BatchEncoder:
    """Pairs through the model in batches that may span clips."""

    def __init__(self, model: LatentActionModel, batch_size: int, precision: Precision = "float32") -> None:
        self._model, self._batch_size, self._precision = model, batch_size, precision
        self._device = next(model.parameters()).device
        self._waiting: list[PairBatch] = []
        self._results: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, pairs: PairBatch) -> None:
        """Runs as many full batches as the pairs given so far make."""
        self._waiting.append(pairs.of_model())
        while sum(len(batch) for batch in self._waiting) >= self._batch_size:
            self._run(self._batch_size)

    def finish(self) -> dict[str, NDArray[Any]]:
        """Runs what is left; latent, quantized float32 [N, D] and codes int32 [N, C] of all pairs since the last time,
        in the order they were added."""
        if self._waiting:
            self._run(sum(len(batch) for batch in self._waiting))
        results, self._results = self._results, []
        names = ("codes", "latent", "quantized")
        types = (np.int32, np.float32, np.float32)
        if not results:
            return {name: np.zeros((0, 0), dtype) for name, dtype in zip(names, types, strict=True)}
        columns = [torch.cat(column).cpu().numpy() for column in zip(*results, strict=True)]
        return {name: column.astype(dtype) for name, column, dtype in zip(names, columns, types, strict=True)}

    @torch.inference_mode()
    def _run(self, count: int) -> None:
        taken: list[PairBatch] = []
        while count:
            pairs = self._waiting.pop(0)
            if len(pairs) > count:
                self._waiting.insert(0, pairs.take(slice(count, None)))
                pairs = pairs.take(slice(0, count))
            taken.append(pairs)
            count -= len(pairs)
        batch = PairBatch.cat(taken)
        if self._device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self._device).floats(contiguous=False)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            try:
                encoding = self._model.encode(batch)
            except RuntimeError as error:
                from torch._dynamo.exc import TorchDynamoException  # its import takes seconds

                if not isinstance(error, TorchDynamoException):
                    raise
                raise ValueError(not_compiled("compile", error)) from error
        codes = encoding.latent.new_zeros(len(batch), 0) if encoding.codes is None else encoding.codes
        # they stay on the device until the part is whole: the model need not wait for a copy
        self._results.append((codes.flatten(1), encoding.latent.flatten(1), encoding.quantized.flatten(1)))
