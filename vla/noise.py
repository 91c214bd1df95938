"""The noise that an action chunk is sampled from: by what it is for, so that nothing else that runs can change it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseKey:
    """Whose chunk it is, and which: equal keys draw equal noise, in whatever batch, process or resumed job."""

    seed: int = 0
    stream: tuple[str | int, ...] = ()
    """Whose chunks these are: of an evaluation (task, start, instruction), of a server the client."""
    chunk: int = 0
    """How many chunks of the stream went before."""

    def next(self) -> NoiseKey:
        """Of the stream's next chunk."""
        return replace(self, chunk=self.chunk + 1)

    def draw(self, *shape: int) -> Tensor:
        """Standard normal float32 of this shape, the same at every call."""
        digest = hashlib.blake2b(json.dumps([self.seed, *self.stream, self.chunk]).encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))
        return torch.randn(shape, generator=generator)


def drawn(keys: Sequence[NoiseKey] | None, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 [B, ...], row by row of B keys; without keys of torch's own generator. Raises ValueError for
    another number of keys."""
    if keys is None:
        return torch.randn(shape)
    if len(keys) != shape[0]:
        raise ValueError(f"{len(keys)} noise keys for {shape[0]} samples: give one for each")
    return torch.stack([key.draw(*shape[1:]) for key in keys])
