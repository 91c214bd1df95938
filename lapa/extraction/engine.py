"""From prepared clips to rows: batches of pairs through the model, and the parts they are written to."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lapa.latents import LatentKey, PairColumns, Part, PartSummary, write_part
from lapa.model.lam import LatentActionModel
from lapa.pairs.reader import Fed, PreparedClip

Featurise = Callable[[NDArray[np.uint8]], Tensor | NDArray[np.float16]]
"""uint8 frames [F, S, S, 3] -> features [F, N, D] of the frozen model of a feature target."""


class PairRunner:
    """Pairs through the model in batches that may span clips; a clip's frames are uploaded once."""

    def __init__(self, model: LatentActionModel, batch_size: int, featurise: Featurise | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: must be at least 1; try 64")
        if featurise is None and not model.config.pixels:
            raise ValueError(f"target '{model.config.target}' needs the features of its frozen model; none were given")
        self._model, self._batch_size, self._featurise = model, batch_size, featurise
        self._device = next(model.parameters()).device
        self._waiting: list[_Pairs] = []
        self._count = 0
        self._results: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def add(self, clip: PreparedClip) -> None:
        """Runs as many full batches as the pairs given so far make."""
        pairs = self._upload(clip)
        self._waiting.append(pairs)
        self._count += len(pairs.first)
        while self._count >= self._batch_size:
            self._run(self._batch_size)

    def finish(self) -> dict[str, NDArray[np.generic]]:
        """Runs what is left; latent, quantized float32 [N, D] and codes int32 [N, C] of all pairs since the last time,
        in the order they were added."""
        if self._count:
            self._run(self._count)
        results, self._results = self._results, []
        latent = [latent.flatten(1).float().cpu().numpy() for latent, _, _ in results]
        quantized = [quantized.flatten(1).float().cpu().numpy() for _, quantized, _ in results]
        codes = [
            np.zeros((len(latent), 0), np.int32) if codes is None else codes.flatten(1).cpu().numpy().astype(np.int32)
            for latent, _, codes in results
        ]
        return {
            "latent": _stack(latent, np.float32),
            "quantized": _stack(quantized, np.float32),
            "codes": _stack(codes, np.int32),
        }

    def _upload(self, clip: PreparedClip) -> _Pairs:
        if self._featurise is not None:
            features = torch.as_tensor(self._featurise(clip.frames)).to(self._device).float()
            return _Pairs(features, torch.from_numpy(clip.first), torch.from_numpy(clip.second))
        frames = torch.from_numpy(clip.frames).to(self._device)
        stable = None if clip.stable is None else torch.from_numpy(clip.stable).to(self._device)
        valid = None if clip.valid is None else torch.from_numpy(clip.valid).to(self._device)
        flow = None if clip.flow is None else torch.from_numpy(clip.flow).to(self._device)
        return _Pairs(frames, torch.from_numpy(clip.first), torch.from_numpy(clip.second), stable, valid, flow)

    @torch.inference_mode()
    def _run(self, count: int) -> None:
        taken: list[_Pairs] = []
        self._count -= count
        while count:
            pairs = self._waiting.pop(0)
            if len(pairs.first) > count:
                self._waiting.insert(0, pairs.part(count, None))
                pairs = pairs.part(0, count)
            taken.append(pairs)
            count -= len(pairs.first)
        first = torch.cat([pairs.firsts() for pairs in taken])
        second = torch.cat([pairs.seconds() for pairs in taken])
        valid = torch.cat([pairs.valids() for pairs in taken]) if any(p.valid is not None for p in taken) else None
        flow = (
            torch.cat([pairs.flow for pairs in taken if pairs.flow is not None]) if taken[0].flow is not None else None
        )
        encoding = self._model.encode(first, second, valid, flow=flow)
        self._results.append((encoding.latent, encoding.quantized, encoding.codes))


@dataclass(frozen=True)
class _Pairs:
    """Pairs of one clip on the model's device."""

    frames: Tensor
    """uint8 [F, S, S, 3], or features float32 [F, N, D]."""
    first: Tensor
    second: Tensor
    stable: Tensor | None = None
    valid: Tensor | None = None
    flow: Tensor | None = None

    def part(self, start: int, stop: int | None) -> _Pairs:
        cut = slice(start, stop)
        stable, valid, flow = (None if x is None else x[cut] for x in (self.stable, self.valid, self.flow))
        return _Pairs(self.frames, self.first[cut], self.second[cut], stable, valid, flow)

    def firsts(self) -> Tensor:
        frames = self.frames[self.first.to(self.frames.device)] if self.stable is None else self.stable[:, 0]
        return _inputs(frames)

    def seconds(self) -> Tensor:
        frames = self.frames[self.second.to(self.frames.device)] if self.stable is None else self.stable[:, 1]
        return _inputs(frames)

    def valids(self) -> Tensor:
        """float32 [P, 1, S, S]."""
        if self.valid is not None:
            return self.valid[:, None].float()
        return torch.ones((len(self.first), 1, *self.frames.shape[1:3]), device=self.frames.device)


def extract_parts(fed: Iterable[Fed], runner: PairRunner, key: LatentKey, out: Path) -> Iterator[PartSummary | int]:
    """Writes the parts that `fed` yields, each as soon as it is whole.

    Yields the number of pairs of each clip as it passes (0 where it was skipped), and the summary of each part written.
    """
    part: Part | None = None
    columns: list[PairColumns] = []
    skipped: list[dict[str, str]] = []
    for current, item in fed:
        if part is not None and current.index != part.index:
            yield write_part(out, part, key, columns, runner.finish(), skipped)
            columns, skipped = [], []
        part = current
        if isinstance(item, PreparedClip):
            columns.append(item.columns)
            runner.add(item)
            yield len(item.columns)
        else:
            skipped.append(item.to_json())
            yield 0
    if part is not None:
        yield write_part(out, part, key, columns, runner.finish(), skipped)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in megabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _inputs(x: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] -> float32 [B, 3, S, S] in [0, 1]; features as they are."""
    return x.permute(0, 3, 1, 2).float() / 255 if x.dtype == torch.uint8 else x


def _stack(arrays: Sequence[NDArray[np.generic]], dtype: type) -> NDArray[np.generic]:
    return np.concatenate(arrays) if arrays else np.zeros((0, 0), dtype)
