"""Training of an inverse dynamics model on a robot's episodes, and its held-out error beside baselines.

What a step sees is a function of (seed, step) alone, so a resumed training goes on as if it had not been interrupted.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corpora.mixture.datasets import EpisodeSamples
from corpora.mixture.order import MixtureOrder
from jobs.evaluation.open_loop import BASELINES, Baselines, Chunks, compare, matching_state_dims
from vla.models.inverse_dynamics import InverseDynamics

log = logging.getLogger(__name__)

CHECKPOINT = "training.pt"
_WARM_UP = 0.05
_EVALUATED = 4096
"""Most held-out pairs that errors are measured on, and most training chunks behind the baselines."""

Progress = Callable[[str], AbstractContextManager[Callable[[float, str], None] | None]]
"""Title -> what is told (share done, text)."""


@dataclass(frozen=True)
class InverseDynamicsTraining:
    """How long and how."""

    steps: int = 0
    """Optimiser steps; 0: as many as `minutes` allow."""
    minutes: float = 5.0
    """Wall-clock budget, resumed sessions counted together; 0: no limit but `steps`."""
    batch_size: int = 64
    """Pairs of pictures a step."""
    lr: float = 1e-3
    """Peak learning rate (AdamW): linear warm-up over 5% of the budget, then cosine to 2%."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    save_every_s: float = 30.0
    """Seconds between checkpoints, which are what a kill can cost."""

    def __post_init__(self) -> None:
        if self.steps <= 0 and self.minutes <= 0:
            raise ValueError("no budget: give --steps or --minutes")
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size}: at least 1")


def pictures(member: EpisodeSamples, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Present and future uint8 [B, 3, S, S] of the first camera, for samples that have a future."""
    samples = [member[int(index)] for index in chosen]
    present = np.stack([sample.pictures[0, -1] for sample in samples])
    future = np.stack([sample.future[0] for sample in samples])  # type: ignore[index]
    return to_tensor(present), to_tensor(future)


def to_tensor(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 [B, S, S, 3] -> [B, 3, S, S]."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))


def train_model(
    model: InverseDynamics,
    member: EpisodeSamples,
    train: NDArray[np.int64],
    training: InverseDynamicsTraining,
    folder: Path,
    *,
    seed: int,
    tell: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Trains on the samples `train` (all with a future), from the folder's checkpoint where there is one; what it took."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    step, before_s = _resume(folder / CHECKPOINT, model, optimiser)
    began = saved = time.monotonic()
    order = MixtureOrder([len(train)], [1.0], batch_size=training.batch_size, seed=seed, names=[member.spec.name])
    codec, loss = model.facts.action_space, math.nan
    model.train()
    while True:
        now = time.monotonic()
        elapsed_s = before_s + now - began
        done = _share(training, step, elapsed_s)
        if done >= 1 or now - saved > training.save_every_s:
            _save(folder / CHECKPOINT, model, optimiser, step, elapsed_s)
            saved = now
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = training.lr * _schedule(done)
        chosen = train[[index for _, index in order.batch(step)]]
        numbers = member.numbers(chosen.tolist())
        present, future = pictures(member, chosen.tolist())
        encoded = torch.from_numpy(codec.encode_action(None, numbers.chunks, numbers.mask)).to(model.device)
        torch.manual_seed((seed << 32) + step)  # crops and light are drawn by the model
        value = model.loss(
            present.to(model.device), future.to(model.device), encoded, torch.from_numpy(numbers.mask).to(model.device)
        )
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if tell is not None and step % 10 == 0:
            loss = float(value.detach())
            tell(done, f"step {step} loss {loss:.4f}")
    model.eval()
    return {
        "steps": step,
        "minutes": round(elapsed_s / 60, 3),
        "pairs": len(train),
        "epochs": round(step * training.batch_size / len(train), 2),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def held_out_error(
    model: InverseDynamics, member: EpisodeSamples, train: NDArray[np.int64], held: NDArray[np.int64], seed: int
) -> dict[str, Any]:
    """Squared error on the held-out pairs, in units of the training actions' variance, of the model and of baselines that
    see no picture, with intervals over episodes; empty where nothing is held out."""
    if not len(held):
        return {}
    behind, shown = _chunks(member, _some(train)), _chunks(member, _some(held))
    spec = model.facts.action_space
    baselines = Baselines(behind, matching_state_dims(spec.state_names, spec.action_names))
    predicted = {"model": np.concatenate([_predict(model, member, part) for part in _batches(_some(held))])}
    predicted |= {name: found.astype(np.float32) for name, found in baselines.predict(shown).items()}
    result = compare(predicted, shown, baselines.std, spec.action_names, seed=seed)
    return {
        "pairs": result.samples,
        "episodes": result.episodes,
        "normalised_squared_error": {name: found.to_json() for name, found in result.overall.items()},
        "model_over_baseline": {name: found.to_json() for name, found in result.ratio.items()},
        "titles": {"model": "inverse dynamics", **BASELINES},
    }


def _share(training: InverseDynamicsTraining, step: int, elapsed_s: float) -> float:
    shares = [step / training.steps] if training.steps else []
    shares += [elapsed_s / (60 * training.minutes)] if training.minutes else []
    return min(1.0, max(shares))


def _schedule(done: float) -> float:
    warm = min(1.0, (done + 1e-3) / _WARM_UP)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _resume(path: Path, model: InverseDynamics, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    """(steps, seconds) that are done."""
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True, map_location=model.device)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), float(state["elapsed_s"])


def _save(path: Path, model: InverseDynamics, optimiser: torch.optim.Optimizer, step: int, elapsed_s: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "elapsed_s": elapsed_s}
    torch.save(state, temporary)
    os.replace(temporary, path)


def _some(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    return indices[np.linspace(0, len(indices) - 1, min(len(indices), _EVALUATED)).astype(int)]


def _batches(indices: NDArray[np.int64], size: int = 128) -> list[NDArray[np.int64]]:
    return [indices[first : first + size] for first in range(0, len(indices), size)]


def _predict(model: InverseDynamics, member: EpisodeSamples, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    return model.predict(*pictures(member, chosen.tolist()))


def _chunks(member: EpisodeSamples, chosen: NDArray[np.int64]) -> Chunks:
    found = member.numbers(chosen.tolist())
    rows = member.rows[chosen]
    starts = np.asarray([episode.start for episode in member.episodes.episodes])
    number = np.searchsorted(starts, rows, side="right") - 1
    assert member.episodes.action is not None
    before = member.episodes.action[np.maximum(rows - 1, 0)]
    last = np.where((rows > starts[number])[:, None], before, np.float32(np.nan))
    return Chunks(found.states, last, found.chunks, found.mask, number, member.episodes.t_s[rows])
