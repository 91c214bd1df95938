"""Work of an ablation side by side: in processes of this machine, each with its share of the cores, or of a cluster's."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")


def share_of_cores(parallel: int) -> int:
    """Of this machine, for each of so many processes."""
    return max(1, (os.cpu_count() or 1) // parallel)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """At most so many threads of torch; as before afterwards, since the process may be the caller's own."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Cluster(Generic[Item, Found]):
    """Ray's, whose machines share a folder."""

    out: Path
    """The folder."""
    lost: Callable[[Item, str], Found]
    """What becomes of an item that ends every process it is given to, as the text says."""

    def work(
        self, function: Callable[[Item], Found], items: Sequence[Item], parallel: int
    ) -> Iterator[tuple[int, Found]]:
        from corpora.cluster import joined, machines, shared, work_through

        cores = share_of_cores(parallel)
        with joined(parallel * cores), shared(self.out) as folders:
            found = work_through(
                functools.partial(_numbered, function),
                enumerate(items),
                folders,
                lost=lambda item, reason: self.lost(item[1], reason),
                cores=max(1, min(cores, max(has for has, _ in machines()))),
                fresh=True,
            )
            yield from ((number, each) for (number, _), each in found)


def _numbered(function: Callable[[Item], Found]) -> Callable[[tuple[int, Item]], Found]:
    return lambda item: function(item[1])


def side_by_side(
    function: Callable[[Item], Found],
    items: Sequence[Item],
    parallel: int,
    cluster: Cluster[Item, Found] | None = None,
) -> Iterator[tuple[int, Found]]:
    """The number of each item and what `function` makes of it, as they end; in this process where `parallel` is 1. Raises
    OSError where a process is killed. `cluster`: there, each has as many cores as here."""
    if cluster is not None:
        yield from cluster.work(function, items, parallel)
        return
    if parallel == 1:
        yield from ((number, function(item)) for number, item in enumerate(items))
        return
    context = multiprocessing.get_context("spawn")  # the simulator's GL does not survive a fork
    with ProcessPoolExecutor(parallel, mp_context=context, max_tasks_per_child=1) as pool:
        numbers = {pool.submit(function, item): number for number, item in enumerate(items)}
        for future in as_completed(numbers):
            try:
                found = future.result()
            except BrokenProcessPool as error:
                raise OSError(
                    "a process was killed from outside, for want of memory as a rule; what is finished is kept, and fewer side "
                    "by side (--parallel) want less"
                ) from error
            yield numbers[future], found
