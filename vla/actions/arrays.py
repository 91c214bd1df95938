"""What an action space is fitted on, and the arrays that it takes: numpy's or torch's, of shapes that are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.parts import ActionPart
from vla.actions.chunks import represent, represented_steps

Array = Any
"""A numpy array, or a torch tensor on any device; answers are numpy."""


@dataclass(frozen=True)
class SpaceData:
    """What a space is fitted on: M chunks and their states, N frames."""

    start: NDArray[Any] | None
    """[M, Ds]."""
    chunk: NDArray[Any]
    """[M, H, Da]."""
    known: NDArray[np.bool_]
    """[M, H]."""
    seen: NDArray[Any]
    """[N, Ds]; Ds is 0 where there are no states."""
    rows: NDArray[Any]
    """[N, Da]."""

    @classmethod
    def of(
        cls, states: Array | None, chunks: Array, mask: Array | None, frames: tuple[Array | None, Array] | None
    ) -> SpaceData:
        """Raises ValueError for shapes that do not fit each other."""
        start, chunk = None if states is None else as_numpy(states), as_numpy(chunks)
        expect("chunks of actions", chunk, (None, None, None))
        known = np.ones(chunk.shape[:2], np.bool_) if mask is None else as_numpy(mask).astype(np.bool_)
        expect("mask of chunks", known, chunk.shape[:2])
        seen, rows = (start, chunk[known]) if frames is None else (frames[0], as_numpy(frames[1]))
        alone = seen is None  # rows of which no state is known, beside chunks of which one is
        seen = np.zeros((len(rows), 0)) if alone else as_numpy(seen)
        state_dim = seen.shape[-1] if start is None else start.shape[-1]
        expect("states", seen, (None, 0 if alone else state_dim))
        expect("actions", rows, (None, chunk.shape[2]))
        if start is not None:
            expect("states of chunks", start, (chunk.shape[0], state_dim))
        return cls(start, chunk, known, seen, rows)

    def represented(self, parts: Sequence[ActionPart], part: ActionPart) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """One part [.., H, width] and which steps are known: of chunks where it is motion or per step, else of frames."""
        if part.needs_state or part.per_step:
            return represent(parts, part, self.start, self.chunk), represented_steps(part, self.known)
        return represent(parts, part, None, self.rows[:, None]), np.ones((len(self.rows), 1), np.bool_)


def as_numpy(values: Array) -> NDArray[Any]:
    if hasattr(values, "detach"):  # a torch tensor; numpy knows neither its gradients, nor its devices, nor bfloat16
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
        return np.asarray(values.numpy())
    return np.asarray(values)


def expect(what: str, values: NDArray[Any], shape: tuple[Any, ...]) -> None:
    """Raises ValueError unless `values` has this shape; None stands for any size, a leading ... for any axes."""
    wanted = shape[1:] if shape[:1] == (...,) else shape
    enough = values.ndim >= len(wanted) if wanted is not shape else values.ndim == len(wanted)
    sizes = values.shape[values.ndim - len(wanted) :] if enough else ()
    if not enough or any(want not in (None, size) for want, size in zip(wanted, sizes, strict=True)):
        written = ", ".join("..." if size is ... else "any" if size is None else str(size) for size in shape)
        raise ValueError(f"{what} of shape {list(values.shape)}: [{written}] is wanted")


def expect_numbers(encoded: NDArray[np.float64], names: Sequence[str], remedy: str) -> None:
    finite = np.isfinite(encoded)
    if not finite.all():
        wrong = np.flatnonzero(np.logical_not(finite.reshape(-1, encoded.shape[-1]).all(0)))
        named = [names[int(i)] for i in wrong]
        raise ValueError(f"NaN, infinite numbers or no rotation, in {', '.join(named)}: {remedy}")
