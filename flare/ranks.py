"""What makes a batch that several processes share the one that a single process would see: counts and moments over all of it,
and random numbers by the place of a sample in it.

Sample b of rank r is sample b * ranks + r of the whole batch. Alone, and outside of `whole_batch`, all this is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_step: tuple[int, dict[torch.device, torch.Generator]] | None = None
"""Seed of the batch, and on each device what draws by it, alike on every rank."""


def size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if size() > 1 else 0


@contextmanager
def whole_batch(seed: int, number: int) -> Iterator[None]:
    """Within, random numbers are those of this process' rows of batch `number`, which it and the run's `seed` alone decide; but
    for what is drawn by torch's own generators (dropout), which each rank seeds otherwise."""
    global _step
    step = (seed * 1_000_003 + number) * 4096
    torch.manual_seed(step + rank())
    _step = step, {}
    try:
        yield
    finally:
        _step = None


def normal(rows: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal [rows, ...], for the `rows` samples of this process."""
    return _of_rows(torch.randn, rows, shape, device)


def uniform(rows: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """In [0, 1) [rows, ...], for the `rows` samples of this process."""
    return _of_rows(torch.rand, rows, shape, device)


def whole(below: int, rows: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """int64 from 0 to `below` - 1 [rows, ...], for the `rows` samples of this process."""
    return _of_rows(lambda size, **options: torch.randint(below, size, **options), rows, shape, device)


def gamma(alpha: float, rows: int, *shape: int) -> Tensor:
    """Of the gamma distribution with shape `alpha` [rows, ...], for the `rows` samples of this process."""

    def draw(size: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
        return torch._standard_gamma(torch.full(size, alpha, device=device), generator=generator)

    return _of_rows(draw, rows, shape, "cpu")


def _of_rows(draw: Callable[..., Tensor], rows: int, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    if _step is None:
        return draw((rows, *shape), generator=None, device=torch.device(device))
    drawn = draw((rows * size(), *shape), generator=generator(device), device=torch.device(device))
    return drawn[rank() :: size()]


def generator(device: torch.device | str) -> torch.Generator | None:
    """What all ranks draw the same from, on this device; None: torch's own."""
    if _step is None:
        return None
    seed, made = _step
    device = torch.device(device)
    if device not in made:
        made[device] = torch.Generator(device).manual_seed(seed)
    return made[device]


@torch.no_grad()
def sum_over_ranks(value: Tensor) -> Tensor:
    if size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(value: Tensor) -> Tensor:
    return sum_over_ranks(value) / size()


def counted(here: Tensor) -> Tensor:
    """What a sum over this process' samples is divided by, of which `here` count (a scalar), so that the mean over ranks, which
    gradients are, is the mean over the whole batch: however many count on which rank."""
    return sum_over_ranks(here).clamp_min(1) / size()


@torch.no_grad()
def moments(x: Tensor, *, correction: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the rows [B, ...] of all ranks, each of which has as many; `correction` as torch's."""
    if size() == 1:
        return x.mean(0), x.std(0, correction=correction)
    here, rows = x.mean(0), len(x) * size()
    mean = mean_over_ranks(here)
    variance = mean_over_ranks(x.var(0, correction=0) + (here - mean).square())
    return mean, (variance * rows / max(1, rows - correction)).sqrt()


@torch.no_grad()
def rows_of_all(x: Tensor) -> Tensor:
    """[B, ...] -> [B ranks, ...], the whole batch in its order."""
    if size() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts, 1).flatten(0, 1)
