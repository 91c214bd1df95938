"""Training of an inverse dynamics model on a robot's episodes, and its held-out error beside baselines.

What a step sees is a function of (seed, step) alone, so a resumed training goes on as if it had not been interrupted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from corpora.clips.frames import ClipFrames
from corpora.mixture.episode_samples import EpisodeSamples
from corpora.mixture.order import MixtureOrder
from corpora.mixture.pseudo_actions import BY_IMAGES, ClipLabels
from corpora.training_config import Training
from corpora.video.nearest import rows_later
from jobs.evaluation.open_loop import BASELINES, Baselines, Chunks, compare
from jobs.training.trainer import fit
from vla.actions.rest import held_by, matching_state_dims
from vla.actions.space import ActionSpace
from vla.embodiment import Embodiment
from vla.models.inverse_dynamics import InverseDynamics
from vla.training import schedule

_WARM_UP = 0.05
_AT_ONCE = 128
"""Pairs that go through the model together."""
_EVALUATED = 4096
"""Most held-out pairs that errors are measured on, and most training chunks behind the baselines."""


@dataclass(frozen=True)
class InverseDynamicsTraining(Training):
    """How long and how: the rate warms up over 5% of the steps, and falls by a cosine to 2%."""

    steps: int = 2000
    val_every_steps: int = 200


class TrainInverseDynamics(lightning.LightningModule):
    """The model's own loss, the schedule, and draws that depend on (seed, step) alone."""

    def __init__(self, model: InverseDynamics, training: InverseDynamicsTraining, *, seed: int) -> None:
        super().__init__()
        self.model, self.training_config, self.seed = model, training, seed

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # crops and light are drawn by the model
        torch.manual_seed((self.seed << 32) + int(self.trainer.fit_loop.total_batch_idx))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        loss = self.model.loss(batch["present"], batch["future"], batch["action"], batch["mask"])
        self.log("train/loss", loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        training = self.training_config
        return torch.optim.AdamW(self.model.parameters(), lr=training.lr, weight_decay=training.weight_decay)

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step number `step`."""
        return self.training_config.lr * schedule(min(1.0, step / self.training_config.steps), _WARM_UP)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.rate(self.global_step)


class PairBatches(IterableDataset[dict[str, Tensor]]):
    """Batches number `start`, `start` + 1, ... of a robot's samples `chosen`, without end: what is seen before and after a
    chunk, and the chunk as the model has it."""

    def __init__(
        self, samples: EpisodeSamples, chosen: NDArray[np.int64], space: ActionSpace, *, batch_size: int, seed: int
    ) -> None:
        self.samples, self.chosen, self.space, self.start = samples, chosen, space, 0
        self.order = MixtureOrder([len(chosen)], [1.0], batch_size=batch_size, seed=seed, names=[samples.spec.name])

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for number in itertools.count(self.start):
            indices = self.chosen[[index for _, index in self.order.batch(number)]].tolist()
            numbers = self.samples.numbers(indices)
            present, future = images(self.samples, indices)
            encoded = self.space.encode_action(None, numbers.chunks, numbers.mask)
            mask = torch.from_numpy(numbers.mask)
            yield {"present": present, "future": future, "action": torch.from_numpy(encoded), "mask": mask}


def images(samples: EpisodeSamples, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Present and future uint8 [B, 3, S, S] of the first camera, for samples that have a future."""
    read = [samples[int(index)] for index in chosen]
    present = np.stack([sample.images[0, -1] for sample in read])
    future = np.stack([sample.future[0] for sample in read])  # type: ignore[index]
    return to_tensor(present), to_tensor(future)


def to_tensor(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 [B, S, S, 3] -> [B, 3, S, S]."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))


def train_model(
    model: InverseDynamics,
    samples: EpisodeSamples,
    train: NDArray[np.int64],
    training: InverseDynamicsTraining,
    folder: Path,
    *,
    seed: int,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains on the samples `train` (all with a future), from the folder's checkpoint where there is one; what it took."""
    batches = PairBatches(samples, train, model.facts.action_space, batch_size=training.batch_size, seed=seed)

    def loader(start: int) -> DataLoader[Any]:
        batches.start = start
        return DataLoader(batches, batch_size=None, pin_memory=torch.cuda.is_available())

    device = model.device
    module = TrainInverseDynamics(model, training, seed=seed).train()
    took = fit(module, loader, None, training, folder, rate=module.rate, unit="pairs", key="present", quiet=quiet)
    model.to(device).eval()  # Lightning leaves it on the CPU
    return {
        "steps": took.steps,
        "minutes": took.minutes,
        "pairs": len(train),
        "epochs": round(took.steps * training.batch_size / len(train), 2),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def held_out_error(
    model: InverseDynamics, samples: EpisodeSamples, train: NDArray[np.int64], held: NDArray[np.int64], seed: int
) -> dict[str, Any]:
    """Squared error on the held-out pairs, in units of the training actions' variance, of the model and of baselines that
    see no image, with intervals over episodes; empty where nothing is held out."""
    if not len(held):
        return {}
    behind, shown = _chunks(samples, _some(train)), _chunks(samples, _some(held))
    spec = model.facts.action_space
    same = matching_state_dims(spec.state_names, spec.action_names, held_by(spec.parts, spec.state_names))
    baselines = Baselines(behind, same, spec)
    predicted = {"model": np.concatenate([_predict(model, samples, part) for part in _batches(_some(held))])}
    predicted |= {name: found.astype(np.float32) for name, found in baselines.predict(shown).items()}
    result = compare(predicted, shown, baselines.std, spec.action_names, seed=seed)
    return {
        "pairs": result.samples,
        "episodes": result.episodes,
        "normalised_squared_error": {name: found.to_json() for name, found in result.overall.items()},
        "model_over_baseline": {name: found.to_json() for name, found in result.ratio.items()},
        "titles": {"model": "inverse dynamics", **BASELINES},
    }


def _some(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    return indices[np.linspace(0, len(indices) - 1, min(len(indices), _EVALUATED)).astype(int)]


def _batches(indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.split(indices, range(_AT_ONCE, len(indices), _AT_ONCE))


def _predict(model: InverseDynamics, samples: EpisodeSamples, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    return model.predict(*images(samples, chosen.tolist()))


def _chunks(samples: EpisodeSamples, chosen: NDArray[np.int64]) -> Chunks:
    found = samples.numbers(chosen.tolist())
    rows = samples.rows[chosen]
    starts = np.asarray([episode.start for episode in samples.episodes.episodes])
    number = np.searchsorted(starts, rows, side="right") - 1
    assert samples.episodes.action is not None
    before = samples.episodes.action[np.maximum(rows - 1, 0)]
    last = np.where((rows > starts[number])[:, None], before, np.float32(np.nan))
    moved = None if found.states is None else samples.moved(rows)
    return Chunks(found.states, last, found.chunks, found.mask, number, samples.episodes.t_s[rows], moved)


class ImageLabeller:
    """Labels the frames of clips that have another a horizon later."""

    kind: ClassVar[str] = BY_IMAGES
    unknown: tuple[str, ...] = ()

    def __init__(self, model: InverseDynamics, clips: ClipFrames, identity: str) -> None:
        self.model, self.clips, self.identity = model, clips, identity
        self._place = {row.clip_id: run for run, row in enumerate(clips.rows)}

    @property
    def facts(self) -> Embodiment:
        return self.model.facts

    def chunks(self, clip_id: str) -> ClipLabels | None:
        """Of one clip; None where no frame has another a horizon later."""
        table, run = self.clips.table, self._place[clip_id]
        start, stop = int(self.clips.starts[run]), int(self.clips.starts[run + 1])
        t_s, valid = self.clips.t_s[start:stop], table.valid[start:stop, 0]
        later, near = rows_later(t_s, self.model.config.horizon * self.facts.step_s)
        frames = np.flatnonzero(near & valid & valid[later])
        if not len(frames):
            return None
        shown = table.images[start:stop, 0]
        chunks = [
            self.model.predict(to_tensor(shown[some]), to_tensor(shown[later[some]])) for some in _batches(frames)
        ]
        return ClipLabels(clip_id, t_s[frames], np.concatenate(chunks))
